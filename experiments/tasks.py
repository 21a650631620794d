"""Tasks: which column of a zoo's table to predict, with which loss, judged by which measures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.errors import ExperimentError
from experiments.metrics import accuracy, kendall_tau, r_squared


class Task(Protocol):
    """What the training loop needs to know of a task."""

    @property
    def column(self) -> str:
        """The column of the zoo's table that holds the labels."""
        ...

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures, the one that chooses the best epoch first; larger is better."""
        ...

    @property
    def out(self) -> int:
        """Outputs that a model needs."""
        ...

    def prepare(self, labels: Tensor) -> Task:
        """The task with what it has to know of the training labels."""
        ...

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of model outputs ``[G, out]``."""
        ...

    def predict(self, outputs: Tensor) -> Tensor:
        """Predictions ``[G]`` in the unit of the labels."""
        ...

    def measure(self, prediction: Tensor, labels: Tensor) -> dict[str, float]:
        """All measures."""
        ...


_REGRESSION = {"tau": kendall_tau, "r2": r_squared}


def _regression(prediction: Tensor, labels: Tensor) -> dict[str, float]:
    return {name: function(prediction.double(), labels.double()) for name, function in _REGRESSION.items()}


@dataclass(frozen=True)
class FractionTask:
    """Predict a number between 0 and 1, such as a test accuracy, by a sigmoid and binary cross entropy.

    Args:
        column: of the zoo's table.
    """

    column: str
    measures: tuple[str, ...] = ("tau", "r2")
    out: int = 1

    def prepare(self, labels: Tensor) -> FractionTask:
        """Check the range of the labels.

        Raises:
            ExperimentError: some are outside [0, 1].
        """
        low, high = float(labels.min()), float(labels.max())
        if low < 0 or high > 1:
            raise ExperimentError(
                f"column {self.column!r} reaches from {low:g} to {high:g}; this task expects fractions between 0 and "
                "1: use task=value"
            )
        return self

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs[:, 0], labels.to(outputs.dtype))

    def predict(self, outputs: Tensor) -> Tensor:
        return torch.sigmoid(outputs[:, 0])

    def measure(self, prediction: Tensor, labels: Tensor) -> dict[str, float]:
        return _regression(prediction, labels)


@dataclass(frozen=True)
class ValueTask:
    """Predict any number, standardised by the training labels, by the squared error.

    Args:
        column: of the zoo's table.
    """

    column: str
    measures: tuple[str, ...] = ("r2", "tau")
    out: int = 1
    mean: float = 0.0
    std: float = 1.0

    def prepare(self, labels: Tensor) -> ValueTask:
        """Take mean and standard deviation of the training labels.

        Raises:
            ExperimentError: all labels are equal.
        """
        mean, std = float(labels.double().mean()), float(labels.double().std(correction=0))
        if not std > 0:
            raise ExperimentError(f"column {self.column!r} is {mean:g} everywhere: there is nothing to predict")
        return replace(self, mean=mean, std=std)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(outputs[:, 0], (labels.to(outputs.dtype) - self.mean) / self.std)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0] * self.std + self.mean

    def measure(self, prediction: Tensor, labels: Tensor) -> dict[str, float]:
        return _regression(prediction, labels)


@dataclass(frozen=True)
class ClassTask:
    """Predict a class number by the cross entropy.

    Args:
        column: of the zoo's table, with whole numbers from 0.
    """

    column: str
    measures: tuple[str, ...] = ("accuracy",)
    out: int = 0

    def prepare(self, labels: Tensor) -> ClassTask:
        """Count the classes.

        Raises:
            ExperimentError: the labels are no class numbers.
        """
        if labels.is_floating_point() or int(labels.min()) < 0:
            raise ExperimentError(
                f"column {self.column!r} holds {labels.dtype} from {float(labels.min()):g}; classes are whole numbers "
                "from 0: use task=value for others"
            )
        return replace(self, out=int(labels.max()) + 1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)

    def measure(self, prediction: Tensor, labels: Tensor) -> dict[str, float]:
        return {"accuracy": accuracy(prediction, labels)}
