"""TracedSpec: the description of a network that was traced, with its symmetry law and its program."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphnfn.activations import NAMES, Activation, Gauge
from graphnfn.errors import SpecError
from graphnfn.law import Leg, MoveGroup, SymmetryLaw
from graphnfn.program import Program
from graphnfn.spec import Block, NetSpec, NeuronGroup, decode

REST = "network"
"""The group of one node that holds parameters without neurons, such as single numbers."""


@dataclass(frozen=True)
class Column:
    """A tensor (or a part of it) as columns of ``x``: ``tensor[.., places, ..]`` in front, the rest behind it.

    Args:
        param: the tensor.
        group: whose neurons.
        axis: of the tensor; -1 where it has no neurons.
        starts, stride, places: as in :class:`~graphnfn.law.Leg`.
        first: first column.
        width: number of columns.
    """

    param: str
    group: str
    axis: int
    starts: tuple[int, ...]
    stride: int
    places: tuple[int, ...]
    first: int
    width: int


@dataclass(frozen=True, kw_only=True)
class TracedSpec(NetSpec):
    """A traced network: its neuron groups are those of the law, and the graph on them may have cycles.

    A residual stream is one group, so it is both source and target of a residual branch. Tensors with two axes of
    neurons are blocks, all others are columns of ``x``.

    Args:
        law: the symmetry.
        program: what the network computes.
        shapes: of the tensors that the law moves, in order.
        columns: which of them are node features.
    """

    law: SymmetryLaw
    program: Program
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        known = {g.id for g in self.groups}
        for part in (*self.blocks, *self.columns):
            ends = (part.src, part.dst) if isinstance(part, Block) else (part.group,)
            if not known.issuperset(ends):
                raise SpecError(f"tensor {part.param!r} belongs to groups {ends}, which the spec lacks")
        object.__setattr__(self, "_hash", hash((self.law, self.program, self.shapes)))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def num_fields(self) -> int:
        return max((c.first + c.width for c in self.columns), default=1)

    @cached_property
    def params(self) -> dict[str, tuple[int, ...]]:
        return dict(self.shapes)

    def to_json(self) -> str:
        law, program = json.loads(self.law.to_json()), json.loads(self.program.to_json())
        return json.dumps({"traced": 1, "law": law, "program": program, "shapes": self.shapes})

    @staticmethod
    def from_parts(d: dict) -> TracedSpec:
        """Read what :meth:`to_json` wrote, already parsed."""
        law, program = SymmetryLaw.from_json(json.dumps(d["law"])), Program.from_json(json.dumps(d["program"]))
        return traced_spec(law, program, {name: tuple(shape) for name, shape in d["shapes"]})


def traced_spec(law: SymmetryLaw, program: Program, shapes: dict[str, tuple[int, ...]]) -> TracedSpec:
    """Lay the tensors of a traced network out as nodes and edges between the groups of its law."""
    widths: dict[str, int] = {}
    blocks: list[Block] = []
    columns: list[Column] = []
    for name, shape in shapes.items():
        legs = law.legs_of.get(name, ())
        pairs = _pairs(law, shape, legs)
        if pairs:
            blocks += [_block(name, shape, dst, src) for dst, src in pairs]
        else:
            columns += _columns(law, name, shape, legs, widths)
    used = {e for b in blocks for e in (b.src, b.dst)} | {c.group for c in columns}
    groups = [_group(g, law) for g in law.groups if g.id in used]
    if any(c.group == REST for c in columns):
        groups.append(NeuronGroup(id=REST, size=1, role="hidden"))
    order = {"input": 0, "hidden": 1, "output": 2}
    groups.sort(key=lambda g: order[g.role])
    return TracedSpec(
        groups=tuple(groups), blocks=tuple(blocks), law=law, program=program, shapes=tuple(shapes.items()),
        columns=tuple(columns),
    )  # fmt: skip


def _group(g: MoveGroup, law: SymmetryLaw) -> NeuronGroup:
    names = [a.removesuffix("_") for a in g.acts if a.removesuffix("_") in NAMES and a != "prelu"]
    gauges = law.gauges_of[g.id]
    gauge = Gauge.NONE
    for v in gauges[:1]:
        gauge = Gauge((Gauge.POSITIVE.value if v.scale else 0) | (Gauge.SIGN.value if v.sign else 0))
    act = Activation(names[0] if names else "identity")
    role = g.role if not (gauge or g.permutable) else "hidden"
    return NeuronGroup(id=g.id, size=g.size, role=role, activations=(act,), gauge=(gauge,), permutable=g.permutable)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Side:
    """Slots of one group on one axis as a grid: axis part ``start .. stop`` viewed as (outer, neurons, inner)."""

    group: str
    axis: int
    start: int
    stop: int
    view: tuple[int, int, int]
    where: tuple[tuple[int, int, int], ...]
    dst: bool


def _sides(law: SymmetryLaw, shape: tuple[int, ...], legs: tuple[Leg, ...], axis: int) -> list[_Side] | None:
    """All groups of an axis as grids that cover it exactly; None where that is not possible."""
    by_group: dict[tuple, list[Leg]] = {}
    for leg in legs:
        if leg.axis == axis:
            by_group.setdefault((leg.group, leg.where), []).append(leg)
    sides: list[_Side] = []
    for (group, _), parts in by_group.items():
        n = law.by_id[group].size
        stride = parts[0].stride if n > 1 else 1
        if any(p.places or (p.stride != stride and n > 1) for p in parts):
            return None
        starts = sorted(s for p in parts for s in p.starts)
        runs = [starts] if _grid(starts, n, stride) else [[s] for s in starts]
        if not all(_grid(run, n, stride) for run in runs):
            return None
        for run in runs:
            view = (len(run) // stride, n, stride)
            sides.append(_Side(group, axis, run[0], run[0] + len(run) * n, view, parts[0].where, parts[0].dst))
    covered = sum(s.stop - s.start for s in sides if not s.where)
    whole = covered == shape[axis] or (covered == 0 and bool(sides))
    return sides if whole else None


def _grid(starts: list[int], n: int, stride: int) -> bool:
    """Whether slots that begin there are ``(outer, neurons, inner = stride)`` in one piece."""
    outer, rest = divmod(len(starts), stride)
    return not rest and starts == [starts[0] + o * n * stride + t for o in range(outer) for t in range(stride)]


def _pairs(law: SymmetryLaw, shape: tuple[int, ...], legs: tuple[Leg, ...]) -> list[tuple[_Side, _Side]]:
    """Targets and sources of a tensor's edges; nothing where it has fewer than two axes of neurons."""
    axes = [(a, _sides(law, shape, legs, a)) for a in sorted({leg.axis for leg in legs})]
    good = [sides for _, sides in axes if sides]
    if len(good) < 2:
        return []
    heads = [sides for sides in good if sides[0].dst] or good[:1]
    dst = heads[0]
    src = next(sides for sides in good if sides is not dst)
    return [(d, s) for d in dst for s in src if _meet(d, s)]


