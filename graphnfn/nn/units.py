"""Units of weights: one number per block, taken from a zoo, by which weight-reading layers divide canonical weights.

Mean and deviation of every entry, the usual standardisation, tell neurons apart and shift their signs.  A positive
number per block does neither: it commutes with permutations and signs, and canonical weights have no scale left, so
that whatever was exact stays exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from graphnfn.stack import Stack


class BlockUnits(nn.Module):
    """``w_ij[t] / u_b`` with ``u_b^2 = mean sum_jt w_ij[t]^2``, the mean square of a block's rows over a zoo.

    Blocks of one name share their unit, whatever their width: rows keep their norm where fan-in sets the weights.
    Blocks of names that :meth:`fit` has not seen stay as they are.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> graph, units = random_graph(mlp_spec([2, 8, 1], "sin"), networks=5), BlockUnits()
        >>> (stack,) = graph.stacks()
        >>> units.fit([stack])
        >>> float(units(stack).blocks[0].square().sum((2, 3)).mean().round(decimals=6))
        1.0
    """

    def __init__(self) -> None:
        super().__init__()
        self.units: dict[str, float] = {}

    def fit(self, stacks: Iterable[Stack]) -> None:
        """Take the units of networks in canonical form, in place of earlier ones; all-zero blocks get none."""
        sums: dict[str, tuple[float, int]] = {}
        for stack in stacks:
            for block, weight in zip(stack.spec.blocks, stack.blocks, strict=True):
                total, rows = sums.get(block.param, (0.0, 0))
                squares = float(weight.detach().double().square().sum())
                sums[block.param] = total + squares, rows + weight.shape[0] * weight.shape[1]
        self.units = {name: math.sqrt(total / rows) for name, (total, rows) in sums.items() if 0 < total < math.inf}

    def forward(self, stack: Stack) -> Stack:
        if not self.units:
            return stack
        units = [self.units.get(block.param, 1.0) for block in stack.spec.blocks]
        return replace(stack, blocks=tuple(w / u for w, u in zip(stack.blocks, units, strict=True)))

    def get_extra_state(self) -> Any:
        return dict(self.units)

    def set_extra_state(self, state: Any) -> None:
        self.units = dict(state)
