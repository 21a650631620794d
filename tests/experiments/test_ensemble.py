"""Members learn as if each were alone, and their mean predicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.budget import within_budget
from experiments.cell import prepare, run, train
from experiments.config import load, make
from experiments.data import predict
from experiments.ensemble import members_of
from experiments.errors import ExperimentError
from experiments.models import count_parameters
from experiments.training import MetaNetModule, begun_with
from graphnfn.zoo import Zoo

FREE = "trainer.clip=1e9"
"""Clipping acts on the gradients of all members together."""


def test_each_member_learns_as_if_alone(tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, "model=native", "trainer.epochs=1", FREE]
    _, _, alone, _ = train(load(words), tmp_path / "alone")
    zoo, _, pair, _ = train(load([*words, "trainer.members=2"]), tmp_path / "pair")
    first, second = members_of(pair)
    rows = zoo.split("test")
    torch.testing.assert_close(predict(first, zoo, rows), predict(alone, zoo, rows))
    assert (predict(second, zoo, rows) - predict(first, zoo, rows)).abs().max() > 1e-3
    mean = (predict(first, zoo, rows) + predict(second, zoo, rows)) / 2
    torch.testing.assert_close(predict(pair, zoo, rows), mean)


def test_the_loss_of_the_mean_would_not_do(tiny: list[str], tmp_path: Path) -> None:
    """Negative control: as one model with two parts, members learn something else."""

    words = [*tiny, "model=native", "trainer.epochs=1", FREE, "trainer.members=2"]
    zoo, _, pair, _ = train(load(words), tmp_path / "pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.training.members_of", lambda model: [model])
        _, _, parts, _ = train(load(words), tmp_path / "parts")
    rows = zoo.split("test")
    assert (predict(members_of(pair)[0], zoo, rows) - predict(members_of(parts)[0], zoo, rows)).abs().max() > 1e-4


def test_symmetries_hold_and_the_row_tells_the_members(tiny: list[str], tmp_path: Path) -> None:
    one, three = (run(load([*tiny, "model=gated", f"trainer.members={k}"]), tmp_path).row for k in (1, 3))
    assert (one["members"], three["members"]) == (1, 3)
    assert three["parameters"] == 3 * one["parameters"]
    assert three["moved_2dec"] < 1e-4


def test_a_budget_buys_epochs_before_members(tiny: list[str]) -> None:
    words = [*tiny, "model=native", "trainer.members=50"]
    zoo, task, model = prepare(load(words))
    count_parameters(model, zoo.batch([0]))

    def bought(seconds: float, epochs: int, spent: float = 0.0) -> tuple[int, int]:
        recipe = make(load([*words, f"trainer.cpu_seconds={seconds}", f"trainer.epochs={epochs}"]).trainer)
        found = within_budget(recipe, model, task, zoo, spent=spent)
        return found.epochs, found.members

    assert bought(2, 100000)[0] < 100000 and bought(2, 100000)[1] == 1
    epochs, members = bought(2, 4)
    assert epochs == 4 and 1 < members <= 50
    assert bought(1e-6, 4) == bought(2, 4, spent=2.5) == (1, 1)
    assert within_budget(make(load(words).trainer), model, task, zoo).members == 50


@pytest.mark.parametrize(
    ("seconds", "epochs", "share", "members"),
    [
        (0.5, 1, 1.0, 1),
        (1.0, 1, 1.0, 1),
        (1.9, 2, 0.95, 1),
        (3.25, 4, 0.8125, 1),
        (9.99, 10, 0.999, 1),
        (12.9, 12, 1.0, 1),
        (85.0, 40, 1.0, 2),
    ],
)
def test_a_budget_is_not_lost_to_whole_epochs(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, seconds: float, epochs: int, share: float, members: int
) -> None:
    """An epoch takes a second here; validation none."""
    zoo, task, model = prepare(load([*tiny, "model=native"]))
    monkeypatch.setattr("experiments.budget._seconds", lambda *_: (8 / 32, 0.0))
    words = ["trainer.batch_size=8", "trainer.epochs=40", "trainer.members=3", f"trainer.cpu_seconds={seconds}"]
    found = within_budget(make(load([*tiny, *words]).trainer), model, task, zoo)
    assert (found.epochs, found.members) == (epochs, members) and found.share == pytest.approx(share)


def test_what_validation_takes_is_part_of_every_epoch(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    zoo, task, model = prepare(load([*tiny, "model=native"]))
    monkeypatch.setattr("experiments.budget._seconds", lambda *_: (8 / 32, 0.5))
    words = ["trainer.batch_size=8", "trainer.epochs=40", "trainer.cpu_seconds=2.5"]
    found = within_budget(make(load([*tiny, *words]).trainer), model, task, zoo)
    looking = len(zoo.split("val")) / 8 * 0.5
    assert found.epochs == 2 and found.epochs * (found.share + looking) == pytest.approx(2.5)


def test_short_epochs_have_other_networks_every_time(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load([*tiny, "model=statnn", "trainer.batch_size=8", "trainer.epochs=40", "trainer.cpu_seconds=1"])
    recipe = replace(make(config.trainer), epochs=3, share=0.5)
    monkeypatch.setattr("experiments.cell.within_budget", lambda *_, **__: recipe)
    seen: list[list[int]] = []
    step = MetaNetModule.training_step
    monkeypatch.setattr(
        MetaNetModule, "training_step", lambda self, b, i: seen.append(b[1].tolist()) or step(self, b, i)
    )
    row = run(config, tmp_path).row
    assert row["epochs"] == 1.5 and len(row["history"]) == 3
    assert len(seen) == 6 and all(len(labels) == 8 for labels in seen)
    epochs = [{*seen[k], *seen[k + 1]} for k in (0, 2, 4)]
    assert all(len(labels) == 16 for labels in epochs) and epochs[0] != epochs[1] != epochs[2]


def test_timed_networks_are_as_mixed_as_those_of_training(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours in a zoo may share an architecture, and batches of one architecture take less time."""
    config = load([*tiny, "model=native", "trainer.batch_size=4", "trainer.cpu_seconds=1"])
    zoo, task, model = prepare(config)
    read: list[torch.Tensor] = []
    batch = Zoo.batch
    monkeypatch.setattr(Zoo, "batch", lambda self, rows: read.append(torch.as_tensor(rows)) or batch(self, rows))
    within_budget(make(config.trainer), model, task, zoo)
    assert len(read) > 3 and all(set(rows.tolist()) <= set(zoo.split("train").tolist()) for rows in read)
    places = {row: place for place, row in enumerate(zoo.split("train").tolist())}
    assert all(max(places[r] for r in rows.tolist()) - min(places[r] for r in rows.tolist()) > 4 for rows in read)


def test_a_resumed_run_has_the_epochs_and_members_that_it_began_with(tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, "model=native", "trainer.members=3"]
    assert begun_with(tmp_path) is None
    train(load(words), tmp_path)
    resumed = train(load([*tiny, "model=native", "trainer.cpu_seconds=1e-6"]), tmp_path, resume=True)[2]
    assert len(members_of(resumed)) == 3
    begun = begun_with(tmp_path)
    assert begun is not None and (begun.epochs, begun.members, begun.cpu_seconds) == (3, 3, None)


def test_edits_are_not_averaged(sirens: list[str], tmp_path: Path) -> None:
    """Whether the budget would afford them or not."""
    for budget in ("null", "1e-6"):
        words = ["task=dilate", "model=edit/native", "trainer.members=2", f"trainer.cpu_seconds={budget}"]
        with pytest.raises(ExperimentError, match="expected 1: only numbers are averaged"):
            train(load([*sirens, *words]), tmp_path)


def test_at_least_one_member(tiny: list[str]) -> None:
    with pytest.raises(ExperimentError, match="trainer.members=0"):
        make(load([*tiny, "trainer.members=0"]).trainer)
