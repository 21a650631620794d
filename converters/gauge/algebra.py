"""Sums, products, contractions and reductions: what they ask of scales and permutations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from converters.gauge.system import System
from converters.gauge.values import Factor, Value, at_places, freeze, rows, spread


def broadcast_shape(*values: Value) -> tuple[int, ...]:
    return tuple(np.broadcast_shapes(*(v.shape for v in values)))


def _aligned(value: Value, rank: int) -> Value:
    lead = rank - len(value.shape)
    factors = tuple(f.on(*(a + lead for a in f.axes)) for f in value.factors)
    return Value((1,) * lead + value.shape, factors, value.zero, flat=frozenset(a + lead for a in value.flat))


def add(system: System, a: Value, b: Value, why: str) -> Value:
    """A sum: both sides have the same neurons and the same scales."""
    return _combine(system, a, b, why, product=False)


def mul(system: System, a: Value, b: Value, why: str, power: float = 1.0) -> Value:
    """A product ``a * b^power``: scales multiply; constants change nothing."""
    return _combine(system, a, b, why, product=True, power=power)


def _combine(system: System, a: Value, b: Value, why: str, *, product: bool, power: float = 1.0) -> Value:
    shape = broadcast_shape(a, b)
    a, b = _aligned(a, len(shape)), _aligned(b, len(shape))
    flat = frozenset(
        x for x in range(len(shape)) if all(v.shape[x] == 1 or x in v.flat for v in (a, b)) and shape[x] > 1
    )
    if product and (a.zero or b.zero):
        return Value(shape, zero=True)
    if not product and (a.zero or b.zero):
        return Value(shape, (b if a.zero else a).factors, a.zero and b.zero, flat=flat)
    out: list[Factor] = []
    done: list[Factor] = []
    for f in a.factors:
        partners = [g for g in b.factors if set(g.axes) & set(f.axes)]
        done += partners
        if len(partners) > 1 or any(sum(bool(set(g.axes) & set(h.axes)) for h in a.factors) > 1 for g in partners):
            _tangled(system, [h for h in a.factors if any(set(h.axes) & set(g.axes) for g in partners)], partners, why)
        elif partners:
            merged = _pair(system, f, partners[0], (a, b), why, product, power)
            out += [] if merged is None else [merged]
        else:
            out += _alone(system, f, b, why, product, 1.0)
    for g in b.factors:
        if not any(g is d for d in done):
            out += _alone(system, g, a, why, product, power)
    return Value(shape, tuple(out), flat=flat)


def _tangled(system: System, left: Sequence[Factor], right: Sequence[Factor], why: str) -> None:
    """Neurons that are joint on one side and not on the other; a parameter may be read as joint, too."""
    for f in (*left, *right):
        freeze(system, f, f"{why} mixes different arrangements of neurons")
    for side in (left, right):
        if len(side) == 2 and all(len(f.axes) == 1 for f in side):
            system.wish(side[0].atoms, side[1].atoms)


def _alone(system: System, f: Factor, other: Value, why: str, product: bool, power: float) -> list[Factor]:
    """The other side has no neurons along these axes: it is broadcast there, or a constant."""
    uneven = [x for x in f.axes if other.varies(x)]
    if not product:
        if len(uneven) == len(f.axes):
            freeze(system, f, f"{why} of a constant")
            return []
        system.hold(f.cells, f"{why} of a value that is the same for all of these neurons")
        system.bend(f.atoms, why)
    if uneven:
        at_places(system, f, uneven, f"{why} of a constant")
    return [f if power == 1.0 else powered(system, f, power, why)]


def powered(system: System, f: Factor, power: float, why: str) -> Factor:
    """The factor with its scales to a power; signs follow odd powers."""
    cells = system.cells(f.atoms)
    system.bend(f.atoms, why)
    system.balance((cells, 1.0), (f.cells, -power), why=why, sign=False)
    system.balance((cells, 1.0), (f.cells, power % 2), why=why, scale=False)
    return Factor(f.axes, f.atoms, cells)


def _pair(
    system: System, f: Factor, g: Factor, sides: Sequence[Value], why: str, product: bool, power: float
) -> Factor | None:
    axes = tuple(sorted({*f.axes, *g.axes}))
    if f.axes != axes and g.axes != axes and f.axes[0] == g.axes[0]:  # heads of a group: only the group is left
        f, g = (
            collapse(system, h, set(h.axes) - set(o.axes), why) if system.are_bundles(h.atoms) else h
            for h, o in ((f, g), (g, f))
        )
        axes = tuple(sorted({*f.axes, *g.axes}))
    if f.axes != axes and g.axes != axes:
        freeze(system, f, f"{why} mixes different arrangements of neurons")
        freeze(system, g, f"{why} mixes different arrangements of neurons")
        return None
    wide, narrow, other = (f, g, sides[1]) if f.axes == axes else (g, f, sides[0])
    missing = [x for x in axes if x not in narrow.axes]
    uneven = [x for x in missing if other.varies(x)]
    if uneven:
        at_places(system, wide, uneven, f"{why} of a constant")
    if missing and narrow.axes == axes[: len(narrow.axes)]:
        system.same(system.bundles(rows(wide, missing)), narrow.atoms)
        system.hold(narrow.cells, f"{why} with what lies behind it")
        if not product:
            system.hold(wide.cells, f"{why} of a value that is the same for all of these neurons")
            system.bend(wide.atoms, why)
        if product and wide is g and power != 1.0:
            return powered(system, wide, power, why)
        return wide
    shape = broadcast_shape(*sides)
    left, right = spread(f, axes, shape), spread(g, axes, shape)
    system.same(left.atoms, right.atoms)
    if not product:
        system.balance((left.cells, 1.0), (right.cells, -1.0), why=why)
        return wide
    system.bend(wide.atoms, why)
    cells = system.cells(wide.atoms)
    system.balance((cells, 1.0), (left.cells, -1.0), (right.cells, -power), why=why, sign=False)
    system.balance((cells, 1.0), (left.cells, 1.0), (right.cells, power % 2), why=why, scale=False)
    return Factor(axes, wide.atoms, cells)


def reduce(system: System, value: Value, axes: Sequence[int], why: str, *, keepdim: bool, linear: bool) -> Value:
    """Sum, mean (``linear``) or maximum and the like over axes: neurons that are reduced over share one scale."""
    gone = {a % len(value.shape) for a in axes} if axes else set(range(len(value.shape)))
    kept: list[Factor] = []
    for f in value.factors:
        if not linear:
            system.hold(f.cells, f"{why} allows positive scales only", scale=False)
            system.bend(f.atoms, why)
        if not set(f.axes) & gone:
            kept.append(f)
            continue
        rest = tuple(a for a in f.axes if a not in gone)
        if rest and rest != f.axes[: len(rest)]:
            kept.append(collapse(system, f, gone, why))
            continue
        system.hold(f.cells, f"{why} over these neurons")
        system.bend(f.atoms, f"{why} over these neurons")
        if rest:
            atoms = system.bundles(rows(f, gone))
            cells = system.cells(atoms)
            system.hold(cells, f"{why} over the neurons behind it")
            kept.append(Factor(rest, atoms, cells))
    shape = tuple(1 if a in gone else s for a, s in enumerate(value.shape))
    return drop(Value(shape, tuple(kept), flat=value.flat - gone), gone, keepdim)


def collapse(system: System, f: Factor, gone: Iterable[int], why: str) -> Factor:
    """Along these axes all neurons become one, with one scale: nothing moves there any more."""
    place = tuple(slice(0, 1) if a in gone else slice(None) for a in f.axes)
    system.same(f.atoms, f.atoms[place])
    system.balance((f.cells, 1.0), (f.cells[place], -1.0), why=why)
    pick = tuple(0 if a in gone else slice(None) for a in f.axes)
    return Factor(tuple(a for a in f.axes if a not in gone), f.atoms[pick], f.cells[pick])


def settle(system: System, value: Value, axes: Iterable[int], why: str) -> Value:
    """Positions matter along these axes: no neuron moves along them."""
    gone = {a % len(value.shape) for a in axes}
    kept = []
    for f in value.factors:
        if not set(f.axes) & gone:
            kept.append(f)
        elif set(f.axes) <= gone:
            freeze(system, f, why)
        else:
            kept.append(collapse(system, f, gone, why))
    return Value(value.shape, tuple(kept), value.zero, flat=value.flat - gone)


def drop(value: Value, gone: set[int], keepdim: bool) -> Value:
    """The value without axes of length 1."""
    if keepdim:
        return value
    shape = tuple(s for a, s in enumerate(value.shape) if a not in gone)
    shift = {a: a - sum(g < a for g in gone) for a in range(len(value.shape))}
    flat = frozenset(shift[a] for a in value.flat - gone)
    return Value(shape, tuple(f.on(*(shift[a] for a in f.axes)) for f in value.factors), value.zero, flat=flat)


def contract(
    system: System, a: Value, b: Value, axis_a: int, axis_b: int, batch: Sequence[tuple[int, int]], why: str
) -> Value:
    """``sum_k a[.., k] b[.., k]``: scales of the two sides cancel along k.

    ``axis_a`` and ``axis_b`` are contracted, ``batch`` are pairs of axes that go together. The result has the batch
    axes, then what is left of a, then what is left of b.
    """
    axis_a, axis_b = axis_a % len(a.shape), axis_b % len(b.shape)
    for value, k in ((a, 0), (b, 1)):
        _wishes(system, value, {pair[k] for pair in batch})
    rest_a = [x for x in range(len(a.shape)) if x != axis_a and x not in [p for p, _ in batch]]
    rest_b = [x for x in range(len(b.shape)) if x != axis_b and x not in [q for _, q in batch]]
    n = len(batch)
    place_a = {p: i for i, (p, _) in enumerate(batch)} | {x: n + i for i, x in enumerate(rest_a)}
    place_b = {q: i for i, (_, q) in enumerate(batch)} | {x: n + len(rest_a) + i for i, x in enumerate(rest_b)}
    sides = _sides(a, b, (place_a, place_b), n, (len(rest_a), len(rest_b)))
    shape = broadcast_shape(*sides)
    if a.zero or b.zero:
        return Value(shape, zero=True)
    even = tuple(Value(v.shape, flat=frozenset(range(len(shape)))) for v in sides)
    fa, fb = a.factor(axis_a), b.factor(axis_b)
    out: list[Factor] = []
    left, right = _outside(system, a, fa, axis_a, why), _outside(system, b, fb, axis_b, why)
    for side, f in [(0, _placed(f, place_a)) for f in left] + [(1, _placed(f, place_b)) for f in right]:
        uneven = [x for x in f.axes if x < n and sides[1 - side].varies(x)]
        if uneven:
            at_places(system, f, uneven, f"{why} with a constant")
        _join(system, out, f, even, why)
    for lead in _meet(system, fa, fb, (axis_a, axis_b), (place_a, place_b), sides, why):
        _join(system, out, lead, even, why)
    flat = frozenset(x for x in range(n) if shape[x] > 1 and all(v.shape[x] == 1 or x in v.flat for v in sides))
    return Value(shape, tuple(out), flat=flat)


def _outside(system: System, value: Value, inner: Factor | None, axis: int, why: str) -> list[Factor]:
    """The factors that are not summed over."""
    out = []
    for f in value.without(inner):
        if axis in f.axes:
            for g in (f, inner):
                freeze(system, g, f"{why} mixes different arrangements of neurons")
        else:
            out.append(f)
    return out


def _wishes(system: System, value: Value, batch: set[int]) -> None:
    """Rows of a parameter that are used apart may have neurons of their own in every row."""
    for f in value.factors:
        for g in value.factors:
            if f.axes[0] in batch and len(f.axes) == len(g.axes) == 1 and g.axes[0] not in batch:
                system.wish(f.atoms, g.atoms)


def _sides(
    a: Value, b: Value, places: tuple[dict[int, int], dict[int, int]], n: int, rest: tuple[int, int]
) -> tuple[Value, Value]:
    """Both operands without neurons, with their axes where the result has them."""
    out = []
    for value, place in zip((a, b), places, strict=True):
        shape = [1] * (n + sum(rest))
        for axis, where in place.items():
            shape[where] = value.shape[axis]
        uneven = {place[x] for x in place if value.varies(x)}
        flat = frozenset(x for x in range(len(shape)) if shape[x] > 1 and x not in uneven)
        out.append(Value(tuple(shape), flat=flat))
    return out[0], out[1]


def _join(system: System, out: list[Factor], f: Factor, sides: Sequence[Value], why: str) -> None:
    """Put a factor to the others of a product."""
    twins = [k for k, o in enumerate(out) if set(o.axes) & set(f.axes)]
    if not twins:
        out.append(f)
        return
    if len(twins) > 1:
        _tangled(system, [out[k] for k in twins], [f], why)
        out[:] = [o for k, o in enumerate(out) if k not in twins]
        return
    k = twins[0]
    pair = _pair(system, out[k], f, sides, why, True, 1.0)
    out[k : k + 1] = [] if pair is None else [pair]


def _placed(f: Factor, place: dict[int, int]) -> Factor:
    axes = [place[x] for x in f.axes]
    rank = np.argsort(axes)
    return Factor(tuple(sorted(axes)), f.atoms.transpose(rank), f.cells.transpose(rank))


def _meet(
    system: System, fa: Factor | None, fb: Factor | None, axes: tuple[int, int],
    places: tuple[dict[int, int], dict[int, int]], sides: tuple[Value, Value], why: str,
) -> list[Factor]:  # fmt: skip
    """Tie the contracted axis; gives the bundles along batch axes that were joint with it."""
    if fa is None or fb is None:
        out = []
        for h, k in ((fa, 0), (fb, 1)):
            if h is not None and len(h.axes) > 1:
                out.append(_placed(collapse(system, h, {axes[k]}, f"{why} with a constant"), places[k]))
            else:
                freeze(system, h, f"{why} with a constant")
        return out
    end = len(sides[0].shape)
    f, g = _placed(fa, {**places[0], axes[0]: end}), _placed(fb, {**places[1], axes[1]: end})
    lead = tuple(sorted({*f.axes[:-1], *g.axes[:-1]}))
    if lead not in (f.axes[:-1], g.axes[:-1]):
        for h in (f, g):
            freeze(system, h, f"{why} mixes different arrangements of neurons")
        return []
    size = fa.atoms.shape[fa.axes.index(axes[0])]
    shape = (*broadcast_shape(*sides), size)
    for h, other in ((f, 1), (g, 0)):
        uneven = [x for x in h.axes[:-1] if sides[other].varies(x)]
        if uneven:
            at_places(system, h, uneven, f"{why} with a constant")
    left, right = spread(f, (*lead, end), shape), spread(g, (*lead, end), shape)
    system.same(left.atoms, right.atoms)
    system.balance((left.cells, 1.0), (right.cells, 1.0), why=why)
    if not lead:
        return []
    out = []
    for h in (f, g):
        if h.axes[:-1]:
            atoms = system.bundles(h.atoms)
            cells = system.cells(atoms)
            system.hold(cells, why)
            out.append(Factor(h.axes[:-1], atoms, cells))
    return out
