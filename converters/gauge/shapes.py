"""Operators that move entries without changing them: where the neurons are afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from converters.gauge.system import Ints, System
from converters.gauge.values import Factor, Value, at_places, freeze, spread


def permute(value: Value, order: Sequence[int]) -> Value:
    """Axis i of the result is axis ``order[i]`` of the value."""
    order = [o % len(value.shape) for o in order]
    place = {old: new for new, old in enumerate(order)}
    factors = []
    for f in value.factors:
        axes = [place[a] for a in f.axes]
        rank = np.argsort(axes)
        factors.append(Factor(tuple(sorted(axes)), f.atoms.transpose(rank), f.cells.transpose(rank)))
    flat = frozenset(place[a] for a in value.flat)
    return Value(tuple(value.shape[o] for o in order), tuple(factors), value.zero, flat=flat)


def chunks(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """The finest runs of axes with equal numbers of entries on both sides of a reshape."""
    out, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        start, a, b = (i, j), 1, 1
        if i < len(old):
            a, i = old[i], i + 1
        if j < len(new):
            b, j = new[j], j + 1
        while a != b:
            if a < b and i < len(old):
                a, i = a * old[i], i + 1
            elif j < len(new):
                b, j = b * new[j], j + 1
            else:
                break
        out.append((range(start[0], i), range(start[1], j)))
    return out


def reshape(system: System, value: Value, shape: Sequence[int]) -> Value:
    """Follow the neurons through a view: axes merge and split."""
    new = tuple(shape)
    if 0 in new or 0 in value.shape:
        return Value(new)
    parts = chunks(value.shape, new)
    value = _without_bundles(system, value, parts)
    factors = []
    for f in value.factors:
        touched = [part for part in parts if set(part[0]) & set(f.axes)]
        axes = tuple(a for part in touched for a in part[0])
        merged = {a for old, now in touched if len(old) != 1 or len(now) != 1 for a in old}
        others = [g for g in value.factors if g is not f and set(g.axes) & set(axes) & merged]
        if others:
            freeze(system, f, "two axes of neurons are merged into one")
            for g in others:
                if len(f.axes) == len(g.axes) == 1 and f.axes < g.axes:
                    system.wish(f.atoms, g.atoms)
            continue
        whole = spread(f, axes, value.shape)
        targets = tuple(a for part in touched for a in part[1])
        full = tuple(new[a] for a in targets)
        made = _tidy(Factor(targets, whole.atoms.reshape(full), whole.cells.reshape(full)))
        if len(f.axes) == 1 < len(made.axes) and len(np.unique(f.atoms)) < f.atoms.size:
            freeze(system, f, "a view cuts across neurons at several positions")
            continue
        factors.append(made)
    if value.before is not None and value.before[0] == new:
        return Value(new, tuple(factors), value.zero, flat=value.before[1])
    flat = frozenset(
        a for old, now in parts for a in now if all(o in value.flat or value.shape[o] == 1 for o in old) and new[a] > 1
    )
    before = (value.shape, value.flat) if value.flat and not flat else None
    return Value(new, tuple(factors), value.zero, flat=flat, before=before)


def _without_bundles(system: System, value: Value, parts: list[tuple[range, range]]) -> Value:
    """Bundles that are merged with other neurons keep their places: query heads that share one head of values."""
    lost: list[Factor] = []
    for f in value.factors:
        runs = [set(old) for old, _ in parts if len(old) > 1 and set(old) & set(f.axes)]
        beside = [g for g in value.factors if g is not f and any(set(g.axes) & run for run in runs)]
        if beside and system.are_bundles(f.atoms) and not any(system.are_bundles(g.atoms) for g in beside):
            freeze(system, f, "heads are merged with neurons that they share")
            lost.append(f)
    return replace(value, factors=value.without(*lost)) if lost else value


def _tidy(f: Factor) -> Factor:
    """Leave out axes along which nothing changes."""
    keep = [
        k for k in range(f.atoms.ndim)
        if f.atoms.shape[k] > 1
        and not ((f.atoms == f.atoms.take([0], k)).all() and (f.cells == f.cells.take([0], k)).all())
    ]  # fmt: skip
    keep = keep or [int(np.argmax(f.atoms.shape))]
    pick = tuple(slice(None) if k in keep else 0 for k in range(f.atoms.ndim))
    return Factor(tuple(f.axes[k] for k in keep), f.atoms[pick], f.cells[pick])


def take(value: Value, axis: int, pick: Callable[[Ints], Ints], size: int | None) -> Value:
    """Some entries of one axis, or a single one (``size`` None), where ``pick`` acts on that leading axis."""
    axis %= len(value.shape)
    shape = tuple(s for a, s in enumerate(value.shape) if a != axis or size is not None)
    shape = tuple(size if a == axis and size is not None else s for a, s in enumerate(shape))
    factors = []
    for f in value.factors:
        if axis in f.axes:
            k = f.axes.index(axis)
            atoms, cells = (np.moveaxis(pick(np.moveaxis(x, k, 0)), 0, k) if size is not None else
                            pick(np.moveaxis(x, k, 0)) for x in (f.atoms, f.cells))  # fmt: skip
            axes = f.axes if size is not None else tuple(a for a in f.axes if a != axis)
            f = Factor(axes, np.asarray(atoms), np.asarray(cells))
            if not axes:
                continue
        if size is None:
            f = f.on(*(a - (a > axis) for a in f.axes))
        factors.append(f)
    flat = frozenset(a if size is not None else a - (a > axis) for a in value.flat if a != axis or size is not None)
    return Value(shape, tuple(factors), value.zero, flat=flat)


def expand(value: Value, shape: Sequence[int]) -> Value:
    """Broadcast to a shape; nothing moves along axes that were 1 long."""
    lead = len(shape) - len(value.shape)
    old = (1,) * lead + value.shape
    new = tuple(o if s == -1 else s for o, s in zip(old, shape, strict=True))
    flat = frozenset(a for a in range(len(new)) if new[a] > 1 and (old[a] == 1 or a - lead in value.flat))
    return Value(new, tuple(f.on(*(a + lead for a in f.axes)) for f in value.factors), value.zero, flat=flat)


def cat(system: System, values: Sequence[Value], axis: int) -> Value:
    """One after another along an axis; along the other axes their neurons are the same."""
    values = [v for v in values if v.shape != (0,)]
    axis %= len(values[0].shape)
    size = sum(v.shape[axis] for v in values)
    shape = tuple(size if a == axis else s for a, s in enumerate(values[0].shape))
    factors = []
    joined = [v.factor(axis) for v in values]
    axes = tuple(sorted({a for f in joined if f is not None for a in f.axes}))
    if axes:
        pieces = [_piece(system, v, f, axis, axes) for v, f in zip(values, joined, strict=True)]
        k = axes.index(axis)
        for piece in pieces:
            uneven = [a for a in axes if a != axis and any(v.varies(a) for v in values)]
            if uneven:
                at_places(system, piece, uneven, "a constant is concatenated with it")
        atoms, cells = (np.concatenate([getattr(p, n) for p in pieces], k) for n in ("atoms", "cells"))
        factors.append(Factor(axes, atoms, cells))
    others = [f for v in values for f in v.without(*joined)]
    while others:
        axes_here = others[0].axes
        here = [[f for f in v.without(*joined) if set(f.axes) & set(axes_here)] for v in values]
        others = [f for f in others if not any(f is g for part in here for g in part)]
        if set(axes_here) & set(axes):
            for f in (*(f for part in here for f in part), *(f for f in joined if f is not None)):
                freeze(system, f, "tensors with different neurons are concatenated")
        else:
            factors += _common(system, values, axes_here, here)
    return Value(shape, tuple(factors), all(v.zero for v in values))


def _piece(system: System, value: Value, f: Factor | None, axis: int, axes: tuple[int, ...]) -> Factor:
    if f is None:
        atoms = system.atoms(value.shape[axis])
        f = Factor((axis,), atoms, system.cells(atoms))
        freeze(system, f, "a constant is concatenated with it")
    return spread(f, axes, value.shape)


def _common(system: System, values: Sequence[Value], axes: tuple[int, ...], found: list[list[Factor]]) -> list[Factor]:
    """Neurons along other axes are the same in all of the tensors."""
    first = next(part[0] for part in found if part)
    if any(len(part) > 1 or (part and part[0].axes != axes) for part in found):
        for f in (f for part in found for f in part):
            freeze(system, f, "tensors with different neurons are concatenated")
        return []
    for value, part in zip(values, found, strict=True):
        if not part:
            if not value.zero:
                freeze(system, first, "a constant is concatenated with it")
        elif part[0] is not first:
            system.same(first.atoms, part[0].atoms)
            system.balance((first.cells, 1.0), (part[0].cells, -1.0), why="tensors are concatenated")
    return [first]
