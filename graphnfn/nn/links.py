"""Messages along one block as batched GEMMs, and their adjoints: what the fused sweep is made of.

A link mixes the taps of weights into R sums ``M [B, dst, src * R]`` and has gains ``g [R, d]``. It pulls
``z_i += sum_jr M_ijr g_r * x_j`` and pushes ``r_j += sum_ir M_ijr g_r * y_i``. With R = 1 the gain goes over the
message; otherwise the states are spread out over the R sums first, so that the sum over r is part of the GEMM.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass
class Link:
    """One block's weights on their way through a sweep.

    Args:
        src, dst: levels.
        slot: which gain tensor it uses.
        raw: weights ``[B, dst, src, taps]``.
        mix: ``[taps, R]``, None for one tap.
        gain: ``[R, d]``.
        learned: whether somebody wants the gradient of the raw weights, and of the mix.
    """

    src: int
    dst: int
    slot: int
    raw: Tensor
    mix: Tensor | None
    gain: Tensor
    learned: tuple[bool, bool] = (False, False)

    @property
    def ranks(self) -> int:
        """R."""
        return self.gain.shape[0]

    @cached_property
    def weight(self) -> Tensor:
        """Mixed weights ``[B, dst, src * R]``."""
        return (self.raw if self.mix is None else self.raw @ self.mix).flatten(2)

    @cached_property
    def back(self) -> Tensor:
        """The weights for the way back, ``[B, src, R * dst]``."""
        if self.ranks == 1:
            return self.weight.transpose(1, 2)
        batch, n_dst, columns = self.weight.shape
        parts = self.weight.view(batch, n_dst, columns // self.ranks, self.ranks)
        return parts.permute(0, 2, 3, 1).reshape(batch, -1, self.ranks * n_dst)

    @cached_property
    def gain_grad(self) -> Tensor:
        """Where the gradient of the gain is added up."""
        return torch.zeros_like(self.gain)

    @cached_property
    def weight_grad(self) -> Tensor | None:
        """Where the gradient of the mixed weights goes, if anybody wants it."""
        return torch.empty_like(self.weight) if any(self.learned) else None

    def unmix(self) -> None:
        """From the gradient of the mixed weights to those of the raw ones and of the mix."""
        if self.weight_grad is None:
            return
        whole = self.weight_grad.view(*self.raw.shape[:3], self.ranks)
        if self.learned[0]:
            self.raw_grad = whole if self.mix is None else whole @ self.mix.T
        if self.learned[1]:
            self.mix_grad = self.raw.flatten(0, 2).T @ whole.flatten(0, 2)

    raw_grad: Tensor | None = None
    mix_grad: Tensor | None = None

    def pull(self, total: Tensor, start: Tensor, x: Tensor, rows: slice, gain: Tensor) -> None:
        """Writes ``start + sum M (gain * x)`` to total, which may be start."""
        if self.ranks == 1:
            torch.addcmul(start, torch.bmm(self.weight[rows], x), gain, out=total)
            return
        if start is not total:
            total.copy_(start.expand_as(total))
        total.baddbmm_(self.weight[rows], _over_sources(x, gain))

    def push(self, y: Tensor, rows: slice, out: Tensor, *, first: bool, last: bool) -> None:
        """``sum M^T (gain * y)`` into out (``first``) or on top of it; the ``last`` link may overwrite y."""
        if self.ranks > 1:
            spread = _over_targets(y, self.gain)
        else:
            spread = y.mul_(self.gain) if last else y * self.gain
        if first:
            torch.bmm(self.back[rows], spread, out=out)
        else:
            out.baddbmm_(self.back[rows], spread)

    def push_adjoint(self, dr: Tensor, y: Tensor, rows: slice) -> Tensor:
        """The cotangent of y from that of the pushed message; notes those of gain and weights."""
        back = torch.bmm(self.back[rows].transpose(1, 2), dr)
        if self.ranks == 1:
            self.gain_grad += _rows_sum(back, y)
            if self.weight_grad is not None:
                self.weight_grad[rows] = torch.bmm(y * self.gain, dr.transpose(1, 2))
            return back.mul_(self.gain)
        parts = back.view(len(y), self.ranks, -1, y.shape[-1])
        self.gain_grad += (parts * y[:, None]).sum((0, 2))
        if self.weight_grad is not None:
            grad = torch.bmm(dr, _over_targets(y, self.gain).transpose(1, 2))  # [b, src, R * dst]
            self.weight_grad[rows] = grad.view(len(y), -1, self.ranks, y.shape[1]).permute(0, 3, 1, 2).flatten(2)
        return parts.mul_(self.gain[:, None]).sum(1)

    def pull_adjoint(self, dz: Tensor, x: Tensor, rows: slice, gain: Tensor, scale: float, dx: Tensor) -> None:
        """Adds the cotangent of x to dx; notes those of gain and weights. ``gain`` has the response's scale in it."""
        back = torch.bmm(self.weight[rows].transpose(1, 2), dz)
        if self.weight_grad is not None:  # push_adjoint came first and has filled these rows
            spread = x * gain if self.ranks == 1 else _over_sources(x, gain)
            self.weight_grad[rows] += torch.bmm(dz, spread.transpose(1, 2))
        if self.ranks == 1:
            self.gain_grad.add_(_rows_sum(back, x), alpha=scale)
            dx.addcmul_(back, gain)
            return
        parts = back.view(len(x), -1, self.ranks, x.shape[-1])
        self.gain_grad.add_((parts * x[:, :, None]).sum((0, 1)), alpha=scale)
        dx.add_(parts.mul_(gain).sum(2))


def _over_sources(x: Tensor, gain: Tensor) -> Tensor:
    """``[b, n, d]`` times ``[R, d]`` as ``[b, n * R, d]``."""
    return (x[:, :, None] * gain).flatten(1, 2)


def _over_targets(y: Tensor, gain: Tensor) -> Tensor:
    """``[b, n, d]`` times ``[R, d]`` as ``[b, R * n, d]``."""
    return (y[:, None] * gain[:, None]).flatten(1, 2)


def _rows_sum(a: Tensor, b: Tensor) -> Tensor:
    """``[1, d]``: the sum over networks and neurons of a product."""
    return (a * b).sum((0, 1))[None]
