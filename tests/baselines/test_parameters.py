"""Parameter formulas of the baselines whose own tests have none."""

from __future__ import annotations

import pytest

import baselines
from graphnfn.activations import NAMES
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.spec import NetSpec

SPECS = {"mlp": mlp_spec([3, 8, 7, 2], "tanh"), "cnn": small_cnn_spec([3, 4, 5, 6], 2, "relu")}
OUT = 5


def count(name: str, spec: NetSpec, **settings: int) -> int:
    return sum(p.numel() for p in baselines.build(name, out=OUT, specs=[spec], **settings).parameters())


def mlp(features: int, hidden: int) -> int:
    """Two hidden layers."""
    return (features + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * OUT


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("name", ["statnn", "statnet"])
def test_statistics(name: str, kind: str) -> None:
    """Seven statistics of every weight and every bias."""
    assert count(name, SPECS[kind], hidden=16) == mlp(7 * 2 * len(SPECS[kind].blocks), 16)


@pytest.mark.parametrize("name", ["flat_mlp", "flat_mlp_augmented"])
def test_flat(name: str) -> None:
    sizes = {"mlp": 3 * 8 + 8 * 7 + 7 * 2 + 8 + 7 + 2, "cnn": 9 * (3 * 4 + 4 * 5 + 5 * 6) + 6 * 2 + 4 + 5 + 6 + 2}
    for kind, size in sizes.items():
        assert count(name, SPECS[kind], hidden=16) == mlp(size, 16), kind


@pytest.mark.parametrize(("kind", "fields", "taps"), [("mlp", 1, 1), ("cnn", 1, 9)])
def test_gmn(kind: str, fields: int, taps: int) -> None:
    """Encoders, positions, per round two kinds of messages, nodes, edges and norms; the head on three means."""
    d, rounds, spec = 8, 3, SPECS[kind]
    dense = d * d + d
    places = (spec.groups[0].size + spec.groups[-1].size + len(spec.groups) + len(NAMES)) * d
    messages = 3 * dense + (2 * d * d + d)
    nodes, edges = (3 * d * d + d) + dense, dense + d * d + dense + d * d
    head = (3 * d + 1) * 2 * d + (2 * d + 1) * 2 * d + (2 * d + 1) * OUT
    want = (fields + 1) * d + (taps + 1) * d + places + rounds * (2 * messages + nodes + edges + 2 * 2 * d) + head
    assert count("gmn", spec, width=d, rounds=rounds) == want
