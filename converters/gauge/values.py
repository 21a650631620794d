"""What the inference knows of a tensor: which of its axes carry neurons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from converters.gauge.system import Ints, System


@dataclass(frozen=True)
class Factor:
    """Neurons along one axis, or along several jointly (heads and their channels).

    Args:
        axes: ascending axes of the tensor.
        atoms: per entry of these axes, the neuron.
        cells: per entry, where its scale and sign are kept.
    """

    axes: tuple[int, ...]
    atoms: Ints
    cells: Ints

    def on(self, *axes: int) -> Factor:
        return replace(self, axes=axes)


@dataclass(frozen=True)
class Value:
    """A tensor with its shape and its factors, which have no axis in common.

    Axes without a factor are positions, batches and fixed channels: nothing moves along them. ``zero`` marks tensors
    of zeros; ``flat`` are axes without a factor along which all entries are equal (all axes of length 1 are, too);
    ``before`` keeps shape and flat axes where a view merged them, for a view that splits them again.
    """

    shape: tuple[int, ...]
    factors: tuple[Factor, ...] = ()
    zero: bool = False
    param: str | None = None
    flat: frozenset[int] = frozenset()
    before: tuple[tuple[int, ...], frozenset[int]] | None = None

    def factor(self, axis: int) -> Factor | None:
        """The factor that an axis belongs to."""
        axis %= max(1, len(self.shape))
        return next((f for f in self.factors if axis in f.axes), None)

    def without(self, *factors: Factor | None) -> tuple[Factor, ...]:
        return tuple(f for f in self.factors if not any(f is g for g in factors))

    def varies(self, axis: int) -> bool:
        """Whether entries may differ along an axis without neurons."""
        return self.shape[axis] > 1 and axis not in self.flat and self.factor(axis) is None


def fresh(system: System, shape: tuple[int, ...], name: str, joint: Iterable[tuple[int, int]] = ()) -> Value:
    """A parameter: every axis longer than 1 has atoms of its own, until operators tie them.

    For every pair in ``joint`` the second axis has others for every entry of the first.
    """
    pairs = {axis: lead for lead, axis in joint}
    factors = []
    for axis, size in enumerate(shape):
        if size > 1 and axis not in set(pairs.values()):
            axes = (pairs[axis], axis) if axis in pairs else (axis,)
            atoms = system.atoms(*(shape[a] for a in axes))
            factors.append(Factor(axes, atoms, system.cells(atoms)))
    return Value(shape, tuple(factors), param=name)


def leads(system: System, value: Value) -> dict[int, Factor]:
    """Bundles along the first axes of a parameter's joint factors: where these rows move as a whole."""
    out: dict[int, Factor] = {}
    for f in value.factors:
        if len(f.axes) > 1:
            atoms = system.bundles(f.atoms)
            if f.axes[0] in out:
                system.same(out[f.axes[0]].atoms, atoms)
            else:
                out[f.axes[0]] = Factor(f.axes[:1], atoms, system.cells(atoms))
                system.hold(out[f.axes[0]].cells, "its rows have neurons of their own")
    return out


def freeze(system: System, factor: Factor | None, why: str) -> None:
    """No symmetry along this factor."""
    if factor is not None:
        system.fix(factor.atoms, why)
        system.hold(factor.cells, why)


def freeze_all(system: System, value: Value, why: str) -> None:
    for factor in value.factors:
        freeze(system, factor, why)


def at_places(system: System, factor: Factor, axes: Iterable[int], why: str) -> None:
    """Something differs along these axes of a factor: neurons stay at their places there."""
    codes = np.zeros((1,) * len(factor.axes), dtype=np.int64)
    for axis in axes:
        k = factor.axes.index(axis)
        shape = [-1 if i == k else 1 for i in range(len(factor.axes))]
        codes = codes * factor.atoms.shape[k] + np.arange(factor.atoms.shape[k]).reshape(shape)
    system.fix(factor.atoms, why, codes)


def rows(factor: Factor, inside: Iterable[int]) -> Ints:
    """The atoms as ``[entries of the other axes .., entries of the inside axes]``."""
    last = [k for k, a in enumerate(factor.axes) if a in set(inside)]
    first = [k for k in range(len(factor.axes)) if k not in last]
    moved = factor.atoms.transpose(*first, *last)
    return moved.reshape(*moved.shape[: len(first)], -1)


def spread(factor: Factor, axes: tuple[int, ...], shape: tuple[int, ...]) -> Factor:
    """A factor on more axes, constant along the new ones; ``shape`` is the tensor's."""
    full = tuple(shape[a] for a in axes)
    place = tuple(slice(None) if a in factor.axes else None for a in axes)
    return Factor(axes, np.broadcast_to(factor.atoms[place], full), np.broadcast_to(factor.cells[place], full))
