"""Building blocks of ScaleGMN: maps of node and edge features that commute with scales or signs of neurons.

Kalogeropoulos, Bouritsas, Panagakis, "Scale Equivariant Graph Metanetworks" (2024, arXiv 2406.10685), section 5:
ScaleInv c(x) then phi, ScaleEq ``(W x) * phi(c(x))``, ReScaleEq as a product of linear maps.

The published code computes all of it edge by edge. Here a linear map behind a canonical form acts before the
division by the norm, on neurons instead of edges wherever it can, and factors stay outside until they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT, HIDDEN, OUTPUT = range(3)


@dataclass(frozen=True)
class Scaled:
    """``factor * base`` that is not multiplied out: ``[..., 1]`` times ``[..., d]``, for instance a weight per edge."""

    factor: Tensor
    base: Tensor

    def __mul__(self, other: Tensor) -> Scaled:
        return Scaled(self.factor, self.base * other)

    def value(self) -> Tensor:
        return self.factor * self.base


@dataclass(frozen=True)
class RawEdges:
    """Edge features ``e = lift w`` before the first update: taps ``[B, n, m, T]``, lift ``[n or 1, m or 1, d, T]``."""

    taps: Tensor
    lift: Tensor

    def map(self, weight: Tensor) -> Tensor | Scaled:
        lift = torch.einsum("od,nmdt->nmot", weight, self.lift)
        if self.taps.shape[-1] == 1:
            return Scaled(self.taps, lift[None, ..., 0])
        if lift.shape[:2] == (1, 1):
            return F.linear(self.taps, lift[0, 0])
        return torch.einsum("bnmt,nmot->bnmo", self.taps, lift.expand(*self.taps.shape[1:3], -1, -1))


Features = Tensor | Scaled | RawEdges


def linear(x: Features, weight: Tensor) -> Tensor | Scaled:
    """``W x``; a factor stays outside."""
    if isinstance(x, RawEdges):
        return x.map(weight)
    return Scaled(x.factor, F.linear(x.base, weight)) if isinstance(x, Scaled) else F.linear(x, weight)


def value(x: Tensor | Scaled) -> Tensor:
    return x.value() if isinstance(x, Scaled) else x


@dataclass(frozen=True)
class Place:
    """What a net must know about the neurons whose features it maps.

    Args:
        role: INPUT, HIDDEN or OUTPUT.
        signs: whether hidden neurons are free up to a sign (else up to a positive scale); a tensor for one per neuron.
        extra: position features, broadcast against the features; None where the design has none.
    """

    role: int
    signs: bool | Tensor
    extra: Tensor | None = None


class MLP(nn.Module):
    """Linear, layer norm, SiLU, dropout, Linear: the one MLP of the paper."""

    def __init__(self, into: int, width: int, out: int, *, norm: bool, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(into, width)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, out)

    def forward(self, x: Tensor | Scaled, extra: Tensor | None = None) -> Tensor:
        return self.rest(value(linear(x, self.weight(0, extra))) + self.bias(extra))

    def weight(self, start: int, extra: Tensor | None) -> Tensor:
        """Columns of the first layer from ``start`` up to those of the extra features."""
        return self.first.weight[:, start : self.first.in_features - (0 if extra is None else extra.shape[-1])]

    def bias(self, extra: Tensor | None) -> Tensor:
        """The first layer's share that comes from the bias and the extra features."""
        if extra is None:
            return self.first.bias
        return F.linear(extra, self.first.weight[:, -extra.shape[-1] :], self.first.bias)

    def activated(self, z: Tensor) -> Tensor:
        return self.dropout(F.silu(self.norm(z)))

    def rest(self, z: Tensor) -> Tensor:
        """From the first layer's result on."""
        return self.last(self.activated(z))


@dataclass(frozen=True)
class MLPs:
    """How MLPs are built: hidden width, layer norm, dropout inside."""

    width: int
    norm: bool = True
    dropout: float = 0.0

    def make(self, into: int, out: int) -> MLP:
        return MLP(into, self.width, out, norm=self.norm, dropout=self.dropout)


