"""From constraints to the symmetry: groups of neurons, their gauges, and where they sit in the tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from converters.gauge.balance import Solver
from converters.gauge.classes import Classes, classify
from converters.gauge.families import find_families
from converters.gauge.infer import OUTPUT, Inference
from converters.gauge.reasons import Equation, coefficients, reason
from converters.gauge.rules_linear import TAPS
from converters.gauge.system import Ints
from converters.gauge.values import Factor
from graphnfn.law import GaugeVar, Leg, MoveGroup, SymmetryLaw


@dataclass
class _Place:
    """Where a group sits on one axis of one tensor: ``index[i, s]`` and the cells there."""

    param: str
    axis: int
    index: Ints
    cells: Ints
    where: tuple[tuple[int, int, int], ...]


@dataclass
class _Group:
    roots: Ints
    places: list[_Place] = field(default_factory=list)


def solve(found: Inference) -> SymmetryLaw:
    """The symmetry that all constraints leave."""
    classes = classify(found)
    groups = _groups(found, classes)
    fixed = _tagged(classes, [(atoms, why) for atoms, _, why in found.system.fixed])
    bent = _tagged(classes, found.system.bent)
    notes = _tagged(classes, found.system.notes)
    outer = set(classes.bundles[:, 1].tolist())
    equations = _equations(found, classes, [int(g.roots[0]) for g in groups])
    names = _names(found, groups, fixed)
    moves, gauges, legs = [], [], []
    for group, name in zip(groups, names, strict=True):
        rep = int(group.roots[0])
        frozen = fixed.get(rep, [])
        if TAPS in frozen:
            continue
        permutable = len(group.roots) > 1 and bool((classes.label[group.roots] == classes.label[rep]).all())
        why = "" if permutable else (_text(frozen) or ("moves with what lies behind it" if rep in outer else ""))
        role = "hidden"
        if OUTPUT in frozen:
            role = "output"
        elif frozen and all(found.sources[p.cells[0, 0]] == 1 for p in group.places):
            role = "input"
        texts, mixes = bent.get(rep, []), permutable and rep not in outer and rep not in bent
        rows = equations.get(rep, [])
        new_gauges, new_legs = _gauges(found, group, name, rows, texts, mixes)
        if permutable and not new_gauges:
            why = reason("none", [c for p in group.places for c in p.cells[0].tolist()], rows, texts)
        moves.append(MoveGroup(name, len(group.roots), permutable, role, tuple(notes.get(rep, [])), why))
        gauges += new_gauges
        legs += new_legs
    families = find_families(classes, [g.roots for g in groups], names)
    opaque = tuple(f"{op.target} ({op.name}) is not supported: the axes around it are fixed" for op in found.opaque)
    return SymmetryLaw(tuple(moves), tuple(gauges), tuple(legs), families, opaque)


def _text(reasons: list[str]) -> str:
    return "; ".join(dict.fromkeys(reasons[:3]))


def _tagged(classes: Classes, tags: list[tuple[Ints, str]]) -> dict[int, list[str]]:
    """Per root, the texts that were put on its atoms."""
    out: dict[int, list[str]] = {}
    for atoms, text in tags:
        for root in np.unique(classes.roots[atoms]).tolist():
            texts = out.setdefault(root, [])
            if text not in texts:
                texts.append(text)
    return out


def _groups(found: Inference, classes: Classes) -> list[_Group]:
    """Roots that occur in parameters, by the part they play; with all their places."""
    by_part: dict[int, _Group] = {}
    rank = np.full(len(classes.part), -1, dtype=np.int64)  # place of a root within its group
    for param in found.order:
        for f in found.places[param]:
            roots = classes.roots[f.atoms]
            for part in dict.fromkeys(classes.part[roots.reshape(-1)].tolist()):
                mask = classes.part[roots] == part
                group = by_part.get(part)
                if group is None:
                    inside = roots[mask]
                    _, first = np.unique(inside, return_index=True)
                    group = by_part[part] = _Group(inside[np.sort(first)])
                    rank[group.roots] = np.arange(len(group.roots))
                keys = (rank[roots], classes.slot[f.atoms], classes.strand[f.atoms])
                group.places += _places(param, f, mask, keys, len(group.roots))
    return list(by_part.values())


def _places(param: str, f: Factor, mask: np.ndarray, keys: tuple[np.ndarray, ...], size: int) -> list[_Place]:
    """Where a group sits on an axis; one entry for every run of rows that are alike, where rows differ."""
    if len(f.axes) == 1:
        return [_place(param, f.axes[0], f.cells, mask, keys, size, ())]
    out = []
    alike = (mask[1:] == mask[:-1]).all(1) & (f.cells[1:] == f.cells[:-1]).all(1)
    starts = [0, *(np.nonzero(~alike)[0] + 1).tolist()]
    for start, end in zip(starts, [*starts[1:], len(mask)], strict=True):
        if mask[start].any():
            where = () if end - start == len(mask) else ((f.axes[0], start, end),)
            row = tuple(k[start] for k in keys)
            out.append(_place(param, f.axes[1], f.cells[start], mask[start], row, size, where))
    return out


def _place(
    param: str, axis: int, cells: Ints, mask: np.ndarray, keys: tuple[np.ndarray, ...], size: int,
    where: tuple[tuple[int, int, int], ...],
) -> _Place:  # fmt: skip
    index = np.nonzero(mask)[0]
    order = np.lexsort((index, *(k[index] for k in reversed(keys))))
    return _Place(param, axis, index[order].reshape(size, -1), cells[index[order]].reshape(size, -1), where)


def _equations(found: Inference, classes: Classes, reps: list[int]) -> dict[int, list[Equation]]:
    """Per representative root, its equations: (cells, powers, scale, sign, why)."""
    system = found.system
    owner = classes.roots[np.concatenate(system.cell_atoms)] if system.cell_atoms else np.zeros(0, dtype=np.int64)
    wanted = np.zeros(len(classes.part), dtype=bool)
    wanted[reps] = True
    out: dict[int, list[Equation]] = {}
    for rows in system.rows:
        owners = owner[rows.cells]
        foreign = (owners != owners[0]).any(0)
        if foreign.any():  # scales of a bundle and of what lies in it: both are held
            for k in range(len(rows.powers)):
                for cell in np.unique(rows.cells[k, foreign]).tolist():
                    if wanted[owner[cell]]:
                        out.setdefault(int(owner[cell]), []).append(([cell], (1.0,), rows.scale, rows.sign, rows.why))
        for j in np.nonzero(wanted[owners[0]] & ~foreign)[0].tolist():
            row = (rows.cells[:, j].tolist(), rows.powers, rows.scale, rows.sign, rows.why)
            out.setdefault(int(owners[0, j]), []).append(row)
    return out


def _gauges(
    found: Inference, group: _Group, name: str, equations: list[Equation], bent: list[str], mixes: bool
) -> tuple[list[GaugeVar], list[Leg]]:
    rank: dict[int, int] = {}
    for place in group.places:
        leads = found.sources[place.cells[0, 0]] != 1
        for cell in place.cells[0].tolist():
            rank[cell] = 2 if leads else 1
    scales, signs = Solver(rank, None), Solver(rank, 2)
    for cells, powers, scale, sign, _ in equations:
        row = coefficients(cells, powers)
        if scale:
            scales.add(row)
        if sign:
            signs.add({c: abs(p) % 2 for c, p in row.items() if abs(p) % 2})
    free: dict[int, str] = {}
    everywhere = [cell for place in group.places for cell in place.cells[0].tolist()]
    for cell in everywhere:
        for unknown in (*scales.expression(cell), *signs.expression(cell)):
            free.setdefault(unknown, f"{name}.{len(free)}" if free else name)
    legs = [leg for place in group.places for leg in _legs(found, place, name, scales, signs, free)]
    out = []
    for unknown, gauge in free.items():
        scale = any(gauge == g for leg in legs for g, _ in leg.scale)
        sign = any(gauge in leg.sign for leg in legs)
        powers = [p for leg in legs for g, p in leg.scale if g == gauge]
        linear = (
            mixes and scale and sign and len(free) == 1 and len(group.roots) > 1
            and all(abs(p) == 1 for p in powers) and all(leg.scale for leg in legs)
        )  # fmt: skip
        var = GaugeVar(gauge, name, scale, sign, linear)
        moved = [c for c in everywhere if unknown in scales.expression(c) or unknown in signs.expression(c)]
        out.append(replace(var, reason=reason(var.kind, moved, equations, bent)))
    return out, legs


def _legs(found: Inference, place: _Place, name: str, scales: Solver, signs: Solver, free: dict[int, str]) -> list[Leg]:
    """The slots of one place, by what multiplies them."""
    by_law: dict[tuple, list[int]] = {}
    for slot, cell in enumerate(place.cells[0].tolist()):
        scale = tuple((free[u], float(k)) for u, k in scales.expression(cell).items())
        sign = tuple(free[u] for u in signs.expression(cell))
        by_law.setdefault((scale, sign), []).append(slot)
    dst = bool(found.sources[place.cells[0, 0]] != 1)
    legs = []
    for (scale, sign), slots in by_law.items():
        index = place.index[:, slots]
        stride = int(index[1, 0] - index[0, 0]) if len(index) > 1 else 1
        straight = index[:1] + stride * np.arange(len(index))[:, None]
        affine = bool((index == straight).all())
        starts = tuple(index[0].tolist()) if affine else ()
        places = () if affine else tuple(index.T.reshape(-1).tolist())
        legs.append(
            Leg(place.param, place.axis, name, starts, stride if affine else 0, place.where, scale, sign, dst, places)
        )
    return legs


def _names(found: Inference, groups: list[_Group], fixed: dict[int, list[str]]) -> list[str]:
    """The tensor that leads to a group, without ``.weight``; numbered where several groups share it."""
    bases = []
    for group in groups:
        leads = [p for p in group.places if found.sources[p.cells[0, 0]] != 1]
        if not leads and int(group.roots[0]) in fixed:
            bases.append("input")
            continue
        first = min(leads or group.places, key=lambda p: p.axis)
        bases.append(first.param.removesuffix(".weight"))
    names, counts = [], {b: bases.count(b) for b in bases}
    seen: dict[str, int] = {}
    for base in bases:
        seen[base] = seen.get(base, -1) + 1
        names.append(base if counts[base] == 1 else f"{base}#{seen[base]}")
    return names
