"""Linear functionals of fields, such as means and moments, which networks of coordinates are often asked about."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphnfn.nn.answers import fields
from graphnfn.nn.lattice import grid
from graphnfn.nn.taps import Sizes, coordinates
from graphnfn.prepared import Prepared
from graphnfn.stack import Stack

CELLS = {1: 64, 2: 24, 3: 12}
"""Cells per axis in whose middles fields are sampled, by the number of axes."""
TERMS = 256
"""Principal components of sampled fields that enter."""
FLOOR = 1e-3
"""Deviations of a component, relative to the largest, from which on it is not raised to the size of the others."""
PACE = 10.0
"""Deviation of a component as it enters, so that what is linear is learned before other layers imitate it."""
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


class FieldFunctionals(nn.Module):
    """A linear functional of the field f that a network of 1 to 3 coordinates computes.

    ``y = sum_k w_k z_k`` with ``z_k = c sum_u b_k(u) (f(u) - m(u)) / sqrt(s_k^2 + floor^2 s_1^2)`` over the middles u
    of the cells of a grid: principal components b_k of training networks' fields, their mean m and deviations s_k,
    which :meth:`fit` takes. Until then, and for other networks, it is 0. A field is no function of how its network is
    written down, so every symmetry of the weights holds.

    An integral is linear in the field, and as such it is found from few networks, far more precisely than by a CNN.
    Components of equal size let gradient descent find it in a few hundred steps.

    Args:
        out: numbers per network.
        sizes: of the model; ``sizes.coordinates`` says for which numbers of coordinates.

    Shape: list of stacks to ``[networks, out]``.

    Source: principal component regression (Massy, 1965), of fields, by gradient descent.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 8, 1], "sin"), networks=3, dtype=torch.float32)
        >>> module = FieldFunctionals(5, Sizes.of([graph.spec]))
        >>> module.fit(graph.stacks())
        >>> module(graph.stacks()).shape
        torch.Size([3, 5])
    """

    def __init__(self, out: int, sizes: Sizes) -> None:
        super().__init__()
        self.out, self.outputs = out, sizes.outputs
        self.linear = nn.ModuleDict()
        for rank in sizes.coordinates:
            numbers = sizes.outputs * CELLS[rank] ** rank
            self.register_buffer(f"mean{rank}", torch.zeros(numbers))
            self.register_buffer(f"basis{rank}", torch.zeros(numbers, min(TERMS, numbers)))
            self.linear[str(rank)] = linear = nn.Linear(min(TERMS, numbers), out, bias=False)
            nn.init.zeros_(linear.weight)

    def forward(self, stacks: Sequence[Stack]) -> Tensor:
        return torch.cat([self._value(stack) for stack in stacks])

    def _value(self, stack: Stack) -> Tensor:
        rank = coordinates(stack.spec)
        if str(rank) not in self.linear:
            return stack.nodes.new_zeros(stack.size, self.out)
        mean, basis = self.get_buffer(f"mean{rank}"), self.get_buffer(f"basis{rank}")
        return self.linear[str(rank)]((self.seen(stack) - mean) @ basis)

    def seen(self, stack: Stack) -> Tensor:
        """The field of every network at the middles, ``[B, outputs * middles]``."""
        if isinstance(stack, Prepared) and stack.field is not None:
            return stack.field
        return field_of(stack, self.outputs)

    def fit(self, stacks: Sequence[Stack]) -> None:
        """Take mean and principal components of the fields of some networks, of the first :data:`MOST` of each kind."""
        for rank in (int(k) for k in self.linear):
            same = [stack for stack in stacks if coordinates(stack.spec) == rank]
            if same:
                rows = torch.cat([self.seen(stack.take(slice(MOST))) for stack in same])[:MOST].detach()
                self._take(rank, rows.double())

    def _take(self, rank: int, rows: Tensor) -> None:
        mean, basis = whitened(rows, self.get_buffer(f"basis{rank}").shape[1])
        self.get_buffer(f"mean{rank}").copy_(mean)
        self.get_buffer(f"basis{rank}").copy_(PACE * basis)


def field_of(stack: Stack, outputs: int) -> Tensor:
    """The field of every network of coordinates at the middles, ``[B, outputs * middles]``."""
    return fields(stack, middles(coordinates(stack.spec)).to(stack.nodes), outputs).flatten(1)


def whitened(rows: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """Mean of rows ``[n, d]``, and ``[d, terms]`` that takes what differs from it to components of deviation 1.

    Those below :data:`FLOOR` times the largest are smaller; where there are fewer components than terms, the rest is 0.
    """
    mean, basis = rows.mean(0), rows.new_zeros(rows.shape[1], terms)
    _, sizes, components = torch.linalg.svd((rows - mean) / len(rows) ** 0.5, full_matrices=False)
    raised = (components / (sizes.square() + (FLOOR * sizes[0]).square() + 1e-24).sqrt()[:, None])[:terms]
    basis[:, : len(raised)] = raised.T
    return mean, basis
