"""Linear functionals of fields, such as means and moments, which networks of coordinates are often asked about."""

from __future__ import annotations

from torch import Tensor, nn

from graphnfn.nn.field_reader import CELLS, FieldReader, with_field
from graphnfn.nn.taps import Sizes
from graphnfn.prepared import Prepared
from graphnfn.stack import Stack

TERMS = 256
"""Principal components of sampled fields that enter."""
PACE = 10.0
"""Deviation of a component as it enters, so that what is linear is learned before other layers imitate it."""


class FieldFunctionals(FieldReader):
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
        >>> import torch
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 8, 1], "sin"), networks=3, dtype=torch.float32)
        >>> module = FieldFunctionals(5, Sizes.of([graph.spec]))
        >>> module.fit(graph.stacks())
        >>> module(graph.stacks()).shape
        torch.Size([3, 5])
    """

    pace = PACE

    def __init__(self, out: int, sizes: Sizes) -> None:
        super().__init__(out, sizes)
        for rank in sizes.coordinates:
            numbers = sizes.outputs * CELLS[rank] ** rank
            linear = nn.Linear(min(TERMS, numbers), out, bias=False)
            nn.init.zeros_(linear.weight)
            self.read(rank, numbers, min(TERMS, numbers), linear)

    def seen(self, stack: Stack) -> Tensor:
        """The field of every network at the middles, ``[B, outputs * middles]``."""
        stack = with_field(stack, self.outputs)
        assert isinstance(stack, Prepared) and stack.field is not None
        return stack.field
