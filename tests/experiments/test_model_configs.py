"""Every model has a configuration that trains."""

from __future__ import annotations

from importlib.resources import files

import pytest
import torch

import baselines
from baselines.nfn import PositionedNPInvariantAsPublished
from experiments.ablations import ABLATIONS
from experiments.cell import train
from experiments.config import load
from experiments.leaderboard import READS
from graphnfn.models import LAYERS

FOLDER = files("experiments") / "conf" / "model"
REFERENCE = "render_then_classify"
NAMES = sorted({p.name.removesuffix(".yaml") for p in FOLDER.iterdir() if p.is_file()} - {REFERENCE})
EDITORS = sorted(p.name.removesuffix(".yaml") for p in (FOLDER / "edit").iterdir())
VARIANTS = ("ng_gnn_probes",)
"""Editors of baselines that run the networks, too."""
WITHOUT = {"no_statistics", "no_balance", "no_functionals", "two_rounds"}
"""Ours with a part switched off, or twice, by its own configuration."""
OTHERWISE = {"nfn_hnp_siren", "scalegmn_bidirectional"}
"""Baselines with other choices than by default."""
NARROW = {"statnet": ["model.build.hidden=32"], "monomial_siren_np": ["model.build.encoding.fourier=8"]}
"""Smaller where the configured model would take seconds."""


def test_every_model_has_a_configuration() -> None:
    chains = {*LAYERS, *WITHOUT, *OTHERWISE, *ABLATIONS, *baselines.names()} - set(
        baselines.adapter_names()
    )  # zoos hold no adapters
    assert set(NAMES) == chains, "every baseline needs a conf/model/NAME.yaml"
    reads = {name: load([f"model={name}"]).model.reads for name in NAMES}
    probing = {name for name, kind in reads.items() if kind == "function"}
    assert probing == {
        "native",
        "combined",
        "probes",
        "complete",
        "probegen",
        "no_functionals",
        "two_rounds",
        *ABLATIONS,
    }
    assert set(reads.values()) <= set(READS)


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_what_is_switched_off_is_all_that_differs(name: str) -> None:
    config = load([f"model={name}"])
    whole = load([f"model={config.model.ablates}"])
    assert dict(config.trainer) == dict(whole.trainer)
    ours, theirs = dict(config.model.build), dict(whole.model.build)
    assert len({k for k in ours.keys() | theirs.keys() if ours.get(k, False) != theirs.get(k, False)}) <= 1


@pytest.mark.parametrize("model", ["probes", "complete"])
def test_functionals_are_for_labels_that_are_smooth(model: str) -> None:
    smooth = load([f"model={model}", "zoo=folder", "zoo.folder=a", "zoo.dropout=0"]).model.build
    classes = load([f"model={model}", "zoo=folder", "zoo.folder=a"]).model.build
    assert smooth.functionals is True and classes.functionals is False


def test_every_editor_has_a_configuration() -> None:
    assert set(EDITORS) == {*LAYERS, "descent", "constant", *baselines.editor_names(), *VARIANTS}
    configs = {name: load([f"model=edit/{name}"]).model for name in EDITORS}
    assert all(c.name == f"edit/{name}" and c.edits and c.reads in READS for name, c in configs.items())
    assert {n for n, c in configs.items() if c.reads == "function"} == {
        "native",
        "combined",
        "probes",
        "complete",
        "descent",
        *VARIANTS,
    }


@pytest.mark.parametrize("name", [n for n in EDITORS if n != "ng_t"])
def test_an_epoch_of_editing_leaves_everything_finite(name: str, sirens: list[str], tmp_path) -> None:
    words = [*sirens, "task=dilate", f"model=edit/{name}", "trainer.epochs=1"]
    narrow = {"descent": ["model.build.points=8"], "nfn_np": ["model.build.encoding.fourier=8"]}
    _, _, model, fitted = train(load([*words, *narrow.get(name, [])]), tmp_path)
    assert torch.isfinite(torch.tensor(fitted.best_score))
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_two_epochs_leave_everything_finite(name: str, tiny: list[str], tmp_path) -> None:
    words = [*tiny, f"model={name}", "trainer.epochs=2", *NARROW.get(name, [])]
    _, _, model, fitted = train(load(words), tmp_path)
    assert torch.isfinite(torch.tensor(fitted.best_score))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_published_statistics_are_those_of_the_training_networks(tiny: list[str], tmp_path) -> None:
    zoo, _, model, _ = train(load([*tiny, "model=nfn_np_as_published", "trainer.epochs=1"]), tmp_path)
    assert isinstance(model, PositionedNPInvariantAsPublished)
    weights = zoo.batch(zoo.split("train")).stacks()[0].blocks[0]
    torch.testing.assert_close(model.normalize.get_buffer("weight_mean_0"), weights.mean(0))
