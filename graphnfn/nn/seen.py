"""What a neuron sees of its activation and its adjoint: ``e + root(a |x| + b x y + c |y|)``, and its adjoint.

``root(t) = t / sqrt(1 + |t|)``; bars only where a sign is free. Everything is elementwise on ``[b, n, d]``, in as few
passes as PyTorch's operators allow.
"""

from __future__ import annotations

import torch
from torch import Tensor


def seen(signed: Tensor | bool, x: Tensor, y: Tensor, even: Tensor, mix: Tensor, root: Tensor, out: Tensor) -> None:
    """Writes ``even + t r`` to out and ``r = 1 / sqrt(1 + |t|)`` to root, with ``t = a |x| + b x y + c |y|``.

    Args:
        signed: whether the neurons' signs are free, or a mask.
        x: activations ``[b, n, d]``.
        y: returned states ``[b, n, d]``.
        even: e, ``[b, n, d]``.
        mix: a, b, c as ``[3, d]``.
        root: where r goes.
        out: where the result goes.
    """
    a, b, c = mix
    if signed is False:
        t = torch.addcmul(a, y, b).mul_(x).addcmul_(y, c)
    else:
        t = (x * y).mul_(b).addcmul_(_bars(x, signed), a).addcmul_(_bars(y, signed), c)
    torch.abs(t, out=root)
    root.add_(1).rsqrt_()
    torch.addcmul(even, t, root, out=out)


def _bars(values: Tensor, signed: Tensor | bool) -> Tensor:
    return torch.where(signed, values.abs(), values) if isinstance(signed, Tensor) else values.abs()


def seen_adjoint(
    signed: Tensor | bool, x: Tensor, y: Tensor, mix: Tensor, root: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The cotangents of x, y and mix from that of out."""
    a, b, c = 0.5 * mix
    g = (root * root).add_(1).mul_(root).mul_(grad)  # d(t r) / dt = r (1 + r^2) / 2; the half is in a, b, c
    gy = g * y
    if signed is False:
        gx = g * x
        sums = torch.stack([gx.sum((0, 1)), (gx * y).sum((0, 1)), gy.sum((0, 1))])
        dx = gy.mul_(b).addcmul_(g, a)
        dy = gx.mul_(b).addcmul_(g, c)
        return dx, dy, sums.mul_(0.5)
    turned_x, turned_y = _signs(x, signed).mul_(g), _signs(y, signed).mul_(g)
    sums = torch.stack([(turned_x * x).sum((0, 1)), (gy * x).sum((0, 1)), (turned_y * y).sum((0, 1))])
    dx = turned_x.mul_(a).addcmul_(gy, b)
    dy = turned_y.mul_(c).addcmul_(g.mul_(x), b)
    return dx, dy, sums.mul_(0.5)


def _signs(values: Tensor, signed: Tensor | bool) -> Tensor:
    return torch.where(signed, values.sign(), 1.0) if isinstance(signed, Tensor) else values.sign()
