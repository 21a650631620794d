"""Official codes beside ours: which cases there are, and, where clones are at hand, that they run.

``GRAPHNFN_PEERS=FOLDER pytest tests/experiments/test_peers.py`` with clones as in :mod:`experiments.peers`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

import baselines
from experiments.bench.subjects import SHAPES
from experiments.errors import ExperimentError
from experiments.peers import official, stubs, worker
from experiments.peers.cases import CASES
from experiments.peers.times import pairs

PEERS = os.environ.get("GRAPHNFN_PEERS", "")
DATA = """
from torch import nn
class INR_Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.seq = nn.ModuleList([nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 1)])
    def forward(self, x): return self.seq[2](self.seq[1](self.seq[0](x).sin()).sin())
class Generic_CNN_Network(INR_Network):
    def __init__(self, *args, **settings): super().__init__()
    def load_weights(self, weights, biases): pass
"""
MODEL = """
import torch
from torch import nn
class ProbeGen(nn.Module):
    def __init__(self, n_tokens, d_out, **settings):
        super().__init__()
        self.inputs, self.last = nn.Parameter(torch.randn(n_tokens, 2)), nn.Linear(n_tokens, d_out)
    def forward(self, nets): return self.last(torch.stack([net(self.inputs)[:, 0] for net in nets]))
"""


def test_cases_are_unique_and_ours() -> None:
    assert len({c.name for c in CASES}) == len(CASES)
    for case in CASES:
        presets = baselines.class_of(case.baseline).presets  # type: ignore[attr-defined]
        assert (not case.preset or case.preset in presets) and case.shape in SHAPES and hasattr(official, case.build)


def test_steps_take_turns() -> None:
    order: list[str] = []
    times = worker.in_turns(lambda: order.append("a"), lambda: order.append("b"), seconds=0.0)
    assert order == ["a", "b"] * worker.LEAST and [len(t) for t in times] == [worker.LEAST] * 2


@pytest.mark.slow
def test_a_clone_is_timed_beside_ours(tmp_path: Path) -> None:
    """A made-up clone: timed, its parameters counted; then one that does not run."""
    clone = tmp_path / "ProbeGen"
    clone.mkdir()
    (clone / "data.py").write_text(DATA)
    (clone / "ProbeGen.py").write_text(MODEL)
    lines: list[str] = []
    found = pairs(tmp_path, ["probegen"], lines.append, networks=2, seconds=0.0)
    assert [(p.shape, p.turns, p.official_parameters) for p in found] == [
        (SHAPES["small_cnn"].title, worker.LEAST, 2 * 128 + 129),
        (SHAPES["siren"].title, worker.LEAST, 2 * 128 + 10 * 129),
    ]
    assert all(p.ms > 0 and p.ratio > 0 and p.commit == "" for p in found) and len(lines) == 2
    (clone / "ProbeGen.py").write_text("raise ImportError('no such thing')")
    with pytest.raises(ExperimentError, match=r"default/small_cnn: .* does not run here: (.|\n)*no such thing"):
        pairs(tmp_path, ["probegen"], lines.append, networks=2, seconds=0.0)


def test_folders_without_clones(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="holds none of the clones DWSNets"):
        pairs(tmp_path, [], print)


def test_the_replaced_encoding() -> None:
    torch.manual_seed(0)
    encode, values = stubs.GaussianEncoding(2.0, 3, 5), torch.randn(4, 3)
    angle = 2 * torch.pi * values @ encode.get_buffer("b").T
    got: Tensor = encode(values)
    torch.testing.assert_close(got, torch.cat([torch.cos(angle), torch.sin(angle)], 1))
    assert float(encode.get_buffer("b").std()) == pytest.approx(2.0, rel=0.5)


@pytest.mark.slow
@pytest.mark.skipif(not PEERS, reason="GRAPHNFN_PEERS names no folder of clones")
def test_official_codes_run_with_as_many_parameters() -> None:
    found = pairs(Path(PEERS), [], print, networks=2, seconds=0.0)
    assert found and all(p.ms > 0 and p.official_ms > 0 for p in found)
    for pair in found:
        assert pair.parameters == pair.official_parameters or (
            pair.extra and pair.parameters < pair.official_parameters
        )
