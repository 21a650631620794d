"""Tasks: what to predict of the networks of a zoo, with which loss, judged by which measures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.errors import ExperimentError
from experiments.metrics import accuracy, kendall_tau, r_squared
from graphnfn.zoo import Zoo


class Task(Protocol):
    """What the training loop needs to know of a task."""

    @property
    def column(self) -> str:
        """What is predicted: the column of the zoo's table that holds the labels, or a word for them."""
        ...

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures, the one that chooses the best epoch first; see :mod:`experiments.metrics`."""
        ...

    @property
    def out(self) -> int:
        """Outputs that a model needs; 0 where models edit networks."""
        ...

    def on(self, zoo: Zoo) -> Task:
        """The task with what it has to know of the zoo's networks."""
        ...

    def labels(self, zoo: Zoo, rows: Tensor) -> Tensor:
        """What is to be predicted of some networks, ``[G, ...]``."""
        ...

    def prepare(self, labels: Tensor) -> Task:
        """The task with what it has to know of the training labels."""
        ...

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of model outputs ``[G, out]``."""
        ...

    def predict(self, outputs: Tensor) -> Tensor:
        """Predictions ``[G, ...]`` in the unit of the labels."""
        ...

    def measure(self, prediction: Tensor, labels: Tensor) -> dict[str, float]:
        """All measures."""
        ...

    def pairs(self, prediction: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Per network a number for its label and one for its prediction, ``[G]`` each."""
        ...


class ColumnTask:
    """What tasks whose labels are a column of the zoo's table have in common."""

    column: str

    def labels(self, zoo: Zoo, rows: Tensor) -> Tensor:
        return zoo.labels(self.column, rows)

    def pairs(self, prediction: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return labels, prediction


_REGRESSION = {"tau": kendall_tau, "r2": r_squared}


def _regression(prediction: Tensor, labels: Tensor) -> dict[str, float]:
    return {name: function(prediction.double(), labels.double()) for name, function in _REGRESSION.items()}


@dataclass(frozen=True)
class FractionTask(ColumnTask):
    """Predict a number between 0 and 1, such as a test accuracy, by a sigmoid and binary cross entropy.

    Args:
        column: of the zoo's table.
    """

    column: str
    measures: tuple[str, ...] = ("tau", "r2")
    out: int = 1

    def on(self, zoo: Zoo) -> FractionTask:
        return self

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
class ValueTask(ColumnTask):
    """Predict any number, standardised by the training labels, by the squared error.

    Args:
        column: of the zoo's table.
        log: of positive numbers: loss and measures are those of their logarithms.
    """

    column: str
    log: bool = False
    measures: tuple[str, ...] = ("r2", "tau")
    out: int = 1
    mean: float = 0.0
    std: float = 1.0

    def on(self, zoo: Zoo) -> ValueTask:
        return self

    def prepare(self, labels: Tensor) -> ValueTask:
        """Take mean and standard deviation of the training labels.

        Raises:
            ExperimentError: all labels are equal, or not positive where their logarithm is asked for.
        """
        if self.log and float(labels.min()) <= 0:
            raise ExperimentError(
                f"column {self.column!r} reaches down to {float(labels.min()):g}; logarithms need positive numbers: "
                "give task.log=false"
            )
        scaled = self._scale(labels)
        mean, std = float(scaled.mean()), float(scaled.std(correction=0))
        if not std > 0:
            value = float(labels[0])
            raise ExperimentError(f"column {self.column!r} is {value:g} everywhere: there is nothing to predict")
        return replace(self, mean=mean, std=std)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(outputs[:, 0], ((self._scale(labels) - self.mean) / self.std).to(outputs.dtype))

    def predict(self, outputs: Tensor) -> Tensor:
        values = outputs[:, 0] * self.std + self.mean
        return values.double().exp() if self.log else values

    def measure(self, prediction: Tensor, labels: Tensor) -> dict[str, float]:
        return _regression(self._scale(prediction), self._scale(labels))

    def _scale(self, values: Tensor) -> Tensor:
        return values.double().clamp_min(1e-300).log() if self.log else values.double()


@dataclass(frozen=True)
class ClassTask(ColumnTask):
    """Predict a class by the cross entropy.

    Args:
        column: of the zoo's table, with whole numbers from 0, or with words.
    """

    column: str
    measures: tuple[str, ...] = ("accuracy",)
    out: int = 0
    words: tuple[str, ...] = ()

    def on(self, zoo: Zoo) -> ClassTask:
        """Number the words of the column in alphabetical order, where it has words."""
        return replace(self, words=tuple(sorted(set(_words(zoo, self.column)))))

    def labels(self, zoo: Zoo, rows: Tensor) -> Tensor:
        if not self.words:
            return super().labels(zoo, rows)
        values = np.array(_words(zoo, self.column))[rows.numpy()]
        return torch.from_numpy(np.searchsorted(np.array(self.words), values))

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
        if self.words and len(labels.unique()) == 1:
            word = self.words[int(labels[0])]
            raise ExperimentError(f"column {self.column!r} is {word!r} in all training networks: nothing to predict")
        return replace(self, out=max(len(self.words), int(labels.max()) + 1))

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)

    def measure(self, prediction: Tensor, labels: Tensor) -> dict[str, float]:
        return {"accuracy": accuracy(prediction, labels)}


@dataclass(frozen=True)
class HyperTask:
    """Predict a hyper-parameter of the training: words as classes, numbers standardised.

    Args:
        column: of the zoo's table.
        log: whether to predict the logarithm of a number; None: where all numbers are positive.
    """

    column: str
    log: bool | None = None

    def on(self, zoo: Zoo) -> ClassTask | ValueTask:
        """The task that fits the column.

        Raises:
            GraphNFNError: there is no such column, it has missing values, or the architecture tells it.
        """
        if self.column in zoo.table and _told(zoo, self.column):
            raise ExperimentError(
                f"column {self.column!r} follows from the architecture, which every model reads: give another, or "
                "networks of one architecture by zoo.where"
            )
        if _words(zoo, self.column):
            return ClassTask(self.column).on(zoo)
        positive = bool((zoo.labels(self.column) > 0).all())
        return ValueTask(self.column, log=positive if self.log is None else self.log)


def _told(zoo: Zoo, column: str) -> bool:
    """Whether networks of one architecture have the same entry, all of them, and there are several architectures."""
    known: dict[int, set[object]] = {}
    for spec, value in zip(zoo.spec_index.tolist(), zoo.table[column].tolist(), strict=True):
        known.setdefault(spec, set()).add(value)
    return 1 < len(known) < len(zoo) and all(len(values) == 1 for values in known.values())


def _words(zoo: Zoo, column: str) -> list[str]:
    """The entries of a column of words; none where it holds numbers or does not exist."""
    if column not in zoo.table or pd.api.types.is_numeric_dtype(zoo.table[column]):
        return []
    values = zoo.table[column].tolist()
    missing = sum(not isinstance(v, str) for v in values)
    if missing:
        raise ExperimentError(f"column {column!r} has {missing} entries that are no words: leave them out by zoo.where")
    return values
