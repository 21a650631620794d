"""Configurations."""

from __future__ import annotations

import pytest

import baselines
from experiments.config import fingerprint, load, make, plain
from experiments.errors import ExperimentError
from graphnfn.chain import mlp_spec
from graphnfn.models import LAYERS
from graphnfn.testing import random_graph


def test_every_listed_model_exists() -> None:
    assert set(load().compare.models) <= {*LAYERS, *baselines.names()}


@pytest.mark.parametrize("name", list(load().compare.models))
def test_every_model_can_be_built_and_run(name: str) -> None:
    spec = mlp_spec([3, 6, 1], "relu")
    config = load([f"model={name}"])
    assert config.model.name == name and config.model.ours == (name in LAYERS)
    model = make(config.model.build, out=2, specs=(spec,))
    assert model(random_graph(spec, networks=3).map_stacks(lambda s: s.apply(lambda t: t.float()))).shape == (3, 2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=resnet"], "Could not find 'model/resnet'"),
        (["trainer.epoch=3"], "trainer.epoch"),
        (["zoo=folder"], "lacks zoo.folder: give it as zoo.folder=VALUE"),
        (["="], "cannot be composed"),
    ],
)
def test_bad_overrides_are_one_clear_error(overrides: list[str], words: str) -> None:
    with pytest.raises(ExperimentError, match=words):
        load(overrides)


def test_wrong_arguments_are_one_clear_error() -> None:
    config = load(["model=native", "+model.build.depth=3"])
    with pytest.raises(ExperimentError, match="depth"):
        make(config.model.build, out=1, specs=())
    with pytest.raises(ExperimentError, match="at least one epoch"):
        make(load(["trainer.epochs=0"]).trainer)


def test_fingerprints_tell_configurations_apart() -> None:
    one, again, other = (fingerprint(plain(load([f"seed={s}"]))) for s in (0, 0, 1))
    assert one == again != other
