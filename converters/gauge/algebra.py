"""Sums, products, contractions and reductions: what they ask of scales and permutations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converters.gauge.system import System
from converters.gauge.values import Factor, Value, freeze, spread, unite


def broadcast_shape(*values: Value) -> tuple[int, ...]:
    return tuple(np.broadcast_shapes(*(v.shape for v in values)))


def _aligned(value: Value, rank: int) -> Value:
    lead = rank - len(value.shape)
    factors = tuple(f.on(*(a + lead for a in f.axes)) for f in value.factors)
    return Value((1,) * lead + value.shape, factors, value.zero)


def add(system: System, a: Value, b: Value, why: str) -> Value:
    """A sum: both sides have the same neurons and the same scales."""
    return _combine(system, a, b, why, product=False)


def mul(system: System, a: Value, b: Value, why: str, power: float = 1.0) -> Value:
    """A product ``a * b^power``: scales multiply; constants change nothing."""
    return _combine(system, a, b, why, product=True, power=power)


def _combine(system: System, a: Value, b: Value, why: str, *, product: bool, power: float = 1.0) -> Value:
    shape = broadcast_shape(a, b)
    a, b = _aligned(a, len(shape)), _aligned(b, len(shape))
    if not product and (a.zero or b.zero):
        return Value(shape, (b if a.zero else a).factors, a.zero and b.zero)
    out: list[Factor] = []
    done: list[Factor] = []
    for f in a.factors:
        partners = [g for g in b.factors if set(g.axes) & set(f.axes)]
        done += partners
        if len(partners) > 1 or any(sum(bool(set(g.axes) & set(h.axes)) for h in a.factors) > 1 for g in partners):
            for g in (f, *partners):
                freeze(system, g, f"{why} mixes different arrangements of neurons")
        elif partners:
            merged = _pair(system, f, partners[0], shape, why, product, power)
            out += [] if merged is None else [merged]
        else:
            out += _alone(system, f, b, why, product, 1.0)
    for g in b.factors:
        if not any(g is d for d in done):
            out += _alone(system, g, a, why, product, power)
    return Value(shape, tuple(out), product and (a.zero or b.zero))


def _alone(system: System, f: Factor, other: Value, why: str, product: bool, power: float) -> list[Factor]:
    """The other side has no neurons along these axes: it is broadcast there, or a constant."""
    if all(other.shape[x] == 1 for x in f.axes):
        if not product:
            system.hold(f.cells, f"{why} of a value that is the same for all of these neurons")
            system.bend(f.atoms, why)
    else:
        if not product:
            freeze(system, f, f"{why} of a constant")
            return []
        system.fix(f.atoms, f"{why} of a constant")
        system.bend(f.atoms, why)
        if f.outer is not None and other.shape[f.axes[0]] > 1:
            system.fix(f.outer, f"{why} of a constant")
    return [f if power == 1.0 else powered(system, f, power, why)]


def powered(system: System, f: Factor, power: float, why: str) -> Factor:
    """The factor with its scales to a power; signs follow odd powers."""
    cells = system.cells(f.atoms)
    system.balance((cells, 1.0), (f.cells, -power), why=why, sign=False)
    system.balance((cells, 1.0), (f.cells, power % 2), why=why, scale=False)
    return Factor(f.axes, f.atoms, cells, f.outer)


def _pair(
    system: System, f: Factor, g: Factor, shape: tuple[int, ...], why: str, product: bool, power: float
) -> Factor | None:
    axes = tuple(sorted({*f.axes, *g.axes}))
    if f.axes != axes and g.axes != axes:
        freeze(system, f, f"{why} mixes different arrangements of neurons")
        freeze(system, g, f"{why} mixes different arrangements of neurons")
        return None
    wide, narrow = (f, g) if f.axes == axes else (g, f)
    if narrow.axes == axes:
        unite(system, wide, narrow)
    elif narrow.axes == axes[:1] and wide.outer is not None:
        system.same(wide.outer, narrow.atoms)
        system.hold(narrow.cells, f"{why} with what lies behind it")
        return wide
    else:
        system.same(wide.atoms, spread(narrow, axes, shape).atoms)
    left, right = spread(f, axes, shape), spread(g, axes, shape)
    if not product:
        system.balance((left.cells, 1.0), (right.cells, -1.0), why=why)
        return wide if f.axes == axes else Factor(axes, wide.atoms, wide.cells, wide.outer)
    system.bend(wide.atoms, why)
    cells = system.cells(wide.atoms)
    system.balance((cells, 1.0), (left.cells, -1.0), (right.cells, -power), why=why, sign=False)
    system.balance((cells, 1.0), (left.cells, 1.0), (right.cells, power % 2), why=why, scale=False)
    return Factor(axes, wide.atoms, cells, wide.outer)


def reduce(system: System, value: Value, axes: Sequence[int], why: str, *, keepdim: bool, linear: bool) -> Value:
    """Sum, mean (``linear``) or maximum and the like over axes: neurons that are reduced over share one scale."""
    gone = {a % len(value.shape) for a in axes} if axes else set(range(len(value.shape)))
    kept: list[Factor] = []
    for f in value.factors:
        if not linear:
            system.hold(f.cells, why, scale=False)
            system.bend(f.atoms, why)
        inside = [a for a in f.axes if a in gone]
        if not inside:
            kept.append(f)
            continue
        system.hold(f.cells, f"{why} over these neurons")
        system.bend(f.atoms, f"{why} over these neurons")
        rest = tuple(a for a in f.axes if a not in gone)
        if rest == f.axes[:1] and f.outer is not None:
            cells = system.cells(f.outer)
            system.hold(cells, f"{why} over the neurons behind it")
            kept.append(Factor(rest, f.outer, cells))
        elif rest:
            place = tuple(slice(None) if a in rest else slice(0, 1) for a in f.axes)
            first = f.atoms[place]
            system.same(f.atoms, first)
            pick = tuple(slice(None) if a in rest else 0 for a in f.axes)
            kept.append(Factor(rest, f.atoms[pick], f.cells[pick]))
    return drop(Value(tuple(1 if a in gone else s for a, s in enumerate(value.shape)), tuple(kept)), gone, keepdim)


def drop(value: Value, gone: set[int], keepdim: bool) -> Value:
    """The value without axes of length 1."""
    if keepdim:
        return value
    shape = tuple(s for a, s in enumerate(value.shape) if a not in gone)
    shift = {a: a - sum(g < a for g in gone) for a in range(len(value.shape))}
    return Value(shape, tuple(f.on(*(shift[a] for a in f.axes)) for f in value.factors), value.zero)


def contract(
    system: System, a: Value, b: Value, axis_a: int, axis_b: int, batch: Sequence[tuple[int, int]], why: str
) -> Value:
    """``sum_k a[.., k] b[.., k]``: scales of the two sides cancel along k.

    ``axis_a`` and ``axis_b`` are contracted, ``batch`` are pairs of axes that go together. The result has the batch
    axes, then what is left of a, then what is left of b.
    """
    axis_a, axis_b = axis_a % len(a.shape), axis_b % len(b.shape)
    rest_a = [x for x in range(len(a.shape)) if x != axis_a and x not in [p for p, _ in batch]]
    rest_b = [x for x in range(len(b.shape)) if x != axis_b and x not in [q for _, q in batch]]
    n = len(batch)
    place_a = {p: i for i, (p, _) in enumerate(batch)} | {x: n + i for i, x in enumerate(rest_a)}
    place_b = {q: i for i, (_, q) in enumerate(batch)} | {x: n + len(rest_a) + i for i, x in enumerate(rest_b)}
    shape = tuple(max(a.shape[p], b.shape[q]) for p, q in batch)
    shape += tuple(a.shape[x] for x in rest_a) + tuple(b.shape[x] for x in rest_b)
    fa, fb = a.factor(axis_a), b.factor(axis_b)
    leads = _meet(system, a, b, fa, fb, (axis_a, axis_b), (place_a, place_b), why)
    out: list[Factor] = []
    for f, place in [(f, place_a) for f in a.without(fa)] + [(f, place_b) for f in b.without(fb)]:
        moved = _placed(f, place)
        twin = next((k for k, o in enumerate(out) if set(o.axes) & set(moved.axes)), None)
        if twin is None:
            out.append(moved)
            continue
        pair = _pair(system, out[twin], moved, shape, why, True, 1.0)
        out[twin : twin + 1] = [] if pair is None else [pair]
    for lead in leads:
        twin = next((k for k, o in enumerate(out) if set(o.axes) & set(lead.axes)), None)
        if twin is None:
            out.append(lead)
        elif out[twin].outer is not None and out[twin].axes[:1] == lead.axes:
            system.same(out[twin].outer, lead.atoms)  # type: ignore[arg-type]
        elif out[twin].axes == lead.axes:
            system.same(out[twin].atoms, lead.atoms)
        else:
            freeze(system, out[twin], f"{why} mixes different arrangements of neurons")
            freeze(system, lead, f"{why} mixes different arrangements of neurons")
            del out[twin]
    return Value(shape, tuple(out), a.zero or b.zero)


def _placed(f: Factor, place: dict[int, int]) -> Factor:
    axes = [place[x] for x in f.axes]
    rank = np.argsort(axes)
    outer = f.outer if int(rank[0]) == 0 else None
    return Factor(tuple(sorted(axes)), f.atoms.transpose(rank), f.cells.transpose(rank), outer)


def _meet(
    system: System, a: Value, b: Value, fa: Factor | None, fb: Factor | None, axes: tuple[int, int],
    places: tuple[dict[int, int], dict[int, int]], why: str,
) -> list[Factor]:  # fmt: skip
    """Tie the contracted axis; gives the atoms of batch axes that were joint with it."""
    if fa is None or fb is None:
        freeze(system, fa, f"{why} with a constant")
        freeze(system, fb, f"{why} with a constant")
        return []
    wide_a, wide_b = _ends_in(fa, axes[0], places[0]), _ends_in(fb, axes[1], places[1])
    if wide_a is None or wide_b is None:
        for f in (fa, fb):
            freeze(system, f, f"{why} mixes different arrangements of neurons")
        return []
    (lead_a, f), (lead_b, g) = wide_a, wide_b
    if lead_a and lead_b and lead_a != lead_b:
        for h in (fa, fb):
            freeze(system, h, f"{why} mixes different arrangements of neurons")
        return []
    lead = lead_a or lead_b
    atoms_f, atoms_g = np.broadcast_arrays(_padded(f.atoms, len(lead)), _padded(g.atoms, len(lead)))
    system.same(atoms_f, atoms_g)
    if f.outer is not None and g.outer is not None:
        system.same(f.outer, g.outer)
    system.balance((_padded(f.cells, len(lead)), 1.0), (_padded(g.cells, len(lead)), 1.0), why=why)
    outer = f.outer if f.outer is not None else g.outer
    if len(lead) != 1:
        for h in (f, g) if lead else ():
            system.fix(h.atoms, f"{why} over several joint axes")
        return []
    if outer is None:
        return []
    cells = system.cells(outer)
    system.hold(cells, why)
    return [Factor(lead, outer, cells)]


def _padded(array: np.ndarray, lead: int) -> np.ndarray:
    return array.reshape((1,) * (lead + 1 - array.ndim) + array.shape)


def _ends_in(f: Factor, axis: int, place: dict[int, int]) -> tuple[tuple[int, ...], Factor] | None:
    """The factor with the contracted axis last, and where its other axes go; None if those are no batch axes."""
    others = [x for x in f.axes if x != axis]
    order = [f.axes.index(x) for x in others] + [f.axes.index(axis)]
    outer = f.outer if order[0] == 0 else None
    moved = Factor(f.axes, f.atoms.transpose(order), f.cells.transpose(order), outer)
    lead = tuple(place[x] for x in others)
    return (lead, moved) if list(lead) == sorted(lead) else None
