"""Batch norms of many networks while they train: statistics of the batch, and what is kept of them."""

from __future__ import annotations

import torch
from torch import Tensor

from graphnfn.spec import NODE_FIELDS, NetSpec
from graphnfn.stack import Stack

_MOMENTUM = 0.1
_WEIGHT, _BIAS, _MEAN, _VAR = (NODE_FIELDS.index(f"norm_{name}") for name in ("weight", "bias", "mean", "var"))


class BatchNorms:
    """Every norm of ``count`` networks; running statistics start at mean 0 and variance 1, as in torch.

    In training z <- weight (z - mean) / (var + eps)^(1/2) + bias with mean and (biased) variance over the images and
    positions of the batch; the running ones move by .1 towards mean and unbiased variance.

    Args:
        spec: the architecture.
        count: number of networks.
    """

    def __init__(self, spec: NetSpec, count: int) -> None:
        self._spec = spec
        normed = [i for i, group in enumerate(spec.groups) if group.norm_eps is not None]
        self._mean = {i: torch.zeros(count, spec.groups[i].size) for i in normed}
        self._var = {i: torch.ones(count, spec.groups[i].size) for i in normed}

    def __call__(self, group: int, z: Tensor, stack: Stack, training: int) -> Tensor:
        """Normalise, where the group has a norm.

        Args:
            group: place of the group.
            z: what its layers give for a batch, ``[images, networks, neurons, *positions]``.
            stack: the networks, the first ones of ``count``.
            training: the running statistics of so many networks move; the others are mere company.
        """
        eps = self._spec.groups[group].norm_eps
        if eps is None:
            return z
        mean = _over_batch(z)
        centred = z - mean
        var = _over_batch(centred.square())
        count = z.numel() // var.numel()
        with torch.no_grad():
            for kept, now in ((self._mean, mean), (self._var, var * count / max(count - 1, 1))):
                kept[group][:training].lerp_(now.reshape(-1, z.shape[2])[:training], _MOMENTUM)
        weight, bias = (stack.group(group)[..., field].view(*var.shape[1:]) for field in (_WEIGHT, _BIAS))
        return centred * torch.rsqrt(var + eps) * weight + bias

    def written(self, stack: Stack) -> Stack:
        """The networks with the running statistics in their norms."""
        nodes = stack.nodes.clone()
        for i in self._mean:
            span = self._spec.span(i)
            nodes[:, span, _MEAN], nodes[:, span, _VAR] = self._mean[i], self._var[i]
        return Stack(stack.spec, nodes, stack.blocks)


def _over_batch(z: Tensor) -> Tensor:
    """Means over images and positions, ``[1, networks, neurons, 1..]``.

    The values of one neuron lie side by side, so that rounding does not depend on the number of networks.
    """
    rows = z.movedim(0, 2).flatten(2).contiguous()
    return rows.mean(-1).view(1, *rows.shape[:2], *(1,) * (z.dim() - 3))
