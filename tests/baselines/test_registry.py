"""Baselines by name: every one can be built from a spec, or refuses clearly."""

from __future__ import annotations

import pytest

import baselines
from graphnfn.chain import mlp_spec
from graphnfn.graph import NeuralGraph
from graphnfn.testing import random_graph

SPEC = mlp_spec([2, 6, 6, 1], "tanh")


CHAINS = [name for name in baselines.names() if name not in baselines.adapter_names()]


@pytest.mark.parametrize("name", CHAINS)
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
    with pytest.raises(baselines.BaselineError, match="unknown baseline 'other'"):
        baselines.class_of("other")


def test_classes_are_those_that_are_built() -> None:
    assert all(type(baselines.build(n, out=1, specs=[SPEC])) is baselines.class_of(n) for n in ("statnn", "dws"))
    assert type(baselines.build_editor("dws", specs=[SPEC])) is baselines.editor_class_of("dws")
