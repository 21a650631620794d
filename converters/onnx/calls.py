"""The table of operators, and what one of them sees of the node that it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from converters.onnx.tensors import TYPES
from graphnfn.errors import ConversionError


@dataclass(frozen=True)
class Node:
    """One operator of the file.

    Args:
        name: for messages.
        op: e.g. ``Conv``.
        inputs: names of values, empty where an optional one is left out.
        outputs: likewise.
        attrs: numbers, strings, arrays, lists of them.
        opset: version of the operators.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    opset: int


@dataclass(frozen=True)
class Call:
    """A node while it is computed.

    Args:
        node: what to compute.
        floating: takes the place of every floating-point type that the file names (a module in double precision).
    """

    node: Node
    floating: torch.dtype | None

    def attr(self, name: str, default: Any = None) -> Any:
        return self.node.attrs.get(name, default)

    @property
    def opset(self) -> int:
        return self.node.opset

    def dtype(self, code: int) -> torch.dtype:
        """PyTorch's type for an element type of the file."""
        if code not in TYPES:
            raise ConversionError(f"element type {code} is not supported")
        kind = TYPES[code]
        return self.floating if kind.is_floating_point and self.floating is not None else kind

    def wants(self, place: int) -> bool:
        """Whether somebody may read this output."""
        return place < len(self.node.outputs) and self.node.outputs[place] != ""

    def only(self, count: int) -> None:
        """Refuse outputs beyond the first ``count``."""
        if any(self.wants(k) for k in range(count, len(self.node.outputs))):
            raise ConversionError(f"its outputs beyond {count} are not supported; export without them")


@dataclass(frozen=True)
class Operator:
    """How to compute an operator.

    Args:
        run: the call and its inputs -> one result, or a tuple or list of them.
        static: inputs that must be known from the file and the shapes alone; they come as arrays.
        known: inputs that come as arrays where they are known, else as tensors.
        numbers: whether other known inputs of one entry come as numbers.
        scalar: inputs that are settings, not weights, where they have one entry.
        absent: inputs that are no weights where they are zero throughout (initial states).
        ones: inputs that are no weights where they are one throughout (a norm without weights).
        statistics: inputs that are buffers, not parameters.
    """

    run: Callable[..., Any]
    static: frozenset[int] = frozenset()
    known: frozenset[int] = frozenset()
    numbers: bool = False
    scalar: frozenset[int] = frozenset()
    absent: frozenset[int] = frozenset()
    ones: frozenset[int] = frozenset()
    statistics: frozenset[int] = frozenset()

    def literal(self, place: int, value: np.ndarray) -> bool:
        """Whether a constant at this place is a setting of the architecture rather than a weight."""
        return (
            place in self.static
            or (place in self.scalar and value.size == 1)
            or (place in self.absent and not value.any())
            or (place in self.ones and bool((value == 1).all()))
        )


OPERATORS: dict[str, Operator] = {}
"""Operator -> how to compute it on tensors."""
HOST: dict[str, Callable[..., Any]] = {}
"""Operator -> how to compute it on arrays that are known from the file and the shapes alone."""

SHAPES = ("Shape", "Size")
"""Operators that read the shape of a tensor only."""


def operator(
    *names: str,
    static: tuple[int, ...] = (),
    known: tuple[int, ...] = (),
    numbers: bool = False,
    scalar: tuple[int, ...] = (),
    absent: tuple[int, ...] = (),
    ones: tuple[int, ...] = (),
    statistics: tuple[int, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the function for operators; see :class:`Operator`."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            OPERATORS[name] = Operator(
                run,
                static=frozenset(static),
                known=frozenset(known),
                numbers=numbers,
                scalar=frozenset(scalar),
                absent=frozenset(absent),
                ones=frozenset(ones),
                statistics=frozenset(statistics),
            )
        return run

    return register


def host(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the function for operators on known arrays."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        HOST.update(dict.fromkeys(names, run))
        return run

    return register


def ints(values: Any) -> list[int]:
    """A list of integers from an attribute or an array."""
    return [int(v) for v in np.asarray(values).reshape(-1)]


def axes_of(c: Call, given: np.ndarray | None, rank: int) -> list[int] | None:
    """Axes from the attribute (older versions) or the input, counted from the front; None: none are named."""
    axes = c.attr("axes") if given is None else given
    if axes is None:
        return None
    out = ints(axes)
    if any(not -rank <= a < rank for a in out) or len({a % rank for a in out}) != len(out):
        raise ConversionError(f"axes {out} do not fit a tensor with {rank} axes")
    return [a % rank for a in out]


def axis_of(axis: int, rank: int) -> int:
    """One axis, counted from the front."""
    if not -rank <= axis < rank:
        raise ConversionError(f"axis {axis} does not fit a tensor with {rank} axes")
    return axis % rank
