"""Every baseline says which symmetries it has: those hold, the others do not."""

from __future__ import annotations

import pytest

import baselines
from experiments import adapters
from experiments.claims import KINDS, SPECS, Kind, draw, symmetry_error
from experiments.subjects import EVERYTHING, adapter_subjects, editors, subjects
from graphnfn.symmetry import act
from graphnfn.testing import assert_same_function, random_graph

HOLDS, FAILS = 1e-10, 1e-6
PREDICTING = {s.name: s for s in subjects()}
ADAPTERS = {s.name: s for s in adapter_subjects()}
EDITING = {s.name: s for s in editors()}


def test_nobody_is_left_out() -> None:
    assert set(baselines.names()) < {*PREDICTING, *ADAPTERS} and set(baselines.editor_names()) < set(EDITING)
    assert set(baselines.adapter_names()) < set(ADAPTERS)
    assert all(s.claimed <= set(adapters.CONTAINED) for s in ADAPTERS.values())
    assert all(s.claimed <= EVERYTHING for s in (*PREDICTING.values(), *EDITING.values()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PREDICTING)
def test_predictions(name: str, kind: Kind) -> None:
    subject = PREDICTING[name]
    error = symmetry_error(lambda spec: subject.probe([spec]), kind, networks=2, draws=1)
    assert error is not None
    assert error < HOLDS if kind in subject.claimed else error > FAILS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EDITING)
def test_edits(name: str, kind: Kind) -> None:
    subject = EDITING[name]
    error = symmetry_error(lambda spec: subject.probe([spec]), kind, networks=2, draws=1)
    assert error is not None
    assert error < HOLDS if kind in subject.claimed else error > FAILS


@pytest.mark.parametrize("kind", adapters.KINDS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(name: str, kind: adapters.Kind) -> None:
    subject = ADAPTERS[name]
    error = adapters.symmetry_error(subject, kind, networks=2, draws=1)
    assert error < HOLDS if kind in adapters.covered(subject) else error > FAILS


@pytest.mark.parametrize("kind", KINDS)
def test_elements_of_one_kind(kind: Kind) -> None:
    for spec in SPECS[kind]:
        actions = draw(spec, kind, seed=0).actions.values()
        moved = {
            "permutation": any((a.perm.diff() != 1).any() for a in actions),
            "scale": any((a.scale != 1).any() for a in actions),
            "sign": any((a.sign != 1).any() for a in actions),
        }
        assert [k for k, there in moved.items() if there] == [kind]
        if spec.input_shape is not None:
            graph = random_graph(spec, networks=3)
            assert_same_function(act(draw(spec, kind, seed=0), graph), graph)
