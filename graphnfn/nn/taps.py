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
from graphnfn.traced import TracedSpec

COORDINATES = 3
"""Networks of so many inputs at most are read as pictures of a line, a plane or a space."""


@dataclass(frozen=True)
class Sizes:
    """How large the tables of a model must be to read some architectures.

    Args:
        inputs, outputs: largest numbers of input and output neurons.
        kernel_grid: smallest grid in which every conv kernel can be centred.
        position_grid: the same for the positions behind a flatten.
        traced: whether there are traced networks, which need no tables but a reader of their own.
        coordinates: numbers of inputs of the coordinate networks among them.
        others: whether there are chains that are no coordinate networks.
        depth: most layers of a chain.
        spread: whether there are coordinate networks among them of which weight statistics are read.
    """

    inputs: int
    outputs: int
    kernel_grid: tuple[int, ...]
    position_grid: tuple[int, ...]
    traced: bool = False
    coordinates: tuple[int, ...] = ()
    others: bool = True
    depth: int = 1
    spread: bool = False

    @staticmethod
    def of(specs: Iterable[NetSpec]) -> Sizes:
        """The sizes that some specs need.

        Raises:
            SpecError: there is no spec.
        """
        specs = tuple(specs)
        if not specs:
            raise SpecError("got no spec: a model needs one architecture at least to size its tables")
        chains = tuple(s for s in specs if not isinstance(s, TracedSpec))
        inputs = max((s.groups[0].size for s in chains), default=1)
        outputs = max((s.groups[-1].size for s in chains), default=1)
        ranks = {coordinates(s) for s in chains}
        depth = max((max(s.levels) for s in chains), default=1)
        spread = any(coordinates(s) and not waves(s) for s in chains)
        grids = _grid(chains, "conv"), _grid(chains, "linear")
        ends = tuple(sorted(ranks - {0})), 0 in ranks
        return Sizes(inputs, outputs, *grids, len(chains) < len(specs), *ends, depth, spread)


def coordinates(spec: NetSpec) -> int:
    """How many coordinates a network takes: its inputs, where they are 1, 2 or 3 numbers; else 0.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> coordinates(mlp_spec([2, 8, 1], "sin")), coordinates(mlp_spec([64, 8, 10], "relu"))
        (2, 0)
    """
    plain = all(not block.taps for block in spec.blocks)
    return spec.groups[0].size if plain and spec.groups[0].size <= COORDINATES else 0


def waves(spec: NetSpec) -> bool:
    """Whether a network makes pictures of waves: it takes coordinates, and has neurons with sin or cos.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> waves(mlp_spec([2, 8, 1], "sin")), waves(mlp_spec([3, 8, 1], "relu")), waves(mlp_spec([64, 8, 10], "sin"))
        (True, False, False)
    """
    return coordinates(spec) > 0 and any(act.rule.half_turns for group in spec.groups for act in group.activations)


def _grid(specs: tuple[NetSpec, ...], kind: str) -> tuple[int, ...]:
    taps = [b.taps for s in specs for b in s.blocks if b.kind == kind and b.taps]
    rank = max((len(t) for t in taps), default=0)
    padded = [(1,) * (rank - len(t)) + t for t in taps]
    return tuple(max(axis) for axis in zip(*padded, strict=True))


class TapTable(nn.Module):
    """How the taps of a block become channels: ``tap[t] = sum_r mix[t, r] gain[r]``, of rank R at most.

    The mix acts on weights, so a message costs R products whatever the size of a kernel or of a flattened map.
    Kernels are centred on a common grid, flattened positions have their own. All tap vectors start at 1: a
    message starts as the plain sum over taps.

    Args:
        width: channels of a tap vector.
        sizes: the tap grids.
        rank: R.

    Shape: ``mix(block)`` is ``[taps, R]`` (``[1, 1]`` without taps), ``gain(block)`` is ``[R, width]``.

    Example:
        >>> from graphnfn.chain import small_cnn_spec
        >>> spec = small_cnn_spec([1, 4, 4], 10, "relu")
        >>> table = TapTable(8, Sizes.of([spec]))
        >>> (table.mix(spec.blocks[0]) @ table.gain(spec.blocks[0])).shape
        torch.Size([9, 8])
    """

    def __init__(self, width: int, sizes: Sizes, rank: int = 4) -> None:
        super().__init__()
        self.kernel_grid, self.position_grid = sizes.kernel_grid, sizes.position_grid
        self.dense = nn.Parameter(torch.ones(1, width))
        self.kernel, self.kernel_gain = _factors(math.prod(self.kernel_grid), rank, width)
        self.positions, self.position_gain = _factors(math.prod(self.position_grid), rank, width)

    def mix(self, block: Block) -> Tensor:
        """Weights of the taps in each of R sums.

        Raises:
            SpecError: the block's taps do not fit the grid that the model was sized for.
        """
        if not block.taps:
            return self.dense.new_ones(1, 1)
        conv = block.kind == "conv"
        grid, table = (self.kernel_grid, self.kernel) if conv else (self.position_grid, self.positions)
        taps = (1,) * (len(grid) - len(block.taps)) + block.taps
        if len(taps) > len(grid) or any(t > g for t, g in zip(taps, grid, strict=True)):
            raise SpecError(
                f"block {block.param!r} has taps {block.taps}; this model was sized for {grid}: "
                "give GraphMetaNet(config, specs=[...]) all architectures it shall read"
            )
        return table if taps == grid else table[tap_slots(block, grid).to(table.device)]

    def gain(self, block: Block) -> Tensor:
        """Channels of each of the sums."""
        return self.gains[gain_slot(block)]

    @property
    def gains(self) -> tuple[Tensor, Tensor, Tensor]:
        """Those of blocks without taps, of conv kernels, and of flattened positions."""
        return self.dense, self.kernel_gain, self.position_gain


def gain_slot(block: Block) -> int:
    """Which of ``TapTable.gains`` is a block's."""
    return 0 if not block.taps else 1 if block.kind == "conv" else 2


def _factors(taps: int, rank: int, width: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Factors whose product is 1 everywhere, with room to learn R - 1 further patterns."""
    mix, gain = torch.randn(taps, rank), torch.zeros(rank, width)
    mix[:, 0], gain[0] = 1.0, 1.0
    return nn.Parameter(mix), nn.Parameter(gain)
