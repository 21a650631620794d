"""Layers with several inputs."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.keras.config import Config
from converters.keras.layer import Layer, layer

Join = Callable[[list[Tensor]], Tensor]


class Merge(Layer):
    """A function of all inputs; inputs of fewer axes get axes behind the batch, numbers stay numbers."""

    keeps_mask = True

    def __init__(self, config: Config, join: Join) -> None:
        super().__init__(config)
        self.join = join

    def forward(self, *inputs: Any) -> Tensor:
        axes = max(x.dim() for x in inputs if isinstance(x, Tensor))
        return self.join([_with_axes(x, axes) if isinstance(x, Tensor) else x for x in inputs])


def _with_axes(x: Tensor, axes: int) -> Tensor:
    return x.reshape(x.shape[0], *[1] * (axes - x.dim()), *x.shape[1:]) if x.dim() < axes else x


def _fold(function: Callable[[Any, Any], Tensor]) -> Join:
    return lambda inputs: functools.reduce(function, inputs)


JOINS: dict[str, Join] = {
    "Add": _fold(operator.add),
    "Subtract": _fold(operator.sub),
    "Multiply": _fold(operator.mul),
    "Maximum": _fold(torch.maximum),
    "Minimum": _fold(torch.minimum),
    "Average": lambda inputs: functools.reduce(operator.add, inputs) / len(inputs),
}


@layer(*JOINS)
def _merge(config: Config) -> Layer:
    return Merge(config, JOINS[config.kind])


@layer("Concatenate")
def _concatenate(config: Config) -> Layer:
    axis = config.integer("axis", -1)
    return Merge(config, lambda inputs: torch.cat(inputs, axis))


@layer("Dot")
class Dot(Layer):
    """Contract one axis of each of two inputs, example by example."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.axes, self.normalize = config.integers("axes"), config.flag("normalize", False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        first, second = self.axes[0], self.axes[-1]
        if self.normalize:
            x, y = F.normalize(x, dim=first), F.normalize(y, dim=second)
        x, y = x.movedim(first, -1), y.movedim(second, 1)
        shape = (*x.shape[1:-1], *y.shape[2:])
        out = torch.bmm(x.reshape(x.shape[0], -1, x.shape[-1]), y.reshape(*y.shape[:2], -1))
        return out.reshape(x.shape[0], *(shape or (1,)))
