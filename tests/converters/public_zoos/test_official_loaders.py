"""Published loaders read what we export, network by network; needs their clones, so it is skipped without them.

``GRAPHNFN_PEERS=FOLDER pytest tests/converters/public_zoos/test_official_loaders.py`` with clones called nfn
(AllanYangZhou), neural-graphs (mkofinas), scalegmn (jkalogero) and DWSNets (AvivNavon) in the folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from converters.public_zoos import export_zoo, import_zoo
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo

PEERS = os.environ.get("GRAPHNFN_PEERS", "")
WORKER = Path(__file__).with_name("official_worker.py")
CASES = {
    "nfn-cnn": ("nfn", "small-cnn-zoo"), "neural-graphs-cnn": ("neural-graphs", "small-cnn-zoo"),
    "scalegmn-cnn": ("scalegmn", "small-cnn-zoo"), "dwsnets-mnist": ("DWSNets", "dwsnets-mnist"),
    "neural-graphs-mnist": ("neural-graphs", "dwsnets-mnist"), "scalegmn-mnist": ("scalegmn", "dwsnets-mnist"),
    "scalegmn-fmnist": ("scalegmn", "dwsnets-fmnist"), "nfn-siren": ("nfn", "nfn-siren"),
    "scalegmn-siren": ("scalegmn", "nfn-siren"),
}  # fmt: skip
"""Case of the worker -> clone and layout."""


def _stack(spec: NetSpec, count: int) -> Stack:
    return Stack.pack(spec, {name: torch.randn(count, *shape) for name, shape in spec.params.items()})


def _own_zoo(folder: Path, layout: str) -> Zoo:
    if layout == "small-cnn-zoo":
        stacks = [_stack(small_cnn_spec([1, 4, 3], 10, kind, stride=2), n) for kind, n in (("relu", 21), ("tanh", 19))]
        table = pd.DataFrame({"test_accuracy": np.random.default_rng(0).random(40)})
    else:
        stacks, table = (
            [_stack(mlp_spec([2, 6, 5, 1], "sin", omega=30.0), 40)],
            pd.DataFrame({"label": [3, 1, 4, 1] * 10}),
        )
        table["split"] = np.random.default_rng(0).permutation(["train"] * 25 + ["val"] * 5 + ["test"] * 10)
    Zoo.write(folder, stacks, table)
    return Zoo.open(folder)


@pytest.mark.parametrize("case", CASES)
def test_official_loaders_give_what_was_exported(case: str, tmp_path: Path):
    clone, layout = Path(PEERS) / CASES[case][0], CASES[case][1]
    if not PEERS or not clone.is_dir():
        pytest.skip(f"GRAPHNFN_PEERS={PEERS!r} has no clone called {clone.name}")
    zoo, words = _own_zoo(tmp_path / "own", layout), []
    export_zoo(layout, zoo, tmp_path / "out", ["resplit=0"] if layout == "small-cnn-zoo" else [])
    if layout == "small-cnn-zoo":
        words = [f"order={tmp_path / 'out' / 'split.csv'}"]
    if layout == "nfn-siren":
        (tmp_path / "out" / "points").write_text("25 30")
        words = ["split_points=25,30"]
    command = [sys.executable, WORKER, clone, case, tmp_path / "out", tmp_path / "rows.pt"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ours = import_zoo(layout, tmp_path / "out", tmp_path / "again", words)
    got = torch.load(tmp_path / "rows.pt", weights_only=True)
    assert len(got) == len(ours) == 40
    seen = set()
    for split, weights, biases, label in got:
        row = _row_of(ours, weights[0])
        spec = ours.specs[ours.spec_index[row]]
        own = ours.batch([row]).stacks()[0].unpack()
        names = [b.param for b in spec.blocks]
        assert all(torch.equal(own[n][0], w) for n, w in zip(names, weights, strict=True))
        assert all(torch.equal(own[n.replace("weight", "bias")][0], b) for n, b in zip(names, biases, strict=True))
        column = "test_accuracy" if layout == "small-cnn-zoo" else "label"
        assert (ours.table["split"][row], float(ours.table[column][row])) == (split, label)
        seen.add(row)
    assert len(seen) == 40


def _row_of(zoo: Zoo, weight: torch.Tensor) -> int:
    for row in range(len(zoo)):
        stack = zoo.batch([row]).stacks()[0]
        if torch.equal(stack.unpack()[stack.spec.blocks[0].param][0], weight):
            return row
    raise AssertionError("the loader gives a network that the zoo does not have")