def _meet(d: _Side, s: _Side) -> bool:
    """Whether columns that count in some rows only count in these."""
    return all(d.axis == axis and start <= d.start and d.stop <= stop for axis, start, stop in s.where)


def _block(name: str, shape: tuple[int, ...], d: _Side, s: _Side) -> Block:
    view: list[int] = []
    place = {}
    taps = []
    part = []
    for axis, size in enumerate(shape):
        side = d if axis == d.axis else s if axis == s.axis else None
        if side is None:
            taps += [len(view)] if size > 1 else []
            view += [size] if size > 1 else []
            continue
        if (side.start, side.stop) != (0, size):
            part.append((axis, side.start, side.stop))
        for k, extent in enumerate(side.view):
            if k == 1:
                place[axis] = len(view)
            elif extent > 1:
                taps.append(len(view))
            else:
                continue
            view.append(extent)
    kind = "conv" if len(shape) > 2 else "linear"
    dims = (place[d.axis], place[s.axis], *taps)
    return Block(
        param=name, src=s.group, dst=d.group, shape=shape, view=tuple(view), dims=dims, kind=kind, part=tuple(part)
    )


def _columns(
    law: SymmetryLaw, name: str, shape: tuple[int, ...], legs: tuple[Leg, ...], widths: dict[str, int]
) -> list[Column]:
    total = math.prod(shape)
    axes = sorted({leg.axis for leg in legs if not leg.where})
    for axis in axes:
        mine = [leg for leg in legs if leg.axis == axis and not leg.where]
        slots = {leg.group: 0 for leg in mine}
        out = []
        for leg in mine:
            size = law.by_id[leg.group].size
            count = len(leg.places) // size if leg.places else len(leg.starts)
            width = count * (total // shape[axis])
            first = widths.get(leg.group, 0)
            widths[leg.group] = first + width
            slots[leg.group] += count
            out.append(Column(name, leg.group, axis, leg.starts, leg.stride, leg.places, first, width))
        if sum(law.by_id[g].size * n for g, n in slots.items()) == shape[axis]:
            return out
        for column in out:
            widths[column.group] = column.first
    first = widths.get(REST, 0)
    widths[REST] = first + total
    return [Column(name, REST, -1, (), 0, (), first, total)]


def column_places(column: Column, size: int) -> np.ndarray:
    """``[neurons, slots]``: where the neurons of a column sit on its axis."""
    if column.places:
        return np.array(column.places).reshape(-1, size).T
    return np.array(column.starts)[None] + column.stride * np.arange(size)[:, None]


def decode_spec(text: str) -> NetSpec:
    """Read the JSON of a NetSpec or a TracedSpec.

    Raises:
        SpecError: the text is neither.
    """
    try:
        d = json.loads(text)
        return TracedSpec.from_parts(d) if "traced" in d else decode(d)
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"this text is no spec ({error}); write it with spec.to_json()") from error
