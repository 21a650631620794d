"""Prediction of hyper-parameters: words as classes, positive numbers by their logarithms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.cell import prepare_task, run
from experiments.config import load
from experiments.data import open_zoo
from experiments.errors import ExperimentError
from experiments.tasks import ClassTask, ValueTask


def task_of(words: list[str], column: str, *more: str):
    config = load([*words, "task=hyper", f"task.column={column}", *more])
    zoo = open_zoo(config.zoo)
    return zoo, prepare_task(config, zoo)


def test_words_become_classes(sirens: list[str]) -> None:
    zoo, task = task_of(sirens, "optimizer")
    assert isinstance(task, ClassTask) and task.words == ("adam", "sgd") and task.out == 2
    rows = torch.tensor([5, 0, 7])
    words = [("adam", "sgd")[i] for i in task.labels(zoo, rows).tolist()]
    assert words == zoo.table["optimizer"].iloc[rows.numpy()].tolist()


def test_positive_numbers_are_predicted_by_their_logarithms(sirens: list[str]) -> None:
    zoo, task = task_of(sirens, "rate")
    assert isinstance(task, ValueTask) and task.log
    labels = task.labels(zoo, zoo.split("train"))
    outputs = ((labels.log() - task.mean) / task.std)[:, None]
    torch.testing.assert_close(task.predict(outputs).float(), labels)
    assert task.loss(outputs, labels) < 1e-10
    assert task.measure(task.predict(outputs), labels)["r2"] == pytest.approx(1.0)
    off = task.measure(labels * torch.tensor([2.0, 0.5]).repeat(len(labels) // 2), labels)["r2"]
    assert off == pytest.approx(1 - (torch.log(torch.tensor(2.0)) / task.std).item() ** 2, abs=1e-5)


def test_other_numbers_are_predicted_as_they_are(sirens: list[str]) -> None:
    for words in (["shift"], ["rate", "task.log=false"]):
        task = task_of(sirens, *words)[1]
        assert isinstance(task, ValueTask) and not task.log
    with pytest.raises(ExperimentError, match="logarithms need positive numbers"):
        task_of(sirens, "shift", "task.log=true")


def test_columns_that_do_not_vary(sirens: list[str]) -> None:
    with pytest.raises(ExperimentError, match="'adam' in all training networks"):
        task_of([*sirens, "+zoo.where.optimizer=adam"], "optimizer")


@pytest.mark.parametrize(("column", "measure"), [("optimizer", "accuracy"), ("rate", "r2")])
def test_they_can_be_learned(column, measure, sirens: list[str], tmp_path: Path) -> None:
    """Both are functions of what the networks compute in the middle."""
    words = [*sirens, "task=hyper", f"task.column={column}", "model=native", "trainer.epochs=30"]
    found = run(load([*words, "trainer.batch_size=8", "trainer.weight_decay=1e-2"]), tmp_path).row
    assert found["measure"] == measure and found[f"test_{measure}"] > 0.7


@pytest.mark.parametrize("column", ["learning_rate", "weight_decay", "init_std", "steps", "train_fraction"])
def test_numbers_of_a_real_zoo(column, shared: Path) -> None:
    _, task = task_of(["zoo=folder", f"zoo.folder={shared}/zoos/fmnist_cnn"], column)
    assert isinstance(task, ValueTask) and task.log


def test_what_the_architecture_tells_is_refused(shared: Path) -> None:
    words = ["zoo=folder", f"zoo.folder={shared}/zoos/fmnist_cnn"]
    with pytest.raises(ExperimentError, match="'activation' follows from the architecture"):
        task_of(words, "activation")
    with pytest.raises(ExperimentError, match="'relu' in all training networks"):
        task_of([*words, "+zoo.where.activation=relu"], "activation")
