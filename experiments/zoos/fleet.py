"""Train many networks of one architecture at once: their parameters are the rows of one matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor

from experiments.zoos.optimisers import StackedOptimiser
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack

Loss = Callable[[Stack, int], Tensor]
"""``(the first k networks, step) -> [k]``, each entry a function of its own network only."""

Gradient = Callable[[Tensor, int], Tensor]
"""``(theta of the first k networks, step) -> [k, columns]``, the gradients of their losses; overwritten afterwards."""

T = TypeVar("T")

_MAX_NORM = 10.0
_ALIGNED = 16
"""Numbers in 64 bytes."""


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


def aligned(theta: Tensor) -> Tensor:
    """A copy of ``theta [B, P]`` with columns of zeros behind it, so that every row begins at a multiple of 64 bytes.

    Example:
        >>> aligned(torch.ones(2, 17)).shape
        torch.Size([2, 32])
    """
    count, columns = theta.shape
    out = theta.new_zeros(count, -(-columns // _ALIGNED) * _ALIGNED)
    out[:, :columns] = theta
    return out


def in_company(networks: Sequence[T]) -> list[T]:
    """The networks; a single one twice, because one alone would take other kernels, with other rounding.

    Example:
        >>> in_company(range(5)), in_company(range(4, 5))
        ([0, 1, 2, 3, 4], [4, 4])
    """
    return list(networks) * (2 if len(networks) == 1 else 1)


def pieces(count: int, most: int) -> list[range]:
    """Numbers of the networks of every piece, of equal sizes as far as possible, ``most`` at most.

    Example:
        >>> pieces(10, 4)
        [range(0, 4), range(4, 7), range(7, 10)]
    """
    number = -(-count // most)
    cuts = [-(-i * count // number) for i in range(number + 1)]
    return [range(start, end) for start, end in zip(cuts, cuts[1:], strict=False)]


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
    rows, columns = aligned(theta), theta.shape[1]

    def gradient(seen: Tensor, step: int) -> Tensor:
        part = seen[:, :columns].detach().requires_grad_()
        with torch.enable_grad():
            values = loss(unflatten(spec, part), step)
            return aligned(torch.autograd.grad(values.sum(), part)[0])

    descend(rows, optimiser, steps, gradient)
    return rows[:, :columns]


@torch.no_grad()
def descend(theta: Tensor, optimiser: StackedOptimiser, steps: Sequence[int], gradient: Gradient) -> None:
    """:func:`train` in place, with gradients from wherever they come.

    Args:
        theta: of :func:`aligned`, two rows at least, sorted by falling number of steps.
        optimiser: made for these rows.
        steps: per row.
        gradient: called with the networks that still train (one more where a single one is left).
    """
    assert len(theta) > 1, "see in_company"
    counts = [sum(count > step for count in steps) for step in range(max(steps))]
    first = 0
    for active, run in groupby(counts):
        seen, trained = theta[: max(active, 2)], theta[:active]  # the last one keeps a companion, which stays as it is
        for step in range(first, first := first + len(list(run))):
            optimiser.step(trained, gradient(seen, step)[:active], _MAX_NORM)
