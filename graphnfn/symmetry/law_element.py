"""Group elements of a SymmetryLaw, and their action on the tensors of a traced network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from graphnfn.errors import SymmetryError
from graphnfn.law import Leg, SymmetryLaw
from graphnfn.symmetry.exchange import exchanged


@dataclass(frozen=True)
class LawElement:
    """What happens to the neurons of a traced network.

    Args:
        law: the symmetry.
        source: group -> the group that takes its place (families only; groups that are not listed stay).
        perm: group -> new neuron i is old neuron ``perm[i]``.
        factor: gauge -> factor of every neuron, positive or negative.
        matrix: gauge of kind GL -> invertible matrix M, ``z' = M z``.
        order: exchange -> new part k is old part ``order[k]``, after all of the above.
        first: an element that acts before this one.

    Raises:
        SymmetryError: an entry is outside the group that the law claims.
    """

    law: SymmetryLaw
    source: Mapping[str, str] = field(default_factory=dict)
    perm: Mapping[str, Tensor] = field(default_factory=dict)
    factor: Mapping[str, Tensor] = field(default_factory=dict)
    matrix: Mapping[str, Tensor] = field(default_factory=dict)
    order: Mapping[str, Tensor] = field(default_factory=dict)
    first: LawElement | None = None

    def __post_init__(self) -> None:
        gauges = {g.id: g for g in self.law.gauges}
        for name, perm in self.perm.items():
            group = self.law.by_id[name]
            moved = not torch.equal(perm, torch.arange(len(perm)))
            if moved and not group.permutable:
                raise SymmetryError(f"group {name!r} cannot be permuted: {group.reason or 'it is fixed'}")
            if len(perm) != group.size or not torch.equal(perm.sort().values, torch.arange(group.size)):
                raise SymmetryError(f"group {name!r}: perm is no permutation of 0 .. {group.size - 1}")
        for name, factor in self.factor.items():
            gauge = gauges[name]
            if not torch.isfinite(factor).all() or (factor == 0).any():
                raise SymmetryError(f"gauge {name!r}: factors must be finite and not 0")
            if (not gauge.sign and (factor < 0).any()) or (not gauge.scale and (factor.abs() != 1).any()):
                raise SymmetryError(f"gauge {name!r} is of kind {gauge.kind}: {gauge.reason}")
        for name in self.matrix:
            if not gauges[name].linear:
                raise SymmetryError(f"gauge {name!r} is of kind {gauges[name].kind}, not GL: {gauges[name].reason}")

        parts = {e.id: len(e.parts) for e in self.law.exchanges}
        for name, order in self.order.items():
            if not torch.equal(order.sort().values, torch.arange(parts[name])):
                raise SymmetryError(f"exchange {name!r}: order is no permutation of 0 .. {parts[name] - 1}")

    def inverse(self) -> LawElement:
        """The element that undoes this one."""
        out = LawElement(self.law)
        for step in self._steps():
            if not step.order:
                out = out @ step._moves_back()
            for exchange in self.law.exchanges:  # in the order in which they act
                if exchange.id in step.order:
                    out = out @ LawElement(self.law, order={exchange.id: step.order[exchange.id].argsort()})
        return out

    def _moves_back(self) -> LawElement:
        back = {s: t for t, s in self.source.items()}
        perm, factor, matrix = {}, {}, {}
        for group in self.law.groups:
            target = back.get(group.id, group.id)
            p = self._perm(target).argsort()
            perm[group.id] = p
            for gauge, twin in self._twins(group.id, target):
                if twin in self.factor:
                    factor[gauge] = 1 / self.factor[twin][p]
                if twin in self.matrix:
                    matrix[gauge] = torch.linalg.inv(self.matrix[twin])
        return LawElement(self.law, back, perm, factor, matrix)

    def __matmul__(self, first: LawElement) -> LawElement:
        """``a @ b``: b followed by a."""
        if self.law != first.law:
            raise SymmetryError("these elements belong to different networks: compose elements of one spec")
        steps = [*first._steps(), *self._steps()]
        out = steps[0]
        for step in steps[1:]:
            plain = not (out.order or out.first or step.order)
            out = step._moves_after(out) if plain else replace(step, first=out)
        return out

    def _steps(self) -> list[LawElement]:
        """Elements that either move neurons or exchange parts, in the order in which they act."""
        before = [] if self.first is None else self.first._steps()
        moves = LawElement(self.law, self.source, self.perm, self.factor, self.matrix)
        steps = [moves] if self.source or self.perm or self.factor or self.matrix or not self.order else []
        return [*before, *steps, *([LawElement(self.law, order=self.order)] if self.order else [])]

    def _moves_after(self, first: LawElement) -> LawElement:
        source, perm, factor, matrix = {}, {}, {}, {}
        for group in self.law.groups:
            middle = self.source.get(group.id, group.id)
            end = first.source.get(middle, middle)
            if end != group.id:
                source[group.id] = end
            p = self._perm(group.id)
            perm[group.id] = first._perm(middle)[p]
            for gauge, twin in self._twins(group.id, middle):
                one = self.factor.get(gauge)
                two = first.factor[twin][p] if twin in first.factor else None
                if one is not None or two is not None:
                    factor[gauge] = (1.0 if one is None else one) * (torch.ones(1) if two is None else two)
                if gauge in self.matrix or twin in first.matrix:
                    eye = torch.eye(group.size, dtype=torch.float64)
                    matrix[gauge] = self.matrix.get(gauge, eye) @ first.matrix.get(twin, eye)
        return LawElement(self.law, source, perm, factor, matrix)

    def _perm(self, group: str) -> Tensor:
        return self.perm.get(group, torch.arange(self.law.by_id[group].size))

    def _twins(self, group: str, other: str) -> list[tuple[str, str]]:
        mine, theirs = self.law.gauges_of[group], self.law.gauges_of[other]
        return [(a.id, b.id) for a, b in zip(mine, theirs, strict=True)]

    def act(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The transformed tensors; those without neurons are passed on.

        Half precision is computed in float32.
        """
        out = dict(tensors) if self.first is None else self.first.act(tensors)
        for name, legs in self.law.legs_of.items():
            if name in out:
                out[name] = self.move(out[name], legs)
        for exchange in self.law.exchanges:
            if exchange.id in self.order:
                out = exchanged(out, exchange, self.order[exchange.id].tolist())
        return out

    def move(self, tensor: Tensor, legs: tuple[Leg, ...]) -> Tensor:
        """One tensor, moved along some of its legs."""
        half = tensor.dtype in (torch.float16, torch.bfloat16)
        value = (tensor.float() if half else tensor).clone()
        for leg in (leg for leg in legs if leg.where):  # columns within their rows first, then the rows move
            region = self._twin_leg(leg).where[0]
            rows = value.narrow(region[0], region[1], region[2] - region[1])
            rows.copy_(self._along(rows, leg.axis, [leg], self._same_places))
        for axis in sorted({leg.axis for leg in legs if not leg.where}):
            here = [leg for leg in legs if leg.axis == axis and not leg.where]
            value = self._along(value, axis, here, self._twin_places)
        return value.to(tensor.dtype)

    def _twin_leg(self, leg: Leg) -> Leg:
        other = self.source.get(leg.group, leg.group)
        mine = [x for x in self.law.legs_of[leg.param] if x.group == leg.group]
        theirs = [x for x in self.law.legs_of[leg.param] if x.group == other]
        return theirs[mine.index(leg)]

    def _twin_places(self, leg: Leg) -> Tensor:
        twin = self._twin_leg(leg) if leg.group in self.source else leg
        return places(twin, self.law.by_id[leg.group].size)

    def _same_places(self, leg: Leg) -> Tensor:
        return places(leg, self.law.by_id[leg.group].size)

    def _along(self, value: Tensor, axis: int, legs: list[Leg], origin: object) -> Tensor:
        index = torch.arange(value.shape[axis])
        factors = torch.ones(value.shape[axis], dtype=torch.float64)
        plain = True
        for leg in legs:
            target = places(leg, self.law.by_id[leg.group].size)
            index[target] = origin(leg)[self._perm(leg.group)]  # type: ignore[operator]
            row = self._row(leg)
            if row is not None:
                factors[target] = row[:, None].expand(target.shape)
                plain = False
        value = value.index_select(axis, index.to(value.device))
        if not plain:
            shape = [-1 if a == axis else 1 for a in range(value.dim())]
            value = (value.double() * factors.to(value.device).view(shape)).to(value.dtype)
        for leg in legs:
            for gauge, power in leg.scale:
                if gauge in self.matrix:
                    value = self._mixed(value, axis, leg, self.matrix[gauge], power)
        return value

    def _row(self, leg: Leg) -> Tensor | None:
        """What multiplies the entries of every neuron."""
        row = None
        for gauge, power in leg.scale:
            if gauge in self.factor:
                part = self.factor[gauge].double().abs() ** power
                row = part if row is None else row * part
        for gauge in leg.sign:
            if gauge in self.factor:
                part = torch.where(self.factor[gauge] < 0, -1.0, 1.0).double()
                row = part if row is None else row * part
        return row

    def _mixed(self, value: Tensor, axis: int, leg: Leg, matrix: Tensor, power: float) -> Tensor:
        mix = matrix if power > 0 else torch.linalg.inv(matrix).T
        target = places(leg, len(matrix)).to(value.device)
        moved = value.movedim(axis, 0)  # a view: only the group's own entries are written
        part = moved[target.reshape(-1)].reshape(*target.shape, -1).double()
        mixed = torch.einsum("ij,jsr->isr", mix.double().to(part.device), part)
        moved[target.reshape(-1)] = mixed.reshape(target.numel(), *moved.shape[1:]).to(moved.dtype)
        return value


