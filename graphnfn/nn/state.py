"""What travels from layer to layer, and the encodings of a neuron's fixed place in the network."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from graphnfn.activations import NAMES
from graphnfn.errors import SpecError
from graphnfn.nn.wiring import Level, Wiring

MAX_DEPTH = 32
"""Deeper levels share one encoding."""


@dataclass(frozen=True)
class State:
    """Features per level: ``even`` ones are invariant, ``odd`` ones are out-typed (see parity).

    Lists run over the levels of a wiring; entries are ``[..., width]``. ``odd`` is empty before the first layer
    that makes out-typed features. Edge features run over the bundles of a wiring and are empty before the first
    synchronous layer: ``edge_even`` is invariant, ``edge_odd`` is typed like a weight.
    """

    even: list[Tensor]
    odd: list[Tensor] = field(default_factory=list)
    edge_even: list[Tensor] = field(default_factory=list)
    edge_odd: list[Tensor] = field(default_factory=list)


def count_places(level: Level, known: int) -> int:
    """How many input (or output) neurons the networks of a level have at most.

    Args:
        level: input or output neurons.
        known: for how many there are parameters.

    Raises:
        SpecError: a network has more.
    """
    stacked = level.bias.dim() == 3  # then the level is one group, whose places are 0, 1, ...
    count = level.bias.shape[1] if stacked else int(level.place.max()) + 1
    if count > known:
        raise SpecError(
            f"a network has {count} {level.role} neurons; this model was sized for {known}: give "
            "GraphMetaNet(config, specs=[...]) all architectures it shall read"
        )
    return count


class PlaceTable(nn.Module):
    """A learned vector for each input (or output) neuron, whose order is fixed.

    Args:
        size: number of places.
        width: channels.
        scale: entries start uniform on [-scale, scale], the usual domain of coordinate networks.
    """

    def __init__(self, size: int, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.vectors = nn.Parameter((2 * torch.rand(size, width) - 1) * scale)

    def forward(self, level: Level) -> Tensor:
        count = count_places(level, len(self.vectors))
        return self.vectors[None, :count] if level.bias.dim() == 3 else self.vectors[level.place]


class LevelCode(nn.Module):
    """Even features at the start: activation, distance from the inputs and outputs, the even bias.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kind = nn.Embedding(len(NAMES), width)
        self.depth_in = nn.Embedding(MAX_DEPTH, width)
        self.depth_out = nn.Embedding(MAX_DEPTH, width)
        self.bias = nn.Linear(1, width)

    def forward(self, wiring: Wiring) -> list[Tensor]:
        """Per level, ``[..., width]``, each contiguous."""
        kind, depth_in, depth_out = (
            torch.cat([getattr(level, name) for level in wiring.levels]) for name in ("kind", "depth_in", "depth_out")
        )
        fixed = self.kind(kind) + self.depth_in(depth_in.clamp(max=MAX_DEPTH - 1))
        fixed = fixed + self.depth_out(depth_out.clamp(max=MAX_DEPTH - 1)) + self.bias.bias
        parts = fixed.split([level.kind.shape[0] for level in wiring.levels])
        slope = self.bias.weight[:, 0]
        return [torch.addcmul(f, level.even_bias, slope) for f, level in zip(parts, wiring.levels, strict=True)]
