"""Maps of the tensors of traced networks that look like symmetries but change what the networks compute."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from graphnfn.law import Leg
from graphnfn.running import run_traced
from graphnfn.spec import Block
from graphnfn.symmetry.law_element import places
from graphnfn.traced import TracedSpec
from graphnfn.traced_stack import TracedStack

TensorMap = Callable[[str, Tensor], Tensor]


def traced_rows(stack: TracedStack, generator: torch.Generator) -> TensorMap | None:
    """Neurons that one tensor leads to change places there, and nowhere else."""
    return _cycled(stack, generator, dst=True)


def traced_columns(stack: TracedStack, generator: torch.Generator) -> TensorMap | None:
    """Neurons that one tensor comes from change places there, and nowhere else."""
    return _cycled(stack, generator, dst=False)


def traced_factors(stack: TracedStack, generator: torch.Generator) -> TensorMap:
    """Every entry of the matrices and kernels gets its own factor."""
    draws = {n: torch.rand(t.shape, generator=generator) * 2 - 1 for n, t in stack.tensors.items() if t.dim() > 2}
    return lambda name, t: t * torch.exp(draws[name] * math.log(4.0)).to(t) if name in draws else t


def traced_signs(stack: TracedStack, generator: torch.Generator) -> TensorMap | None:
    """The signs of one tensor's entries are shuffled."""
    chosen = _hidden_block(stack.spec)
    if chosen is None:
        return None
    sign = torch.where(stack.tensors[chosen.param].detach() < 0, -1.0, 1.0).flatten(1).cpu()
    order = torch.rand(sign.shape, generator=generator).argsort(-1)
    flips = (sign * sign.gather(1, order)).view(stack.tensors[chosen.param].shape)
    return lambda name, t: t * flips.to(t) if name == chosen.param else t


def traced_changes(old: TracedStack, new: TracedStack, seed: int) -> list[float]:
    """Per network, the largest relative change of an output on random inputs."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [
        torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device) if x.is_floating_point() else x
        for x in old.inputs
    ]
    changes = []
    with torch.no_grad():
        for row in range(old.size):
            before, after = (run_traced(s.apply(lambda t: t.double()), row, inputs) for s in (old, new))
            pairs = [(a, b) for a, b in zip(before, after, strict=True) if a.is_floating_point() and a.numel()]
            tiny = torch.finfo(torch.float64).tiny
            changes.append(max(float((a - b).norm() / a.norm().clamp_min(tiny)) for a, b in pairs))
    return changes


def _hidden_block(spec: TracedSpec) -> Block | None:
    """The block with most hidden ends of several neurons."""
    wide = {g.id for g in spec.groups if g.role == "hidden" and g.size > 1}
    found = [b for b in spec.blocks if b.dst in wide or b.src in wide]
    return max(found, key=lambda b: (b.dst in wide) + (b.src in wide), default=None)


def _cycled(stack: TracedStack, generator: torch.Generator, *, dst: bool) -> TensorMap | None:
    law = stack.spec.law
    for block in stack.spec.blocks:
        group = law.by_id.get(block.dst if dst else block.src)
        legs = [] if group is None else [x for x in law.legs_of[block.param] if _means(x, group.id, dst)]
        if group is None or group.size < 2 or group.role != "hidden" or not legs:
            continue
        perm = torch.randperm(group.size, generator=generator)
        turn = torch.empty_like(perm)
        turn[perm] = perm.roll(1)  # one cycle: no place is left alone
        return _mover(block.param, legs[0], turn)
    return None


def _means(leg: Leg, group: str, dst: bool) -> bool:
    return leg.group == group and leg.dst == dst and not leg.where


def _mover(param: str, leg: Leg, turn: Tensor) -> TensorMap:
    def move(name: str, t: Tensor) -> Tensor:
        if name != param:
            return t
        index = torch.arange(t.shape[leg.axis + 1])
        place = places(leg, len(turn))
        index[place] = place[turn]
        return t.index_select(leg.axis + 1, index.to(t.device))

    return move
