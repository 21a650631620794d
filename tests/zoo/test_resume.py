"""A real build in another process, killed half-way: going on gives the very zoo that an undisturbed build gives."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from experiments.zoos import DIGITS_CNN, CNNRanges
from experiments.zoos.chunks import Chunk, build_in_chunks
from graphnfn.chain import mlp_spec
from graphnfn.errors import ZooError
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo

SIZE, CHUNK = 12, 1
RANGES = CNNRanges(steps=(20, 40), batch=16)
BUILD = replace(DIGITS_CNN, ranges=RANGES)
SCRIPT = f"""
import sys
from dataclasses import replace
from experiments.zoos import DIGITS_CNN, CNNRanges
ranges = CNNRanges(steps={RANGES.steps}, batch={RANGES.batch})
replace(DIGITS_CNN, ranges=ranges)(sys.argv[1], {SIZE}, chunk={CHUNK}, progress=False)
"""


def _written(folder: Path) -> dict[str, int]:
    """Finished chunks and when they were written."""
    return {p.name: p.stat().st_mtime_ns for p in folder.with_name("zoo.build").glob("chunk-*")}


def _kill_when_started(folder: Path, chunks: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)])
    deadline = time.monotonic() + 120
    try:
        while len(_written(folder)) < chunks:
            assert process.poll() is None, "the build ended before it could be killed"
            assert time.monotonic() < deadline, "the build did not get going"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_build_goes_on_without_loss_or_repetition(tmp_path: Path) -> None:
    folder = tmp_path / "killed" / "zoo"
    _kill_when_started(folder, 2)
    done = _written(folder)
    assert 2 <= len(done) < SIZE // CHUNK
    assert not folder.exists()
    with pytest.raises(ZooError, match="unfinished build with other seed"):
        BUILD(folder, SIZE, seed=1, chunk=CHUNK, progress=False)
    assert _written(folder) == done
    resumed = BUILD(folder, SIZE, chunk=CHUNK, progress=False)
    whole = BUILD(tmp_path / "whole", SIZE, chunk=SIZE, progress=False)

    assert resumed.table["network"].tolist() == list(range(SIZE))
    pd.testing.assert_frame_equal(resumed.table, whole.table, check_exact=True)
    for name in ("weights.safetensors", "spec.json"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = load_file(folder / "weights.safetensors")["conv0.weight"].flatten(1)
    assert len({tuple(row.tolist()) for row in rows}) == SIZE  # no network twice
    assert [p.name for p in folder.parent.iterdir()] == ["zoo"]


def test_only_missing_chunks_are_made(tmp_path: Path) -> None:
    spec, made = mlp_spec([2, 3, 1], "relu"), []

    def make(numbers: range) -> Chunk:
        if numbers.start == 4 and len(made) < 20:
            raise RuntimeError("power cut")
        made.extend(numbers)
        values = torch.tensor([float(i) for i in numbers])
        weights = {name: values.view(-1, *[1] * len(s)).expand(-1, *s) for name, s in spec.params.items()}
        return Chunk([Stack.pack(spec, weights)], pd.DataFrame({"network": list(numbers)}))

    def build() -> Zoo:
        return build_in_chunks(tmp_path / "zoo", 9, make, chunk=2, about={"builder": "test"}, progress=False)

    with pytest.raises(RuntimeError, match="power cut"):
        build()
    before = set(made)
    assert not (tmp_path / "zoo").exists()
    assert {4, 5}.isdisjoint(before)
    made.extend([-1] * 20)
    zoo = build()
    assert sorted(i for i in made if i >= 0) == list(range(9))  # each once, over both runs
    assert zoo.labels("network").tolist() == list(range(9))
    assert zoo.batch(slice(None)).stacks()[0].blocks[0][:, 0, 0, 0].tolist() == list(range(9))
