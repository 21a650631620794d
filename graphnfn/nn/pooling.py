"""Mean, spread and maximum over the neurons of a group in one step, with a backward pass of a few passes.

With a reference width the last two are what groups of that many neurons would show on average: the maximum of more
neurons is larger, whatever they do, and a metanetwork that has seen one width only has never seen that.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def pooled(values: Tensor) -> Tensor:
    """``[mean_i v_i, sqrt(mean_i (v_i - mean)^2 + 1e-6), max_i v_i]`` over neurons, ``[B, n, d]`` to ``[B, 3 d]``.

    Where several neurons share the maximum they share its gradient equally, so that it does not depend on their order;
    under ``torch.compile`` one of them gets it.

    Example:
        >>> pooled(torch.tensor([[[1.0], [3.0]]])).tolist()
        [[2.0, 1.0000004768371582, 3.0]]
    """
    if torch.compiler.is_compiling():
        # Compiled code may compute the values once more, a little differently, for the gradient of amax, which looks
        # for those that equal the maximum, finds none and divides by their number; max keeps a place instead.
        spread = torch.sqrt((values - values.mean(1, keepdim=True)).square().mean(1) + 1e-6)
        return torch.cat([values.mean(1), spread, values.max(1).values], -1)
    return _Pooled.apply(values)  # type: ignore[return-value]


def pooled_as(values: Tensor, neurons: int | None) -> Tensor:
    """The same, as expected of ``neurons`` of the group's n, drawn without replacement.

    The mean stays, the spread becomes ``sqrt(mean_i (v_i - mean)^2 (1 - 1/k) / (1 - 1/n) + 1e-6)``, and the maximum
    ``sum_r C(r - 1, k - 1) / C(n, k) v_(r)`` over the sorted values v_(1) <= ... <= v_(n), k = ``neurons``.  For
    n = k, and without a number, that is :func:`pooled`; of fewer neurons than k the maximum is taken as it is.

    Example:
        >>> pooled_as(torch.tensor([[[1.0], [3.0], [4.0]]]), 2)[0, 2].item()  # (3 + 4 + 4) / 3
        3.6666667461395264
    """
    n = values.shape[1]
    if neurons is None or n in (1, neurons):
        return pooled(values)
    mean = values.mean(1)
    ratio = (1 - 1 / neurons) / (1 - 1 / n)
    spread = torch.sqrt((values - mean[:, None]).square().mean(1) * ratio + 1e-6)
    if n < neurons:
        return torch.cat([mean, spread, pooled(values)[:, -values.shape[2] :]], -1)
    shares = values.new_tensor(_shares(n, neurons))
    return torch.cat([mean, spread, torch.einsum("bnd,n->bd", values.sort(1).values, shares)], -1)


@lru_cache(maxsize=64)
def _shares(n: int, k: int) -> tuple[float, ...]:
    """How likely the r-th smallest of n numbers is the largest of k of them, for r = 1 .. n."""
    return tuple(math.comb(r - 1, k - 1) / math.comb(n, k) for r in range(1, n + 1))


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        mean, top = values.mean(1), values.amax(1)
        spread = torch.sqrt((values - mean[:, None]).square_().mean(1).add_(1e-6))
        ctx.save_for_backward(values, mean, spread, top)
        return torch.cat([mean, spread, top], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        values, mean, spread, top = ctx.saved_tensors
        n, (of_mean, of_spread, of_top) = values.shape[1], grad.chunk(3, -1)
        highest = (values == top[:, None]).to(values.dtype)
        of_top = of_top / highest.sum(1)
        slope = of_spread / (n * spread)  # d spread / d v_i = (v_i - mean) / (n spread)
        level = of_mean / n - slope * mean
        return torch.addcmul(level[:, None], values, slope[:, None]).addcmul_(highest, of_top[:, None])
