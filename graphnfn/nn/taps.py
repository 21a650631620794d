"""Learned tap vectors: how a conv kernel's entries, or the positions behind a flatten, enter a message."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphnfn.errors import SpecError
from graphnfn.spec import Block, NetSpec
from graphnfn.topology import tap_slots


@dataclass(frozen=True)
class Sizes:
    """How large the tables of a model must be to read some architectures.

    Args:
        inputs, outputs: largest numbers of input and output neurons.
        kernel_grid: smallest grid in which every conv kernel can be centred.
        position_grid: the same for the positions behind a flatten.
    """

    inputs: int
    outputs: int
    kernel_grid: tuple[int, ...]
    position_grid: tuple[int, ...]

    @staticmethod
    def of(specs: Iterable[NetSpec]) -> Sizes:
        """The sizes that some specs need.

        Raises:
            SpecError: there is no spec.
        """
        specs = tuple(specs)
        if not specs:
            raise SpecError("got no spec: a model needs one architecture at least to size its tables")
        inputs, outputs = max(s.groups[0].size for s in specs), max(s.groups[-1].size for s in specs)
        return Sizes(inputs, outputs, _grid(specs, "conv"), _grid(specs, "linear"))


def _grid(specs: tuple[NetSpec, ...], kind: str) -> tuple[int, ...]:
    taps = [b.taps for s in specs for b in s.blocks if b.kind == kind and b.taps]
    rank = max((len(t) for t in taps), default=0)
    padded = [(1,) * (rank - len(t)) + t for t in taps]
    return tuple(max(axis) for axis in zip(*padded, strict=True))


class TapTable(nn.Module):
    """One vector per tap: kernels are centred on a common grid, flattened positions have their own.

    All vectors start at 1, so that a message starts as the sum over taps.

    Args:
        width: channels of a vector.
        sizes: the tap grids.

    Shape: ``table(block)`` is ``[taps, width]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> TapTable(8, Sizes.of([spec]))(spec.blocks[0]).shape
        torch.Size([1, 8])
    """

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__()
        self.kernel_grid, self.position_grid = sizes.kernel_grid, sizes.position_grid
        self.dense = nn.Parameter(torch.ones(1, width))
        self.kernel = nn.Parameter(torch.ones(math.prod(self.kernel_grid), width))
        self.positions = nn.Parameter(torch.ones(math.prod(self.position_grid), width))

    def forward(self, block: Block) -> Tensor:
        if not block.taps:
            return self.dense
        grid, table = (
            (self.kernel_grid, self.kernel) if block.kind == "conv" else (self.position_grid, self.positions)
        )
        taps = (1,) * (len(grid) - len(block.taps)) + block.taps
        if len(taps) > len(grid) or any(t > g for t, g in zip(taps, grid, strict=True)):
            raise SpecError(
                f"block {block.param!r} has taps {block.taps}; this model was sized for {grid}: "
                "give GraphMetaNet(config, specs=[...]) all architectures it shall read"
            )
        if taps == grid:
            return table
        return table[tap_slots(block, grid).to(table.device)]
