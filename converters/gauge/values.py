"""What the inference knows of a tensor: which of its axes carry neurons."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from converters.gauge.system import Ints, System


@dataclass(frozen=True)
class Factor:
    """Neurons along one axis, or along several jointly (heads and their channels).

    Args:
        axes: ascending axes of the tensor.
        atoms: per entry of these axes, the neuron.
        cells: per entry, where its scale and sign are kept.
        outer: where several axes are joint, one atom per entry of the first: the bundle of neurons behind it.
    """

    axes: tuple[int, ...]
    atoms: Ints
    cells: Ints
    outer: Ints | None = None

    def on(self, *axes: int) -> Factor:
        return replace(self, axes=axes)


@dataclass(frozen=True)
class Value:
    """A tensor with its shape and its factors, which have no axis in common.

    Axes without a factor are positions, batches and fixed channels: nothing moves along them. ``zero`` marks tensors
    of zeros.
    """

    shape: tuple[int, ...]
    factors: tuple[Factor, ...] = ()
    zero: bool = False
    name: str = ""
    param: str | None = field(default=None)

    def factor(self, axis: int) -> Factor | None:
        """The factor that an axis belongs to."""
        axis %= max(1, len(self.shape))
        return next((f for f in self.factors if axis in f.axes), None)

    def without(self, *factors: Factor | None) -> tuple[Factor, ...]:
        return tuple(f for f in self.factors if not any(f is g for g in factors))


def fresh(system: System, shape: tuple[int, ...], name: str) -> Value:
    """A parameter: every axis longer than 1 has atoms of its own, until operators tie them."""
    factors = []
    for axis, size in enumerate(shape):
        if size > 1:
            atoms = system.atoms(size)
            factors.append(Factor((axis,), atoms, system.cells(atoms)))
    return Value(shape, tuple(factors), name=name, param=name)


def freeze(system: System, factor: Factor | None, why: str) -> None:
    """No symmetry along this factor."""
    if factor is not None:
        system.fix(factor.atoms, why)
        system.hold(factor.cells, why)
        if factor.outer is not None:
            system.fix(factor.outer, why)


def freeze_all(system: System, value: Value, why: str) -> None:
    for factor in value.factors:
        freeze(system, factor, why)


def unite(system: System, a: Factor, b: Factor) -> None:
    """The same neurons in the same order; both factors have the same axes."""
    system.same(a.atoms, b.atoms)
    if a.outer is not None and b.outer is not None:
        system.same(a.outer, b.outer)


def spread(factor: Factor, axes: tuple[int, ...], shape: tuple[int, ...]) -> Factor:
    """A factor on more axes, constant along the new ones; ``shape`` is the tensor's."""
    full = tuple(shape[a] for a in axes)
    place = tuple(slice(None) if a in factor.axes else None for a in axes)
    outer = factor.outer
    if outer is not None and axes[0] != factor.axes[0]:
        outer = None
    return Factor(axes, np.broadcast_to(factor.atoms[place], full), np.broadcast_to(factor.cells[place], full), outer)
