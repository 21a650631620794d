"""Facts of neuron groups that do not depend on the weights, made once per spec and device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from graphnfn.activations import Gauge
from graphnfn.nn.parity import Parts
from graphnfn.spec import NetSpec


@dataclass(frozen=True)
class GroupFacts:
    """What a level needs to know of a neuron group, independent of the weights."""

    place: Tensor
    depth_in: Tensor
    depth_out: Tensor
    kind: Tensor
    signed: Tensor | bool
    periodic: Tensor | bool
    plain: bool
    parts: Parts


@lru_cache(maxsize=256)
def group_facts(spec: NetSpec, device: torch.device) -> tuple[GroupFacts, ...]:
    """Per group of the spec, its facts on a device."""
    facts = []
    for i, group in enumerate(spec.groups):
        pairs = group.per_neuron()
        signed = [bool(g & Gauge.SIGN) for _, g in pairs]
        periodic = [a.rule.half_turns and group.half_turns for a, _ in pairs]
        plain = [not s or (bool(a.phi_sign) and not a.rule.half_turns) for (a, _), s in zip(pairs, signed, strict=True)]
        distinct = list(dict.fromkeys((a, bool(g & Gauge.SIGN)) for a, g in pairs))
        parts = []
        for act, sign in distinct:
            rows = torch.tensor([(a, bool(g & Gauge.SIGN)) == (act, sign) for a, g in pairs], device=device)
            parts.append((act, sign, None if len(distinct) == 1 else rows[:, None]))
        facts.append(
            GroupFacts(
                place=torch.arange(group.size, device=device),
                depth_in=torch.full((group.size,), spec.levels[i], device=device),
                depth_out=torch.full((group.size,), spec.heights[i], device=device),
                kind=torch.tensor([a.code for a, _ in pairs], device=device),
                signed=one_answer(signed, device),
                periodic=one_answer(periodic, device),
                plain=all(plain),
                parts=tuple(parts),
            )
        )
    return tuple(facts)


@lru_cache(maxsize=256)
def hidden_signs(spec: NetSpec, device: torch.device) -> Tensor | bool:
    """Whether the signs of hidden neurons are free, a mask ``[n, 1]`` over all of them or one answer."""
    pairs = [pair for group in spec.groups if group.role == "hidden" for pair in group.per_neuron()]
    return one_answer([bool(gauge & Gauge.SIGN) for _, gauge in pairs], device) if pairs else False


def one_answer(values: list[bool], device: torch.device) -> Tensor | bool:
    """A mask ``[n, 1]``, or a plain bool where all agree, which spares the layers work."""
    return values[0] if len(set(values)) == 1 else torch.tensor(values, device=device)[:, None]
