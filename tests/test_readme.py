"""The README's Python examples run, one after the other."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"
LEADERBOARD = README.parent / "docs" / "leaderboard.md"


def test_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    prediction = names["prediction"]
    torch.testing.assert_close(prediction[0], prediction[1], rtol=1e-4, atol=1e-5)
    assert names["features"].shape == (names["batch"].num_nodes, 16)


def table(page: Path, head: str) -> list[list[str]]:
    """The cells of the first table of a page whose header starts so, without the header."""
    lines = page.read_text(encoding="utf-8").splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith(head)) + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[first:])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_results_are_those_of_the_leaderboard():
    """Models, scores, spreads, and in bold who is ahead."""
    known = {}
    for case, kind, ours, score, theirs, their_score, _, ahead, _ in table(LEADERBOARD, "| case | kind"):
        mine = f"{ours.strip('*')} {score}"
        known[case, kind] = [f"**{mine}**" if ahead == "yes" else mine, f"{theirs.strip('*')} {their_score}"]
    rows = table(README, "| case | weight-reading")
    assert len(rows) > 20
    for case, *cells in rows:
        assert cells[:2] == known.get((case, "weight-reading"), ["", ""]), case
        assert cells[2:] == known.get((case, "function-probing"), ["", ""]), case
