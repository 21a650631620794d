"""Parts of a network that look alike, so that exchanging them may be a symmetry: to be tested on weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from graphnfn.law import Exchange, Leg, Piece, SymmetryLaw
from graphnfn.program import Program
from graphnfn.symmetry.law_element import places

Shapes = Mapping[str, tuple[int, ...]]
Parts = tuple[tuple[Piece, ...], ...]

_NEAR, _JOINED = 7, 2
"""Among how many sets of the same number of parts companions are sought, and how many may join."""


@dataclass(frozen=True)
class Alike:
    """Equally many parts in some tensors.

    Args:
        parts: the pieces of every part.
        leads: whether it is a candidate itself, or only goes along with one.
        place: of its first tensor in the order of use.
    """

    parts: Parts
    leads: bool
    place: int

    @cached_property
    def entries(self) -> frozenset[tuple[str, int, int]]:
        """Tensor, axis, place; whole tensors at axis -1."""
        return frozenset(e for part in self.parts for e in entries(part))

    def start(self, shapes: Shapes) -> float:
        """Where its first part begins, as a share of the axis: companions often begin alike."""
        first = self.parts[0][0]
        return first.runs[0][0] / shapes[first.param][first.axis] if first.runs else 0.0

    def apart(self, other: Alike) -> bool:
        """Whether nothing belongs to both."""
        whole = {e[0] for e in self.entries | other.entries if e[1] < 0}
        both = {e[0] for e in self.entries} & {e[0] for e in other.entries}
        return not (self.entries & other.entries or whole & both)


def entries(part: Iterable[Piece]) -> frozenset[tuple[str, int, int]]:
    """What a part consists of: tensor, axis, place; whole tensors at axis -1."""
    return frozenset((p.param, p.axis, k) for p in part for run in p.runs or ((0, 1),) for k in range(*run))


def candidates(law: SymmetryLaw, shapes: Shapes, program: Program) -> Iterator[list[Exchange]]:
    """Lists of exchanges, likeliest first, of which at most one is to be accepted.

    Looked for are slots of one group on an axis (query heads that share a key), groups that sit alike on the same
    axes, slices of stacked tensors, tensors whose names differ in a number (experts), and the rows or columns of other
    tensors that go with them (the router's).
    """
    order = {name: k for k, name in enumerate(shapes)}
    leading = [*_slots(law, order), *_twins(law, order), *_slices(law, shapes, order), *_named(shapes, program, order)]
    sizes = {len(a.parts) for a in leading}
    rest = [*leading, *_axes(law, shapes, sizes, order)]
    for one in sorted((a for a in leading if a.leads), key=lambda a: (a.place, -len(a.parts))):
        near = [a for a in rest if a is not one and len(a.parts) == len(one.parts) and one.apart(a)]
        near = sorted(near, key=lambda a: (a.start(shapes) != one.start(shapes), abs(a.place - one.place)))[:_NEAR]
        found = []
        for count in range(_JOINED + 1):
            for more in combinations(near, count):
                joined = (one, *more)
                if all(a.apart(b) for a, b in combinations(more, 2)):
                    parts = tuple(sum((a.parts[k] for a in joined), ()) for k in range(len(one.parts)))
                    found.append(Exchange(_title(parts), parts))
        yield found


def _title(parts: Parts) -> str:
    first = parts[0][0]
    where = "" if first.axis < 0 else f"[{first.axis}:{first.runs[0][0]}]"
    return f"{len(parts)} x {first.param}{where}"


def _runs(indices: list[int]) -> tuple[tuple[int, int], ...]:
    runs: list[list[int]] = []
    for k in indices:
        if runs and runs[-1][1] == k:
            runs[-1][1] = k + 1
        else:
            runs.append([k, k + 1])
    return tuple((a, b) for a, b in runs)


def _by_axis(law: SymmetryLaw, group: str) -> dict[tuple[str, int], list[Leg]]:
    found: dict[tuple[str, int], list[Leg]] = {}
    for leg in law.legs:
        if leg.group == group and not leg.where:
            found.setdefault((leg.param, leg.axis), []).append(leg)
    return found


def _columns(legs: list[Leg], size: int) -> list[list[int]]:
    """Per slot of a group on one axis, where its neurons are; slots in the order of their first places."""
    slots = [column for leg in legs for column in places(leg, size).T.tolist()]
    return sorted(slots)


def _slots(law: SymmetryLaw, order: Mapping[str, int]) -> Iterator[Alike]:
    """One group that sits several times on an axis: its copies."""
    for group in law.groups:
        if not (group.permutable or law.gauges_of[group.id]):
            continue
        columns = {at: _columns(legs, group.size) for at, legs in _by_axis(law, group.id).items()}
        most = max((len(c) for c in columns.values()), default=0)
        for m in range(most, 1, -1):
            whole = {at: c for at, c in columns.items() if len(c) % m == 0}
            for least in sorted({len(c) for c in whole.values()}, reverse=True):  # keys may have fewer than queries
                here = {at: c for at, c in whole.items() if len(c) >= least}
                place = min(order[param] for param, _ in here)
                parts = tuple(tuple(_share(at, c, k, m) for at, c in here.items()) for k in range(m))
                yield Alike(parts, True, place)
                if least == most > m:  # within each share, its own shares: queries of keys of shared norms
                    yield from _within(here, m, most, place)


def _within(here: Mapping[tuple[str, int], list[list[int]]], m: int, most: int, place: int) -> Iterator[Alike]:
    each = most // m
    for n in (n for n in range(2, each + 1) if each % n == 0):
        for k in range(m):
            inner = {at: c[k * each : (k + 1) * each] for at, c in here.items()}
            parts = tuple(tuple(_share(at, c, i, n) for at, c in inner.items()) for i in range(n))
            yield Alike(parts, False, place)


def _share(at: tuple[str, int], columns: list[list[int]], k: int, m: int) -> Piece:
    """The k-th of m equal shares of the slots on one axis."""
    each = len(columns) // m
    return Piece(at[0], at[1], _runs(sorted(sum(columns[k * each : (k + 1) * each], []))))


def _twins(law: SymmetryLaw, order: Mapping[str, int]) -> Iterator[Alike]:
    """Groups of one size on the same axes."""
    alike: dict[tuple, list[str]] = {}
    listed = {g for family in law.families for bundle in family for g in bundle}
    for group in law.groups:
        at = _by_axis(law, group.id)
        moves = group.permutable or law.gauges_of[group.id]
        if at and moves and group.id not in listed:
            slots = tuple((key, len(_columns(legs, group.size))) for key, legs in at.items())
            alike.setdefault((group.size, slots), []).append(group.id)
    for (size, slots), names in alike.items():
        if len(names) > 1:
            tables = [_by_axis(law, name) for name in names]
            parts = tuple(
                tuple(_share((param, axis), _columns(table[param, axis], size), 0, 1) for (param, axis), _ in slots)
                for table in tables
            )
            yield Alike(parts, True, min(order[param] for (param, _), _ in slots))


def _slices(law: SymmetryLaw, shapes: Shapes, order: Mapping[str, int]) -> Iterator[Alike]:
    """Entries of an axis behind each of which lie neurons of their own."""
    listed = {g for family in law.families for bundle in family for g in bundle}
    found: dict[frozenset[str], dict[str, int]] = {}
    for param, legs in law.legs_of.items():
        stacked = [leg for leg in legs if leg.where and leg.group not in listed]
        for axis in {leg.where[0][0] for leg in stacked}:
            here = [leg for leg in stacked if leg.where[0][0] == axis]
            if all(stop - start == 1 for leg in here for _, start, stop in leg.where):
                found.setdefault(frozenset(leg.group for leg in here), {})[param] = axis
    for tensors in found.values():
        m = {shapes[param][axis] for param, axis in tensors.items()}
        if len(m) == 1:
            yield _entries(tensors, m.pop(), min(order[p] for p in tensors), leads=True)


def _entries(tensors: Mapping[str, int], m: int, place: int, *, leads: bool) -> Alike:
    parts = tuple(tuple(Piece(param, axis, ((k, k + 1),)) for param, axis in tensors.items()) for k in range(m))
    return Alike(parts, leads, place)


def _named(shapes: Shapes, program: Program, order: Mapping[str, int]) -> Iterator[Alike]:
    """Tensors whose names differ in one number, with all that has the same number there; none before another."""
    sets: dict[tuple[str, str], dict[str, str]] = {}
    for name in shapes:
        for digits in re.finditer(r"\d+", name):
            sets.setdefault((name[: digits.start()], digits[0]), {})[name[digits.end() :]] = name
    alike: dict[tuple, list[dict[str, str]]] = {}
    for (prefix, _), tails in sets.items():
        kind = tuple((tail, shapes[name]) for tail, name in sorted(tails.items()))
        alike.setdefault((prefix, kind), []).append(dict(sorted(tails.items())))
    before = _before(program, order)
    for members in alike.values():
        bits = [sum(1 << order[n] for n in m.values()) for m in members]
        upstream = [_union(before[n] for n in m.values()) for m in members]
        apart = all(not upstream[i] & bits[j] for i in range(len(bits)) for j in range(len(bits)) if i != j)
        if len(members) > 1 and apart:
            parts = tuple(tuple(Piece(name, -1) for name in m.values()) for m in members)
            yield Alike(parts, True, min(order[n] for m in members for n in m.values()))


def _union(bits: Iterable[int]) -> int:
    out = 0
    for b in bits:
        out |= b
    return out


def _before(program: Program, order: Mapping[str, int]) -> dict[str, int]:
    """Tensor -> those whose values reach the operators that read it, as bits."""
    named = dict(program.tensors)
    reach = {value: 1 << order[name] if name in order else 0 for value, name in named.items()}
    out = dict.fromkeys(order, 0)
    for op in program.ops:
        refs = op.refs()
        total = _union(reach.get(r, 0) for r in refs)
        reach[op.name] = total
        for r in refs:
            if named.get(r) in out:
                out[named[r]] |= total & ~(1 << order[named[r]])
    return out


def _axes(law: SymmetryLaw, shapes: Shapes, sizes: set[int], order: Mapping[str, int]) -> Iterator[Alike]:
    """First and last axes along which nothing moves, as long as some list of parts; of one module together."""
    moving = {g.id for g in law.groups if g.permutable or law.gauges_of[g.id]}
    found: dict[tuple[str, int, bool], dict[str, int]] = {}
    for param, shape in shapes.items():
        busy = {leg.axis for leg in law.legs_of.get(param, ()) if leg.group in moving}
        busy |= {leg.where[0][0] for leg in law.legs_of.get(param, ()) if leg.where}
        for axis in dict.fromkeys((0, len(shape) - 1)):
            if shape and shape[axis] in sizes and axis not in busy:
                key = (param.rpartition(".")[0] or param, shape[axis], axis > 0)
                found.setdefault(key, {})[param] = axis
    for (_, m, _), tensors in found.items():
        yield _entries(tensors, m, min(order[p] for p in tensors), leads=False)
