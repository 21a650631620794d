"""Which places of a source every place of a target reads: what compiled runs of networks know of a spec beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from graphnfn.nn.library import bits
from graphnfn.nn.plan import Plan, plan_of
from graphnfn.spec import Block, NetSpec

_FOLDS = ("flatten", "global_avg_pool")


@dataclass(frozen=True)
class Course:
    """How the networks of a spec run on inputs of a given extent, ``z[q] = b + f sum_(t, s) w[t] x[s]`` place by place.

    Args:
        plan: of the spec.
        places: positions per group.
        entries: per block, for targets and for sources, (start, from, tap) as ``answers.c`` wants them.
        factors: per block, f as the bits of a double: a mean over places is a sum with the factor ``1 / places``.
        hidden: neurons of hidden groups.
    """

    plan: Plan
    places: tuple[int, ...]
    entries: tuple[tuple[Tensor, ...], ...]
    factors: tuple[int, ...]
    hidden: int


@lru_cache(maxsize=512)
def course_of(spec: NetSpec, positions: tuple[int, ...]) -> Course | None:
    """The course of a spec on inputs with these positions; None where only :func:`graphnfn.functional.run` knows it.

    Known are chains and graphs of convolutions, dense layers, flattening and global mean pooling with one of the
    activations of ``answers.c`` per group.

    Example:
        >>> from graphnfn.chain import small_cnn_spec
        >>> course = course_of(small_cnn_spec([1, 4, 4], 3, "relu", stride=2), (15, 15))
        >>> course.places, [entries[1].numel() for entries in course.entries]
        ((225, 49, 9, 1), [441, 81, 9])
    """
    plan = plan_of(spec, torch.device("cpu"))
    plain = all(g.norm_eps is None and all(a.rule.elementwise for a in g.activations) for g in spec.groups)
    if plan.rows is None or not plan.simple or not plain or any(b.post for b in spec.blocks):
        return None
    extents = {spec.groups[0].id: positions}
    found: dict[int, tuple[tuple[Tensor, ...], int]] = {}
    for b in (b for ways in spec.incoming for b in ways):
        block = spec.blocks[b]
        read = _read(block, extents[block.src]) if block.src in extents else None
        if read is None or extents.setdefault(block.dst, read.reach) != read.reach:
            return None
        found[b] = _entries(read, math.prod(extents[block.src])), bits(read.factor)
    if len(extents) < len(spec.groups):
        return None
    entries, factors = zip(*(found[b] for b in range(len(spec.blocks))), strict=True)
    places = tuple(math.prod(extents[g.id]) for g in spec.groups)
    hidden = sum(g.size for g in spec.groups if g.role == "hidden")
    return Course(plan, places, entries, factors, hidden)


class _Read(NamedTuple):
    """What a block reads: source places ``at[target place, column]`` (-1: padding) with the taps of the columns."""

    at: Tensor
    taps: Tensor
    reach: tuple[int, ...]
    factor: float


def _read(block: Block, extents: tuple[int, ...]) -> _Read | None:
    kinds, places = [op.kind for op in block.pre], math.prod(extents)
    if block.kind == "linear" and all(kind in _FOLDS for kind in kinds):
        every = torch.arange(places)
        if "global_avg_pool" in kinds:
            return _Read(every[None], torch.zeros_like(every), (), 1 / places) if block.num_taps == 1 else None
        return _Read(every[None], every, (), 1.0) if block.num_taps == places else None
    if block.conv is None or kinds or len(extents) != len(block.taps):
        return None
    at, inside, reach = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool), []
    facts = (extents, block.taps, block.conv.stride, block.conv.padding, block.conv.dilation)
    for n, taps, stride, padding, dilation in zip(*facts, strict=True):
        reach.append((n + 2 * padding - dilation * (taps - 1) - 1) // stride + 1)
        i = ((torch.arange(max(reach[-1], 0)) * stride - padding)[:, None] + torch.arange(taps) * dilation)[:, None]
        at = (at[:, None, :, None] * n + i).flatten(2).flatten(0, 1)
        inside = (inside[:, None, :, None] & (i >= 0) & (i < n)).flatten(2).flatten(0, 1)
    read = _Read(torch.where(inside, at, -1), torch.arange(block.num_taps), tuple(reach), 1.0)
    return read if min(reach) > 0 else None


def _entries(read: _Read, sources: int) -> tuple[Tensor, ...]:
    """Lists, one behind another, of what every target place reads, and of what reads every source place."""
    target, column = (read.at >= 0).nonzero(as_tuple=True)
    source, tap = read.at[target, column], read.taps[column]
    order = source.argsort(stable=True)
    return (_starts(target, len(read.at)), source, tap, _starts(source, sources), target[order], tap[order])


def _starts(members: Tensor, count: int) -> Tensor:
    return torch.cat([members.new_zeros(1), members.bincount(minlength=count).cumsum(0)])
