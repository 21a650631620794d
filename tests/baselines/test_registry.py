"""Baselines by name: every one can be built from a spec, or refuses clearly."""

from __future__ import annotations

import pytest

import baselines
from graphnfn.chain import mlp_spec
from graphnfn.graph import NeuralGraph
from graphnfn.testing import random_graph

SPEC = mlp_spec([2, 6, 6, 1], "tanh")


@pytest.mark.parametrize("name", baselines.names())
def test_every_baseline_reads_an_mlp(name: str) -> None:
    model = baselines.build(name, out=2, specs=[SPEC]).double().eval()
    assert model(random_graph(SPEC, networks=3)).shape == (3, 2)


@pytest.mark.parametrize("name", baselines.editor_names())
def test_every_editor_edits_an_mlp(name: str) -> None:
    edited = baselines.build_editor(name, specs=[SPEC]).double().eval()(random_graph(SPEC, networks=3))
    assert isinstance(edited, NeuralGraph) and edited.specs == [SPEC] * 3


def test_bad_names_of_editors_are_refused() -> None:
    with pytest.raises(baselines.BaselineError, match="unknown baseline 'statnn'; known: nfn_hnp"):
        baselines.build_editor("statnn", specs=[SPEC])
    with pytest.raises(baselines.BaselineError, match="no argument out; it takes channels"):
        baselines.build_editor("nfn_hnp", specs=[SPEC], out=3)
    with pytest.raises(baselines.BaselineError, match="got no specs"):
        baselines.build_editor("nfn_hnp", specs=[])