def places(leg: Leg, size: int) -> Tensor:
    """``[neurons, slots]``: where the neurons of a leg's group sit on its axis."""
    if leg.places:
        return torch.tensor(leg.places).view(-1, size).T
    return torch.tensor(leg.starts)[None] + leg.stride * torch.arange(size)[:, None]


def random_law_element(
    law: SymmetryLaw,
    decades: float = 2.0,
    seed: int | torch.Generator | None = None,
    *,
    permute: bool = True,
    groups: set[str] | None = None,
) -> LawElement:
    """Draw an element: uniform permutations, exchanges and signs, log-uniform scales, GL matrices of such condition.

    Args:
        law: whose symmetry group.
        decades: scales are 10^u with u uniform on [-decades / 2, decades / 2]; so are singular values of matrices, but
            over two decades at most: their condition multiplies rounding errors.
        seed: an integer, a generator, or None for PyTorch's default generator.
        permute: False leaves neurons and families in place.
        groups: only these groups move; families and parts then stay.
    """
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(
        int(torch.randint(2**31, ())) if seed is None else seed)  # fmt: skip
    perm, factor, matrix = {}, {}, {}

    def scales(n: int, width: float = decades) -> Tensor:
        exponent = (torch.rand(n, generator=generator, dtype=torch.float64) - 0.5) * width
        return torch.exp(exponent * math.log(10.0))

    def rotation(n: int) -> Tensor:
        return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q

    for group in law.groups:
        if groups is not None and group.id not in groups:
            continue
        linear = [g for g in law.gauges_of[group.id] if g.linear]
        for gauge in linear:
            stretch = scales(group.size, min(decades, 2.0))
            matrix[gauge.id] = (rotation(group.size) * stretch) @ rotation(group.size)
        if linear:
            continue
        if group.permutable and permute:
            perm[group.id] = torch.randperm(group.size, generator=generator)
        for gauge in law.gauges_of[group.id]:
            values = scales(group.size) if gauge.scale else torch.ones(group.size, dtype=torch.float64)
            if gauge.sign:
                values = values * (torch.randint(2, (group.size,), generator=generator) * 2 - 1)
            factor[gauge.id] = values
    if not permute or groups is not None:
        return LawElement(law, {}, perm, factor, matrix)
    source = _bundles(law, generator)
    order = {e.id: torch.randperm(len(e.parts), generator=generator) for e in law.exchanges}
    return LawElement(law, source, perm, factor, matrix, order)


def _bundles(law: SymmetryLaw, generator: torch.Generator) -> dict[str, str]:
    source: dict[str, str] = {}
    for family in law.families:
        order = torch.randperm(len(family), generator=generator).tolist()
        for target, origin in zip(family, [family[k] for k in order], strict=True):
            source.update({t: o for t, o in zip(target, origin, strict=True) if t != o})
    return source