class Direction(nn.Module):
    """``c(x) = x / (||x|| + eps)``: positive scales."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor | Scaled, weight: Tensor, bias: Tensor) -> Tensor:
        """``weight c(x) + bias``, as for all canonical forms."""
        factor, base = (x.factor, x.base) if isinstance(x, Scaled) else (None, x)
        length = torch.linalg.vector_norm(base, dim=-1, keepdim=True)
        length = length if factor is None else factor.abs() * length
        # where nothing comes in, or only what weight decay leaves, 0 / 1 has a gradient; 1 / length^2 must be finite
        dead = length < torch.finfo(length.dtype).tiny ** 0.4
        length = length.masked_fill(dead, 1.0) + self.eps
        return torch.addcmul(bias, F.linear(base, weight), (1.0 if factor is None else factor) / length)


class SignSum(nn.Module):
    """``c(x) = rho(x) + rho(-x)`` with an MLP rho: signs. One matrix product serves both signs."""

    def __init__(self, size: int, mlps: MLPs) -> None:
        super().__init__()
        self.rho = mlps.make(size, size)

    def forward(self, x: Tensor | Scaled, weight: Tensor, bias: Tensor) -> Tensor:
        odd, even = value(linear(x, self.rho.first.weight)), self.rho.first.bias
        both = self.rho.activated(even + odd) + self.rho.activated(even - odd)
        return F.linear(both, weight @ self.rho.last.weight) + (bias + 2 * (weight @ self.rho.last.bias))


class Absolute(nn.Module):
    """``c(x) = |x|`` entry by entry: signs, and more (the relative signs of the entries are lost)."""

    def forward(self, x: Tensor | Scaled, weight: Tensor, bias: Tensor) -> Tensor:
        if isinstance(x, Scaled):
            return torch.addcmul(bias, F.linear(x.base.abs(), weight), x.factor.abs())
        return F.linear(x.abs(), weight) + bias


class ByKind(nn.Module):
    """One module for neurons with scales and one for neurons with signs; neurons choose."""

    def __init__(self, scale: nn.Module | None, sign: nn.Module | None) -> None:
        super().__init__()
        self.scale, self.sign = scale, sign

    def forward(self, x: Tensor | Scaled, place: Place, *arguments: Tensor) -> Tensor:
        if isinstance(place.signs, bool):
            chosen = self.sign if place.signs else self.scale
            assert chosen is not None  # places are made for the kinds that the model has
            return chosen(x, *arguments)
        assert self.sign is not None and self.scale is not None
        return torch.where(place.signs, self.sign(x, *arguments), self.scale(x, *arguments))


@dataclass(frozen=True)
class Kinds:
    """Which neurons a model reads: free up to scales, up to signs, or both; how each is canonised."""

    scale: bool
    sign: bool
    sign_sum: bool
    eps: float

    def forms(self, size: int, mlps: MLPs) -> ByKind:
        """Canonical forms of features of one size."""
        sign = (SignSum(size, mlps) if self.sign_sum else Absolute()) if self.sign else None
        return ByKind(Direction(self.eps) if self.scale else None, sign)

    def gates(self, into: int, extra: int, out: int, mlps: MLPs) -> ByKind:
        """``phi(c(x), extra)``, with an own phi per kind."""
        forms = self.forms(into, mlps)
        made = [None if f is None else Invariant(f, mlps.make(into + extra, out)) for f in (forms.scale, forms.sign)]
        return ByKind(*made)


class Invariant(nn.Module):
    """ScaleInv: ``phi(c(x), extra)``."""

    def __init__(self, form: nn.Module, phi: MLP) -> None:
        super().__init__()
        self.form, self.phi = form, phi

    def forward(self, x: Tensor | Scaled, extra: Tensor | None = None) -> Tensor:
        return self.phi.rest(self.form(x, self.phi.weight(0, extra), self.phi.bias(extra)))


@dataclass(frozen=True)
class Ends:
    """How inputs and outputs, which no scale moves, are mapped.

    Args:
        free: by an MLP of their own instead of ``(W x) * phi(x)``.
        separate: inputs and outputs by two different ones.
    """

    free: bool = True
    separate: bool = False


class Equivariant(nn.Module):
    """ScaleEq ``(W x) * phi(c(x))`` on hidden neurons, with own maps for inputs and outputs."""

    def __init__(self, kinds: Kinds, ends: Ends, into: int, extra: int, out: int, mlps: MLPs) -> None:
        super().__init__()
        self.free = ends.free
        self.linear = nn.Linear(into, out, bias=False)
        self.gate = kinds.gates(into, extra, out, mlps)
        self.ends = nn.ModuleList(mlps.make(into + extra, out) for _ in range(2 if ends.separate else 1))

    def forward(self, x: Tensor | Scaled, place: Place) -> Tensor:
        if place.role == HIDDEN:
            gate = self.gate(x, place) if place.extra is None else self.gate(x, place, place.extra)
        else:
            gate = self.ends[-1 if place.role == OUTPUT else 0](x, place.extra)
            if self.free:
                return gate
        return value(linear(x, self.linear.weight)) * gate


class Plain(nn.Module):
    """What takes the place of :class:`Equivariant` where only permutations count: an MLP."""

    def __init__(self, into: int, out: int, mlps: MLPs) -> None:
        super().__init__()
        self.mlp = mlps.make(into, out)

    def forward(self, x: Tensor, place: Place) -> Tensor:
        return self.mlp(x)
