"""Metrics and tasks."""

from __future__ import annotations

import pytest
import torch

from experiments.errors import ExperimentError
from experiments.metrics import kendall_tau, r_squared, tie_ceiling
from experiments.tasks import ClassTask, FractionTask, ValueTask


def test_tau_counts_pairs() -> None:
    assert kendall_tau(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(1 / 3)


def test_constant_predictions_order_nothing() -> None:
    assert kendall_tau(torch.ones(4), torch.arange(4.0)) == 0.0


def test_the_ceiling_is_reached_by_the_true_order_and_no_more() -> None:
    label = torch.tensor([0.0, 0.0, 1.0, 2.0, 2.0, 2.0])
    best = kendall_tau(torch.arange(6.0), label)
    assert best == pytest.approx(tie_ceiling(label)) and best < 1
    assert tie_ceiling(torch.arange(5.0)) == 1.0


def test_r2_of_the_mean_is_zero() -> None:
    assert r_squared(torch.full((4,), 1.5), torch.arange(4.0)) == pytest.approx(0.0)


def test_fraction_loss_is_smallest_at_the_label() -> None:
    task, labels = FractionTask("a").prepare(torch.tensor([0.25])), torch.tensor([0.25])
    logits = torch.logit(torch.tensor([[0.1], [0.25], [0.6]]))
    losses = [task.loss(row[None], labels).item() for row in logits]
    assert min(losses) == losses[1]
    torch.testing.assert_close(task.predict(logits[1][None]), labels)


def test_a_value_task_predicts_in_the_unit_of_the_labels() -> None:
    labels = torch.tensor([10.0, 30.0])
    task = ValueTask("a").prepare(labels)
    assert task.predict(torch.tensor([[-1.0], [1.0]])).tolist() == [10.0, 30.0]
    assert task.loss(torch.tensor([[-1.0], [1.0]]), labels).item() == 0.0


def test_classes_are_counted() -> None:
    task = ClassTask("a").prepare(torch.tensor([0, 4, 2]))
    assert task.out == 5
    assert task.measure(torch.tensor([1, 2]), torch.tensor([1, 3])) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("task", "labels", "words"),
    [
        (FractionTask("a"), torch.tensor([0.5, 2.0]), "reaches from 0.5 to 2; .* use task=value"),
        (ValueTask("a"), torch.tensor([3.0, 3.0]), "3 everywhere"),
        (ClassTask("a"), torch.tensor([0.5, 1.0]), "classes are whole numbers"),
        (ClassTask("a"), torch.tensor([-1, 1]), "classes are whole numbers"),
    ],
)
def test_labels_that_do_not_fit(task: FractionTask, labels: torch.Tensor, words: str) -> None:
    with pytest.raises(ExperimentError, match=words):
        task.prepare(labels)
