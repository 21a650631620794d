"""Where the neurons of a traced network sit in the values that its program computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from graphnfn.law import SymmetryLaw
from graphnfn.program import Op, Ref
from graphnfn.symmetry.exchange import orbits
from graphnfn.symmetry.law_element import places
from graphnfn.traced import TracedSpec

KINDS = ("linear", "conv", "transposed", "product", "embedding", "recurrent")
"""Kinds of operators that have sites."""


@dataclass(frozen=True)
class Site:
    """The result of an operator whose last weight says which neurons it holds, and where.

    The values transform along ``axis`` as the weight's own axis does, so that an entry times its adjoint is invariant
    under scales and signs and moves with permutations; over a slot of a linear group only the sum of products is.

    Args:
        op: name of the result.
        ends: the weights that say so, each with its axis; two where a recurrent layer runs in both directions.
        axis: of the result, from its end.
        kind: one of :data:`KINDS`.
        segment: ``[size]``, entry on the axis -> its place among the site's numbers; slots of linear groups share one.
        start: where the site's numbers begin among those of all sites.
        count: how many numbers it has.
        order: share of the tensors that the network uses before this one; equal for sites that may be exchanged.
    """

    op: str
    ends: tuple[tuple[str, int], ...]
    axis: int
    kind: str
    segment: Tensor
    start: int
    count: int
    order: float


@dataclass(frozen=True)
class Sites:
    """All sites of a spec.

    Args:
        sites: in the order of the program.
        tokens: names of embeddings' results whose indices depend on nothing but integer inputs -> their table.
    """

    sites: tuple[Site, ...]
    tokens: Mapping[str, str]

    @property
    def total(self) -> int:
        """Numbers of all sites together."""
        return sum(s.count for s in self.sites)

    def owner(self) -> Tensor:
        """``[total]``: number -> its site."""
        return torch.repeat_interleave(torch.tensor([s.count for s in self.sites], dtype=torch.long))


@lru_cache(maxsize=64)
def find_sites(spec: TracedSpec) -> Sites:
    """The sites of a network.

    Matrix products, convolutions, embeddings and recurrent layers are sites where they read a tensor of the state dict
    as it is, or transposed. Others are passed over, and so are axes that hold other neurons in other rows.
    """
    named = _Tensors(spec)
    twins, order = orbits(spec.law.exchanges), {name: k for k, name in enumerate(spec.params)}
    found: list[Site] = []
    start = 0
    for op in spec.program.ops:
        place = _place(op, named)
        parts = [] if place is None else [segments(spec.law, spec.params, name, axis) for name, axis in place.ends]
        if place is None or any(p is None for p in parts):
            continue
        segment = _joined([p for p in parts if p is not None])
        count = int(segment.max()) + 1
        first = place.ends[0][0]
        share = order[twins.get(first, first)] / len(order)
        found.append(Site(op.name, place.ends, place.axis, place.kind, segment, start, count, share))
        start += count
    return Sites(tuple(found), _soft_tokens(spec, named))


def segments(law: SymmetryLaw, shapes: Mapping[str, tuple[int, ...]], name: str, axis: int) -> Tensor | None:
    """``[size]``: entries along an axis that only their sum is invariant of have one number; all others their own.

    None where the law does not move the tensor's entries along this axis as a whole, or not the tensor at all.
    """
    if name not in shapes:
        return None
    axis %= len(shapes[name])
    legs = [leg for leg in law.legs_of.get(name, ()) if leg.axis == axis]
    if any(leg.where for leg in legs):
        return None
    linear = {v.group for v in law.gauges if v.linear}
    out = torch.arange(shapes[name][axis])
    for leg in legs:
        if leg.group in linear:
            index = places(leg, law.by_id[leg.group].size)
            out[index] = index[:1].clone()
    return out.unique(return_inverse=True)[1]


def _joined(parts: list[Tensor]) -> Tensor:
    start, out = 0, []
    for part in parts:
        out.append(part + start)
        start += int(part.max()) + 1
    return torch.cat(out)


@dataclass(frozen=True)
class _Place:
    """Weights, with the axes that lead to the neurons of a result, and where these are in it."""

    ends: tuple[tuple[str, int], ...]
    axis: int
    kind: str


class _Tensors:
    """Which values of a program are tensors of the state dict, perhaps transposed."""

    def __init__(self, spec: TracedSpec) -> None:
        self.shapes = spec.params
        self.named: dict[str, tuple[str, tuple[int, ...] | None]] = {v: (n, None) for v, n in spec.program.tensors}
        for op in spec.program.ops:
            source = op.args[0] if op.args else None
            turned = _TURNS.get(op.target)
            if turned and isinstance(source, Ref) and source.name in self.named:
                name, before = self.named[source.name]
                order = turned(op.args[1:])
                if before is None and order is not None and len(self.shapes.get(name, ())) == len(order):
                    self.named[op.name] = (name, order)

    def axis(self, value: Any, axis: int, rank: int | None = None) -> tuple[str, int] | None:
        """The tensor, and which of its axes that axis of the value is; None where it is no tensor of this rank."""
        if not isinstance(value, Ref) or value.name not in self.named:
            return None
        name, order = self.named[value.name]
        shape = self.shapes.get(name)
        if shape is None or (rank is not None and len(shape) != rank):
            return None
        return name, axis if order is None else order[axis]


_TURNS: dict[str, Callable[[tuple[Any, ...]], tuple[int, ...] | None]] = {
    "aten.t.default": lambda _: (1, 0),
    "aten.numpy_T.default": lambda _: (1, 0),
    "aten.permute.default": lambda args: tuple(args[0]),
    "aten.transpose.int": lambda args: (1, 0) if {a % 2 for a in args} == {0, 1} else None,
}
"""Operators that reorder the axes of a matrix; None where more than two axes may be meant."""


def _place(op: Op, tensors: _Tensors) -> _Place | None:
    name = op.target.split(".")[1] if "." in op.target else op.target
    if name == "linear":
        return _single(tensors.axis(op.args[1], 0, 2), -1, "linear")
    if name in ("mm", "matmul", "addmm"):
        left, right = op.args[1:3] if name == "addmm" else op.args[:2]
        end = tensors.axis(right, 1, 2)
        return _single(end, -1, "product") if end else _single(tensors.axis(left, 0, 2), -2, "product")
    if name in ("conv1d", "conv2d", "conv3d"):
        return _single(tensors.axis(op.args[1], 0), -1 - int(name[4]), "conv")
    if name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
        return _single(tensors.axis(op.args[1], 1), -1 - int(name[14]), "transposed")
    if name == "embedding":
        return _single(tensors.axis(op.args[0], 1, 2), -1, "embedding")
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu") and op.target.endswith(".input"):
        return _recurrent(op, tensors)
    return None


def _single(end: tuple[str, int] | None, axis: int, kind: str) -> _Place | None:
    return None if end is None else _Place((end,), axis, kind)


def _recurrent(op: Op, tensors: _Tensors) -> _Place | None:
    """The states of the last layer: what its hidden weights read, direction by direction."""
    params, layers, directions = op.args[2], op.args[4], 2 if op.args[7] else 1
    per = len(params) // (layers * directions)
    ends = [tensors.axis(params[per * ((layers - 1) * directions + d) + 1], 1) for d in range(directions)]
    known = [e for e in ends if e is not None]
    return _Place(tuple(known), -1, "recurrent") if len(known) == directions else None


def _soft_tokens(spec: TracedSpec, tensors: _Tensors) -> dict[str, str]:
    """Embeddings of indices that come from the inputs alone, in tables whose rows stay where they are."""
    program = spec.program
    given, fixed = set(program.inputs), set(program.inputs) | set(program.constants)
    found: dict[str, str] = {}
    for op in program.ops:
        refs = set(op.refs())
        if op.target == "aten.embedding.default" and isinstance(op.args[1], Ref) and op.args[1].name in given:
            end = tensors.axis(op.args[0], 0, 2)
            if end is not None and end[1] == 0 and _stays(spec.law, end[0], 0):
                found[op.name] = end[0]
        if refs <= fixed:
            fixed.add(op.name)
            given |= {op.name} if refs & given else set()
    return found


def _stays(law: SymmetryLaw, name: str, axis: int) -> bool:
    """Whether no element of the law moves entries along that axis of a tensor."""
    exchanged = {(p.param, p.axis) for e in law.exchanges for part in e.parts for p in part}
    moving = {g for family in law.families for bundle in family for g in bundle}
    moving |= {g.id for g in law.groups if g.permutable or law.gauges_of[g.id]}
    legs = [leg for leg in law.legs_of.get(name, ()) if leg.axis == axis]
    return (name, axis) not in exchanged and not any(leg.group in moving or leg.where for leg in legs)
