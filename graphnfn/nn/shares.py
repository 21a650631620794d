"""How the values of a field are distributed, of which volumes and means of powers are functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphnfn.nn.field_reader import FieldReader, with_field
from graphnfn.nn.taps import Sizes
from graphnfn.prepared import Prepared
from graphnfn.stack import Stack

LEVELS = 64
"""Levels per output below which the share of space is taken: 0, and quantiles of training networks' fields."""
RAMP = 1e-2
"""Width of the ramp in place of a step, in deviations of training networks' fields."""
HIDDEN = 64
"""Width of the perceptron."""


class FieldShares(FieldReader):
    """A function of how the values are distributed of the field f that a network of 1 to 3 coordinates computes.

    ``s_(c, j) = mean_u clamp((t_(c, j) - f_c(u)) / h_c + 1/2, 0, 1)`` over the middles u of the cells of a grid: the
    share of space in which output c is at most a level t, with a narrow ramp of width h instead of a step, so that
    rounding does not show. Levels are 0, by which a signed distance tells inside from outside, and quantiles of the
    fields of training networks, which :meth:`fit` takes; a perceptron reads the principal components of shares, of
    deviation 1. Before training, and for other networks, it is 0. A field is no function of how its network is written
    down, so every symmetry of the weights holds.

    An integral of any function of the values, ``integral phi(f(u)) du``, is linear in their distribution. A volume is
    one share; its step is what smooth functions of f, and a CNN on pictures of it, come close to only.

    Args:
        out: numbers per network.
        sizes: of the model; ``sizes.coordinates`` says for which numbers of coordinates.

    Shape: list of stacks to ``[networks, out]``.

    Source: the empirical distribution function of a field's values, read by its principal components as fields are in
    :class:`~graphnfn.nn.functionals.FieldFunctionals`.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 8, 1], "sin"), networks=3, dtype=torch.float32)
        >>> module = FieldShares(5, Sizes.of([graph.spec]))
        >>> module.fit(graph.stacks())
        >>> module(graph.stacks()).shape
        torch.Size([3, 5])
    """

    def __init__(self, out: int, sizes: Sizes) -> None:
        super().__init__(out, sizes)
        numbers = sizes.outputs * LEVELS
        for rank in sizes.coordinates:
            self.register_buffer(f"levels{rank}", torch.zeros(sizes.outputs, LEVELS))
            self.register_buffer(f"ramp{rank}", torch.ones(sizes.outputs))
            self.read(rank, numbers, numbers, _perceptron(numbers, out))

    def seen(self, stack: Stack) -> Tensor:
        """The values of every network's field at the middles in ascending order, ``[B, outputs, middles]``."""
        stack = with_field(stack, self.outputs)
        assert isinstance(stack, Prepared) and stack.values is not None
        return stack.values

    def numbers(self, seen: Tensor, rank: int) -> Tensor:
        """Shares of what was seen, ``[B, outputs, middles] -> [B, outputs * LEVELS]``.

        The mean of a ramp is a difference of means of ``(t - f)_+``, which are sums over the values below t.
        """
        wide = seen.double()
        sums = F.pad(wide.cumsum(2), (1, 0))
        levels, half = self.get_buffer(f"levels{rank}").double(), self.get_buffer(f"ramp{rank}").double()[:, None] / 2

        def above(t: Tensor) -> Tensor:
            each = t.expand(len(wide), -1, -1).contiguous()
            below = torch.searchsorted(wide.detach().contiguous(), each)
            return each * below - sums.gather(2, below)

        found = (above(levels + half) - above(levels - half)) / (2 * half * wide.shape[2])
        return found.flatten(1).to(seen.dtype)

    def take(self, rank: int, seen: Tensor) -> None:
        """Levels and ramps of networks of one kind, then the components of their shares."""
        together = seen.transpose(0, 1).flatten(1).sort(1).values
        places = torch.arange(1, LEVELS, device=seen.device) * together.shape[1] // LEVELS
        self.get_buffer(f"levels{rank}")[:, 1:] = together[:, places]
        self.get_buffer(f"ramp{rank}").copy_(RAMP * together.std(1).clamp_min(1e-6))
        super().take(rank, seen)


def _perceptron(numbers: int, out: int) -> nn.Module:
    """Two hidden layers; what comes out is 0 at first."""
    last = nn.Linear(HIDDEN, out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(numbers, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), last)
