"""Mean, spread and maximum over the neurons of a group in one step, with a backward pass of a few passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def pooled(values: Tensor) -> Tensor:
    """``[mean_i v_i, sqrt(mean_i (v_i - mean)^2 + 1e-6), max_i v_i]`` over neurons, ``[B, n, d]`` to ``[B, 3 d]``.

    Where several neurons share the maximum they share its gradient equally, so that it does not depend on their order.

    Example:
        >>> pooled(torch.tensor([[[1.0], [3.0]]])).tolist()
        [[2.0, 1.0000004768371582, 3.0]]
    """
    if torch.compiler.is_compiling():
        return _Pooled.forward(None, values)
    return _Pooled.apply(values)  # type: ignore[return-value]


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        mean, top = values.mean(1), values.amax(1)
        spread = torch.sqrt((values - mean[:, None]).square_().mean(1).add_(1e-6))
        if ctx is not None:
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
