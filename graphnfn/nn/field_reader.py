"""What modules share that read the fields which networks of 1 to 3 coordinates compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from graphnfn.nn.answers import fields
from graphnfn.nn.lattice import grid
from graphnfn.nn.taps import Sizes, coordinates
from graphnfn.prepared import Prepared
from graphnfn.stack import Stack

CELLS = {1: 64, 2: 24, 3: 12}
"""Cells per axis in whose middles fields are sampled, by the number of axes."""
FLOOR = 1e-3
"""Deviations of a component, relative to the largest, from which on it is not raised to the size of the others."""
MOST = 1024
"""Networks from which principal components are taken."""


def middles(rank: int) -> Tensor:
    """Middles of the cells of a regular grid over ``[-1, 1]^rank``, ``[CELLS^rank, rank]``, the last axis fastest.

    Their mean integrates by the midpoint rule.

    Example:
        >>> middles(1)[:2, 0].tolist()
        [-0.984375, -0.953125]
    """
    return grid((torch.arange(CELLS[rank]) + 0.5) * (2 / CELLS[rank]) - 1, rank)


def with_field(stack: Stack, outputs: int) -> Stack:
    """The stack with its field, where networks are of coordinates and have none yet: what runs them once for all.

    Args:
        stack: networks.
        outputs: at least those of the networks; what they lack is 0.
    """
    if not coordinates(stack.spec) or (isinstance(stack, Prepared) and stack.field is not None):
        return stack
    field = fields(stack, middles(coordinates(stack.spec)).to(stack.nodes), outputs)
    base = stack if isinstance(stack, Prepared) else Prepared(stack.spec, stack.nodes, stack.blocks)
    return replace(base, field=field.flatten(1), values=field.sort(2).values)


class FieldReader(nn.Module):
    """A function of numbers x that are taken from a field, by their principal components in training networks.

    ``y = predict(pace B (x - m))``: the mean m, and B that takes components to deviation 1, are those of training
    networks, which :meth:`fit` takes. Other networks give 0. A field is no function of how its network is written down,
    so every symmetry of the weights holds, whatever a subclass makes of it.

    Args:
        out: numbers per network.
        sizes: of the model; ``sizes.coordinates`` says for which numbers of coordinates.

    Shape: list of stacks to ``[networks, out]``.
    """

    pace = 1.0
    """Deviation of a component as it enters."""

    def __init__(self, out: int, sizes: Sizes) -> None:
        super().__init__()
        self.out, self.outputs = out, sizes.outputs
        self.predict = nn.ModuleDict()

    def read(self, rank: int, numbers: int, terms: int, predict: nn.Module) -> None:
        """Have networks of ``rank`` coordinates read: so many numbers, so many components of them, by a module."""
        self.register_buffer(f"mean{rank}", torch.zeros(numbers))
        self.register_buffer(f"basis{rank}", torch.zeros(numbers, terms))
        self.predict[str(rank)] = predict

    def forward(self, stacks: Sequence[Stack]) -> Tensor:
        return torch.cat([self._value(stack) for stack in stacks])

    def _value(self, stack: Stack) -> Tensor:
        rank = coordinates(stack.spec)
        if str(rank) not in self.predict:
            return stack.nodes.new_zeros(stack.size, self.out)
        mean, basis = self.get_buffer(f"mean{rank}"), self.get_buffer(f"basis{rank}")
        return self.predict[str(rank)]((self.numbers(self.seen(stack), rank) - mean) @ basis)

    def seen(self, stack: Stack) -> Tensor:
        """What is taken of every network's field, ``[B, ...]``."""
        raise NotImplementedError

    def numbers(self, seen: Tensor, rank: int) -> Tensor:
        """The numbers x, ``[B, numbers]``."""
        return seen

    def fit(self, stacks: Sequence[Stack]) -> None:
        """Take mean and principal components from some networks, the first :data:`MOST` of each kind."""
        for rank in (int(k) for k in self.predict):
            same = [stack for stack in stacks if coordinates(stack.spec) == rank]
            if same:
                self.take(rank, torch.cat([self.seen(stack.take(slice(MOST))) for stack in same])[:MOST].detach())

    def take(self, rank: int, seen: Tensor) -> None:
        """:meth:`fit` on what was seen of networks of one kind."""
        basis = self.get_buffer(f"basis{rank}")
        mean, found = whitened(self.numbers(seen, rank).double(), basis.shape[1])
        self.get_buffer(f"mean{rank}").copy_(mean)
        basis.copy_(self.pace * found)


def whitened(rows: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """Mean of rows ``[n, d]``, and ``[d, terms]`` that takes what differs from it to components of deviation 1.

    Those below :data:`FLOOR` times the largest are smaller; where there are fewer components than terms, the rest is 0.
    """
    mean, basis = rows.mean(0), rows.new_zeros(rows.shape[1], terms)
    _, sizes, components = torch.linalg.svd((rows - mean) / len(rows) ** 0.5, full_matrices=False)
    raised = (components / (sizes.square() + (FLOOR * sizes[0]).square() + 1e-24).sqrt()[:, None])[:terms]
    basis[:, : len(raised)] = raised.T
    return mean, basis
