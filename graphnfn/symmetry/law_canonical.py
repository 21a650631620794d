"""Canonical forms of traced networks: unit incoming norms for scales, balanced singular values for linear groups."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphnfn.law import GaugeVar, Leg, SymmetryLaw
from graphnfn.symmetry.law_element import LawElement, places


def canonical_element(law: SymmetryLaw, tensors: Mapping[str, Tensor]) -> LawElement:
    """The element that leads to the canonical form under positive scales and GL; permutations and signs stay.

    Scales: tensors are taken in the order in which the network uses them. Where the entries of a group in a tensor
    scale with a product of gauges that is not settled yet, ``n_i`` is their norm for neuron i, on canonical sources,
    and the product of the gauges' factors shall be ``1 / n_i`` (1 for zeros). GL pairs with incoming D and outgoing S:
    ``D = L Q^T``, ``S = P R``, ``R L = U diag(s) V^T``, then ``M = diag(s)^(1/2) V^T L^(-1)``, which gives both sides
    the singular values ``s^(1/2)``; singular pairs stay as they are.

    Args:
        law: of the network.
        tensors: its weights, in the order in which the network uses them.
    """
    wide = {name: t.detach() for name, t in tensors.items() if name in law.legs_of}
    linear = {g.id for g in law.gauges if g.linear}
    systems = {g.id: _Scales(law, g.id) for g in law.groups}
    legs = [leg for name in wide for leg in law.legs_of[name] if leg.scale and leg.scale[0][0] not in linear]
    for leg in [*(x for x in legs if x.dst), *(x for x in legs if not x.dst)]:
        system = systems[leg.group]
        if system.settles(leg):
            others = {g: f for name, s in systems.items() if name != leg.group for g, f in s.factors.items()}
            system.add(leg, _rows(law, LawElement(law, factor=others), wide, leg).norm(dim=1))
    element = LawElement(law, factor={g: f for s in systems.values() for g, f in s.factors.items()})
    matrix: dict[str, Tensor] = {}
    for gauge in law.gauges:
        mix = _balancing(law, element, wide, gauge) if gauge.linear else None
        if mix is not None:
            matrix[gauge.id] = mix
    return LawElement(law, factor=element.factor, matrix=matrix)


class _Scales:
    """The factors of one group's gauges, from norms that products of them shall make 1."""

    def __init__(self, law: SymmetryLaw, group: str) -> None:
        self.gauges = [g.id for g in law.gauges_of[group] if g.scale and not g.linear]
        self.powers = torch.zeros(0, len(self.gauges), dtype=torch.float64)
        self.logs = torch.zeros(0, law.by_id[group].size, dtype=torch.float64)
        self.factors: dict[str, Tensor] = {}

    def _row(self, leg: Leg) -> Tensor:
        powers = dict(leg.scale)
        return torch.tensor([[powers.get(g, 0.0) for g in self.gauges]], dtype=torch.float64)

    def settles(self, leg: Leg) -> bool:
        """Whether a norm of this leg would say something new."""
        rows = torch.cat([self.powers, self._row(leg)])
        return int(torch.linalg.matrix_rank(rows)) == len(rows)

    def add(self, leg: Leg, norm: Tensor) -> None:
        alive = norm > torch.finfo(torch.float32).tiny
        self.powers = torch.cat([self.powers, self._row(leg)])
        self.logs = torch.cat([self.logs, torch.where(alive, norm, 1.0).log()[None]])
        logs = -torch.linalg.pinv(self.powers) @ self.logs
        self.factors = {g: logs[k].exp() for k, g in enumerate(self.gauges)}


def _rows(law: SymmetryLaw, element: LawElement, tensors: Mapping[str, Tensor], leg: Leg) -> Tensor:
    """``[neurons, entries]`` of a leg in float64, with its other axes moved by an element."""
    tensor, legs = tensors[leg.param], law.legs_of[leg.param]
    size = law.by_id[leg.group].size
    index = places(leg, size).reshape(-1).to(tensor.device)
    if any(other.where for other in legs):  # rows and columns are not independent
        tensor = element.act({leg.param: tensor.double()})[leg.param]
        for axis, start, stop in leg.where:
            tensor = tensor.narrow(axis, start, stop - start)
        rows = tensor.index_select(leg.axis, index)
    else:
        others = tuple(other for other in legs if other.axis != leg.axis)
        rows = element.move(tensor.index_select(leg.axis, index).double(), others)
    return rows.movedim(leg.axis, 0).reshape(size, -1).cpu()


def _balancing(law: SymmetryLaw, element: LawElement, tensors: Mapping[str, Tensor], gauge: GaugeVar) -> Tensor | None:
    legs = [(leg, power) for leg in law.legs for g, power in leg.scale if g == gauge.id]
    into = [_rows(law, element, tensors, leg) for leg, power in legs if power > 0]
    out = [_rows(law, element, tensors, leg) for leg, power in legs if power < 0]
    if not into or not out:
        return None
    d, s = torch.cat(into, 1), torch.cat(out, 1)
    left = torch.linalg.qr(d.T).R.T
    right = torch.linalg.qr(s.T).R
    if left.shape[0] != left.shape[1] or right.shape[0] != right.shape[1]:
        return None
    _, singular, v = torch.linalg.svd(right @ left)
    floor = 1e-12 * singular.max()
    if not bool(singular.max() > 0) or bool((singular <= floor).any()):
        return None
    mix = singular.sqrt()[:, None] * v @ torch.linalg.inv(left)
    moved = mix @ d
    peak = moved.gather(1, moved.abs().argmax(1, keepdim=True))
    return mix * torch.where(peak < 0, -1.0, 1.0)
