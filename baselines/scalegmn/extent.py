"""Which networks a ScaleGMN reads: what they have in common, and what their neurons are free up to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

from baselines.errors import BaselineError
from graphnfn.activations import Activation, Gauge
from graphnfn.spec import Block, NetSpec
from graphnfn.traced import TracedSpec


@dataclass(frozen=True)
class Extent:
    """What all networks of a model have in common, and the largest of what they have not."""

    inputs: int
    outputs: int
    hidden: int
    middle: int
    blocks: int
    grid: tuple[int, ...]
    slots: int

    @staticmethod
    def of(specs: Iterable[NetSpec]) -> Extent:
        """Of all specs together.

        Raises:
            BaselineError: they differ in inputs or outputs, or a network has several groups of either.
        """
        return reduce(Extent._join, [_extent(spec) for spec in specs])

    def _join(self, other: Extent) -> Extent:
        if (self.inputs, self.outputs) != (other.inputs, other.outputs):
            raise BaselineError(
                f"ScaleGMN has a position per input and output: expected networks with {self.inputs} inputs and "
                f"{self.outputs} outputs, got one with {other.inputs} and {other.outputs}: build one model for each"
            )
        rank = max(len(self.grid), len(other.grid))
        grids = [(1,) * (rank - len(e.grid)) + e.grid for e in (self, other)]
        grid = tuple(max(axis) for axis in zip(*grids, strict=True))
        return Extent(
            self.inputs,
            self.outputs,
            hidden=max(self.hidden, other.hidden),
            middle=max(self.middle, other.middle),
            blocks=max(self.blocks, other.blocks),
            grid=grid,
            slots=max(self.slots, other.slots, math.prod(grid)),
        )

    def check(self, spec: NetSpec) -> None:
        """Raise a BaselineError for a network that is larger than all specs given."""
        if self._join(_extent(spec)) != self:
            raise BaselineError(
                f"this ScaleGMN was built for {self.hidden} hidden layers, {self.blocks} weight tensors and kernels up "
                f"to {self.grid}; a network has more: build it with the specs of all networks that it shall read"
            )


def _extent(spec: NetSpec) -> Extent:
    if isinstance(spec, TracedSpec):
        raise BaselineError("expected networks made of layers; got a traced one: convert it without example_input")
    inputs, outputs = ([g.size for g in spec.groups if g.role == role] for role in ("input", "output"))
    if len(inputs) != 1 or len(outputs) != 1:
        raise BaselineError(
            f"expected one group of inputs and one of outputs; got {len(inputs)} and {len(outputs)}: use another model"
        )
    if any(p.field == "slope" for p in spec.node_params):
        raise BaselineError("ScaleGMN reads weights and biases; got PReLU slopes, which it cannot see: use gmn")
    grids = [b.taps for b in spec.blocks if b.kind == "conv"]
    rank = max(map(len, grids), default=0)
    grid = tuple(max(axis) for axis in zip(*((1,) * (rank - len(g)) + g for g in grids), strict=True)) if grids else ()
    slots = max([math.prod(grid), *(b.num_taps for b in spec.blocks if b.kind == "linear")])
    middle = sum(1 for b in spec.blocks if is_middle(spec, b))
    return Extent(inputs[0], outputs[0], len(spec.groups) - 2, middle, len(spec.blocks), grid, slots)


def role_of(spec: NetSpec, group: str) -> str:
    return spec.groups[spec.position[group]].role


def is_middle(spec: NetSpec, block: Block) -> bool:
    return role_of(spec, block.src) == role_of(spec, block.dst) == "hidden"


def kinds_of(specs: Iterable[NetSpec]) -> tuple[bool, bool]:
    """Whether hidden neurons are free up to positive scales, and whether up to signs.

    Raises:
        BaselineError: an activation that ScaleGMN has no canonical form for.
    """
    found = {is_sign(a, gauge) for s in specs for g in s.groups if g.role == "hidden" for a, gauge in g.per_neuron()}
    return False in found, True in found


def is_sign(activation: Activation, gauge: Gauge) -> bool:
    if gauge == Gauge.SIGN and activation.phi_sign == 1:
        return True
    if gauge == Gauge.POSITIVE and activation.phi_scale == 1:
        return False
    raise BaselineError(
        f"ScaleGMN knows neurons with sigma(g z) = g sigma(z) for all g > 0, or for g = -1; got {activation} with "
        f"gauge {gauge.name}: use PermutationScaleGMN, or graphnfn.GraphMetaNet, which is exact for it"
    )
