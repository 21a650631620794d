"""Our model with one part taken out, to see what the part is worth; some of these are not exact any more.

They live here and not in the library, whose models have no switch that breaks what they claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from experiments.errors import ExperimentError
from graphnfn.activations import Gauge
from graphnfn.effective import effective
from graphnfn.graph import NeuralGraph
from graphnfn.models import GraphMetaNet, MetaNetConfig
from graphnfn.nn.blocks import BlockWiring
from graphnfn.nn.edges import EdgeWiring
from graphnfn.nn.native import NativeSweep
from graphnfn.nn.readout import InvariantReadout
from graphnfn.nn.state import State
from graphnfn.nn.taps import Sizes, TapTable
from graphnfn.nn.wiring import Head, Wiring, identity
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.symmetry.canonical import CanonicalScales, canonical_scales


class NoCanonical(GraphMetaNet):
    """On the weights as they are: exact under permutations and signs, not under scales."""

    def _canonical(self, stack: Stack) -> tuple[CanonicalScales, Stack]:
        stack = effective(stack)
        ones = tuple(torch.ones_like(stack.group(i)[..., 0]) for i in range(len(stack.spec.groups)))
        return CanonicalScales(ones, ones), stack


class NoParity(GraphMetaNet):
    """All features count as even: exact under permutations and scales, not where signs or half turns are free."""

    def _canonical(self, stack: Stack) -> tuple[CanonicalScales, Stack]:
        scales, canonical = canonical_scales(stack)
        groups = tuple(
            replace(g, gauge=tuple(gauge & ~Gauge.SIGN for gauge in g.gauge), half_turns=False)
            for g in canonical.spec.groups
        )
        return scales, Stack(replace(canonical.spec, groups=groups), canonical.nodes, canonical.blocks)


class _ForwardBlocks(BlockWiring):
    native: Any = getattr(Wiring, "native", None)  # message by message, where this wiring has a faster sweep as well

    def push(self, level: int, states: list[Tensor], taps: TapTable, head: Head = identity) -> Tensor:
        return states[-1].new_zeros(self.networks, self.spec.groups[level].size, states[-1].shape[-1])


class _ForwardEdges(EdgeWiring):
    def push(self, level: int, states: list[Tensor], taps: TapTable, head: Head = identity) -> Tensor:
        return states[-1].new_zeros(len(self.levels[level].bias), states[-1].shape[-1])


class ForwardOnly(GraphMetaNet):
    """Nothing travels back from the outputs, and no time is spent on it: exact."""

    def _wirings(self, stacks: list[Stack], together: bool) -> list[Wiring]:
        return [_ForwardEdges(stacks)] if together else [_ForwardBlocks(stack) for stack in stacks]


class FixedProbes(GraphMetaNet):
    """The states at the input and output neurons stay as they were drawn: exact."""

    def initialize(self, sizes: Sizes) -> None:
        super().initialize(sizes)
        for layer in self.layers:
            if isinstance(layer, NativeSweep):
                layer.inputs.requires_grad_(False)
                layer.outputs.requires_grad_(False)


class _Part(InvariantReadout):
    """Pools hidden neurons only, or reads output neurons only."""

    def __init__(self, part: Literal["hidden", "output"], width: int, out: int, sizes: Sizes) -> None:
        super().__init__(width, out, sizes)
        self.part = part

    def forward(self, state: State, wiring: Wiring) -> Tensor:
        even = [
            value if (level.role == "output") == (self.part == "output") else torch.zeros_like(value)
            for level, value in zip(wiring.levels, state.even, strict=True)
        ]
        return super().forward(State(even), wiring)


class OutputsOnly(GraphMetaNet):
    """The head reads output neurons and pools nothing: exact."""

    def initialize(self, sizes: Sizes) -> None:
        super().initialize(sizes)
        self.head = _Part("output", self.config.width, self.config.out, sizes)


class HiddenOnly(GraphMetaNet):
    """The head pools input and hidden neurons and reads no output neuron: exact."""

    def initialize(self, sizes: Sizes) -> None:
        super().initialize(sizes)
        self.head = _Part("hidden", self.config.width, self.config.out, sizes)


class NoDeviations(GraphMetaNet):
    """Pictures that coordinate networks make are read as they are, not in deviations of those of others: exact."""

    def fit(self, batches: Iterable[NeuralGraph]) -> None:
        super().fit(batches)
        for layer in self._lattices:
            for reader in layer.readers.children():
                reader.get_buffer("center").zero_()
                reader.get_buffer("scale").fill_(1)


@dataclass(frozen=True)
class Ablation:
    """A variant of our model.

    Args:
        model: its class.
        without: what is missing, in a few words.
        breaks: the symmetries that it is not exact under any more.
    """

    model: type[GraphMetaNet]
    without: str
    breaks: tuple[Literal["scale", "sign"], ...] = ()


ABLATIONS = {
    "no_canonical": Ablation(NoCanonical, "canonical weights", ("scale",)),
    "no_parity": Ablation(NoParity, "sign types", ("sign",)),
    "forward_only": Ablation(ForwardOnly, "the backward sweep"),
    "outputs_only": Ablation(OutputsOnly, "pooled neurons in the head"),
    "hidden_only": Ablation(HiddenOnly, "output neurons in the head"),
    "fixed_probes": Ablation(FixedProbes, "training of the learned inputs"),
    "few_probes": Ablation(GraphMetaNet, "three quarters of the channels"),
    "no_moves": Ablation(GraphMetaNet, "moves of pictures in training"),
    "no_deviations": Ablation(NoDeviations, "deviations of pictures"),
}
"""By the name of the model's configuration; ``few_probes`` differs by its width only, ``no_moves`` by its jitter."""


def ablated(*, out: int, specs: Sequence[NetSpec], name: str, **settings: Any) -> nn.Module:
    """A variant by name.

    Args:
        out: numbers predicted per network.
        specs: the architectures.
        name: a key of :data:`ABLATIONS`.
        settings: of :class:`~graphnfn.models.MetaNetConfig`.

    Raises:
        ExperimentError: there is no such variant.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> spec = mlp_spec([2, 4, 1], "tanh")
        >>> model = ablated(out=1, specs=[spec], name="no_parity", layer="gated", width=4, rounds=1)
        >>> type(model).__name__
        'NoParity'
    """
    if name not in ABLATIONS:
        raise ExperimentError(f"got the ablation {name!r}; expected one of {', '.join(ABLATIONS)}")
    config = MetaNetConfig(out=out, **settings)
    return ABLATIONS[name].model(config, specs=specs)
