"""Train many networks of one architecture at once: their parameters are the rows of one matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from experiments.zoos.optimisers import StackedOptimiser
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack

Loss = Callable[[Stack, int], Tensor]
"""``(the first k networks, step) -> [k]``, each entry a function of its own network only."""

T = TypeVar("T")

_MAX_NORM = 10.0


def unflatten(spec: NetSpec, theta: Tensor) -> Stack:
    """Networks from the rows of ``theta [B, P]``, parameters in the order of the spec; differentiable.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> unflatten(mlp_spec([2, 3, 1], "relu"), torch.zeros(5, 13)).size
        5
    """
    parts = theta.split([math.prod(shape) for shape in spec.params.values()], dim=1)
    named = zip(spec.params.items(), parts, strict=True)
    return Stack.pack(spec, {name: part.reshape(len(theta), *shape) for (name, shape), part in named})


def flatten(params: Sequence[dict[str, Tensor]]) -> Tensor:
    """One row per network from its parameters by name."""
    return torch.stack([torch.cat([value.flatten() for value in network.values()]) for network in params])


def in_company(networks: Sequence[T]) -> list[T]:
    """The networks; a single one twice, because one alone would take other kernels, with other rounding."""
    return list(networks) * (2 if len(networks) == 1 else 1)


def train(spec: NetSpec, theta: Tensor, optimiser: StackedOptimiser, steps: Sequence[int], loss: Loss) -> Tensor:
    """Train every row of ``theta`` for its own number of steps.

    Networks do not see each other: a row comes out the same to the bit in any company. Gradients are clipped to
    norm 10 per network, so that no network leaves the finite numbers.

    Args:
        spec: the architecture.
        theta: ``[B, P]`` with two rows at least, sorted by falling number of steps; it is not changed.
        optimiser: made for these rows.
        steps: per row.
        loss: called with the networks that still train (one more where a single one is left).

    Returns:
        The trained rows.
    """
    assert len(theta) > 1, "see in_company"
    theta = theta.clone()
    for step in range(max(steps)):
        active = sum(count > step for count in steps)
        seen = theta[: max(active, 2)].requires_grad_()  # the last one keeps a companion, which stays as it is
        values = loss(unflatten(spec, seen), step)
        (grad,) = torch.autograd.grad(values.sum(), seen)
        grad = grad[:active]
        scale = (_MAX_NORM / grad.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(max=1.0)
        optimiser.step(theta.detach()[:active], grad * scale)
    return theta.detach()
