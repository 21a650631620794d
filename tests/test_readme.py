"""The README's Python examples run, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    prediction = names["prediction"]
    torch.testing.assert_close(prediction[0], prediction[1], rtol=1e-4, atol=1e-5)
    assert names["features"].shape == (names["batch"].num_nodes, 16)
