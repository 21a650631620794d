"""Index tensors of a spec, built once and cached: edge lists, masks, group and activation ids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from graphnfn.activations import Gauge
from graphnfn.spec import Block, NetSpec

ROLES = ("input", "hidden", "output")


@dataclass(frozen=True)
class NodeFacts:
    """Per neuron of one network: group, level, role, activation id and parameter, gauge, place in its group."""

    group: Tensor
    level: Tensor
    role: Tensor
    activation: Tensor
    gauge: Tensor
    place: Tensor


@lru_cache(maxsize=512)
def node_facts(spec: NetSpec) -> NodeFacts:
    """Static facts of the neurons of ``spec``, each ``[nodes]``."""
    rows: list[tuple[int, ...]] = []
    for i, g in enumerate(spec.groups):
        level, role = spec.levels[i], ROLES.index(g.role)
        for place, (act, gauge) in enumerate(g.per_neuron()):
            rows.append((i, level, role, act.code, gauge.value, place))
    return NodeFacts(*torch.tensor(rows).T.contiguous())


@lru_cache(maxsize=512)
def edges(spec: NetSpec) -> tuple[Tensor, ...]:
    """Per block, its ``edge_index`` within one network, ``[2, n_dst * n_src]``, targets outermost."""
    out = []
    for b in spec.blocks:
        n_dst, n_src = b.sizes
        dst = torch.arange(n_dst).repeat_interleave(n_src) + spec.span(b.dst).start
        src = torch.arange(n_src).repeat(n_dst) + spec.span(b.src).start
        out.append(torch.stack([src, dst]))
    return tuple(out)


@lru_cache(maxsize=2048)
def tap_slots(block: Block, grid: tuple[int, ...]) -> Tensor:
    """Where a block's taps lie on a (flattened) common tap grid, centred; ``[taps]``."""
    taps = (1,) * (len(grid) - len(block.taps)) + block.taps
    slots = torch.zeros((), dtype=torch.long)
    for size, extent in zip(taps, grid, strict=True):
        slots = slots[..., None] * extent + (extent - size) // 2 + torch.arange(size)
    return slots.flatten()


def has_sign(gauge: Tensor) -> Tensor:
    """Which gauge values contain the sign flip."""
    return (gauge & Gauge.SIGN.value).bool()
