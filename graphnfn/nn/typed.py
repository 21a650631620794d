"""Linear maps and gates that respect sign types: no bias and no pointwise nonlinearity on odd features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from graphnfn.symmetry.charge import Charge


class TypedLinear(nn.Module):
    """A channel mix of features of one charge, ``g^c x -> g^c (W x)``.

    Args:
        into: channels in.
        out: channels out.
        charge: charge of the features, in and out.
        bias: allowed at charge 0 only.

    Raises:
        SymmetryError: a bias is asked for at another charge.

    Example:
        >>> from graphnfn.symmetry.charge import ODD
        >>> layer = TypedLinear(4, 4, ODD)
        >>> x = torch.randn(3, 4)
        >>> bool(torch.equal(layer(-x), -layer(x)))
        True
    """

    def __init__(self, into: int, out: int, charge: Charge, *, bias: bool = False) -> None:
        super().__init__()
        if bias:
            charge.require_neutral("a bias")
        self.in_charge = self.out_charge = charge
        self.linear = nn.Linear(into, out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def soft_norm(x: Tensor) -> Tensor:
    """``x / sqrt(1 + mean(x^2))`` over channels: bounded, smooth, and odd in x."""
    return F.rms_norm(x, (x.shape[-1],), eps=1.0)


def soft_root(x: Tensor) -> Tensor:
    """``x / sqrt(1 + |x|)``: linear around 0, a signed square root far away, odd."""
    value, _ = _SoftRoot.apply(x)
    return value


class _KeepsOne(torch.autograd.Function):
    """Elementwise functions whose ``forward`` gives the value and the one number that its derivative is made of."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])


class _SoftRoot(_KeepsOne):
    """With ``r = 1 / sqrt(1 + |x|)`` the derivative is ``r (1 + r^2) / 2``: a third of what autograd would do."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        r = torch.rsqrt(1 + x.abs())
        return x * r, r

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        (r,) = ctx.saved_tensors
        return grad * torch.addcmul(r, r, r * r).mul_(0.5)


def soft_log(x: Tensor) -> Tensor:
    """``sign(x) log(1 + |x|)``: linear around 0, a signed logarithm far away, odd."""
    value, _ = _SoftLog.apply(x)
    return value


class _SoftLog(_KeepsOne):
    """The derivative is ``1 / (1 + |x|)``."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        size = x.abs()
        return torch.copysign(size.log1p(), x), size.add_(1).reciprocal_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return grad * slope


def even_mlp(into: int, out: int, hidden: int | None = None) -> nn.Sequential:
    """A normalised MLP on even features."""
    hidden = hidden or out
    return nn.Sequential(nn.LayerNorm(into), nn.Linear(into, hidden), nn.SiLU(), nn.Linear(hidden, out))
