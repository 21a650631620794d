"""Changes of weights that change what a network computes, each by the symmetry that a blind model takes it for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from graphnfn.activations import as_activation
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.testing import separating_transforms

Change = Callable[[Stack, Generator], Stack | None]
"""Changes the networks of a chain; None where it does not apply to their architecture."""

OTHER_ACTIVATION = {"relu": "leaky_relu", "tanh": "softsign"}
"""Activations of the same symmetry: scales and signs give no hint."""


@dataclass(frozen=True)
class Disturbance:
    """A named change.

    Args:
        name: what is done, in a few words.
        change: does it.
    """

    name: str
    change: Change


def with_other_activation(spec: NetSpec) -> NetSpec:
    """The architecture with another activation of the same symmetry, see :data:`OTHER_ACTIVATION`.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> with_other_activation(mlp_spec([2, 4, 1], "relu")) == mlp_spec([2, 4, 1], "leaky_relu")
        True
    """
    groups = [
        replace(g, activations=tuple(as_activation(OTHER_ACTIVATION.get(a.name, a)) for a in g.activations))
        for g in spec.groups
    ]
    return replace(spec, groups=tuple(groups))


def _edited(stack: Stack, blocks: dict[int, Tensor], biases: dict[int, Tensor] | None = None) -> Stack:
    """New weights by block number, new biases by group number."""
    nodes = stack.nodes.clone()
    for group, bias in (biases or {}).items():
        nodes[:, stack.spec.span(group), 0] = bias
    return Stack(stack.spec, nodes, tuple(blocks.get(b, w) for b, w in enumerate(stack.blocks)))


def _bias(stack: Stack, group: int) -> Tensor:
    return stack.group(group)[..., 0]


def _hidden(stack: Stack) -> range:
    return range(1, len(stack.blocks))


def _cycle(size: int, generator: Generator) -> Tensor:
    """A permutation that leaves no place alone."""
    order = torch.randperm(size, generator=generator)
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def _factors(stack: Stack, size: int, generator: Generator) -> Tensor:
    """Positive factors between 1/4 and 4, ``[B, size]``."""
    return torch.exp(math.log(4.0) * (2 * torch.rand(stack.size, size, generator=generator, dtype=torch.float64) - 1))


def _signs(stack: Stack, size: int, generator: Generator) -> Tensor:
    """Signs, the first always negative, ``[B, size]``."""
    signs = 1.0 - 2.0 * torch.randint(2, (stack.size, size), generator=generator).double()
    signs[:, 0] = -1.0
    return signs


def _separating(name: str) -> Change:
    def change(stack: Stack, generator: Generator) -> Stack | None:
        graph = NeuralGraph.from_stacks([stack])
        maps = separating_transforms(graph, int(torch.randint(2**20, (), generator=generator)))
        return maps[name](graph).stacks()[0] if name in maps else None

    return change


def _input_neurons(stack: Stack, generator: Generator) -> Stack | None:
    width = stack.spec.groups[0].size
    return None if width < 2 else _edited(stack, {0: stack.blocks[0][:, :, _cycle(width, generator)]})


def _output_neurons(stack: Stack, generator: Generator) -> Stack:
    last = len(stack.blocks)
    order = _cycle(stack.spec.groups[last].size, generator)
    return _edited(stack, {last - 1: stack.blocks[-1][:, order]}, {last: _bias(stack, last)[:, order]})


def _negated_inputs(stack: Stack, generator: Generator) -> Stack:
    return _edited(stack, {0: -stack.blocks[0]})


def _uncoupled_neurons(stack: Stack, generator: Generator) -> Stack:
    order = _cycle(stack.spec.groups[1].size, generator)
    return _edited(stack, {0: stack.blocks[0][:, order]}, {1: _bias(stack, 1)[:, order]})


def _exchanged_layers(stack: Stack, generator: Generator) -> Stack | None:
    for a in _hidden(stack):
        for b in range(a + 1, len(stack.blocks)):
            if stack.blocks[a].shape == stack.blocks[b].shape:
                blocks = {a: stack.blocks[b], b: stack.blocks[a]}
                return _edited(stack, blocks, {a + 1: _bias(stack, b + 1), b + 1: _bias(stack, a + 1)})
    return None


def _shuffled_tensors(stack: Stack, generator: Generator) -> Stack:
    return _edited(
        stack,
        {
            b: w.flatten(1)[:, torch.randperm(w[0].numel(), generator=generator)].view(w.shape)
            for b, w in enumerate(stack.blocks)
        },
    )


def _shuffled_biases(stack: Stack, generator: Generator) -> Stack:
    hidden = {g: _bias(stack, g)[:, _cycle(stack.spec.groups[g].size, generator)] for g in _hidden(stack)}
    return _edited(stack, {}, hidden)


def _scaled_biases(stack: Stack, generator: Generator) -> Stack:
    groups = range(1, len(stack.spec.groups))
    return _edited(
        stack, {}, {g: _bias(stack, g) * _factors(stack, stack.spec.groups[g].size, generator) for g in groups}
    )


def _moved_weight(stack: Stack, generator: Generator) -> Stack:
    return _edited(stack, {0: 2 * stack.blocks[0], 1: stack.blocks[1] / 2})


def _doubled_layer(stack: Stack, generator: Generator) -> Stack:
    return _edited(stack, {1: 2 * stack.blocks[1]})


def _doubled_output(stack: Stack, generator: Generator) -> Stack:
    last = len(stack.blocks)
    return _edited(stack, {last - 1: 2 * stack.blocks[-1]}, {last: 2 * _bias(stack, last)})


def _everything_scaled(stack: Stack, generator: Generator) -> Stack:
    return stack.apply(lambda t: 1.5 * t)


def _through_neurons(draw: Callable[[Stack, int, Generator], Tensor], *, coupled: bool) -> Change:
    """Factors on incoming weights and biases of the first hidden neurons, with or without their inverses behind."""

    def change(stack: Stack, generator: Generator) -> Stack:
        factors = draw(stack, stack.spec.groups[1].size, generator)
        blocks = {0: stack.blocks[0] * factors[:, :, None, None]}
        if coupled:
            blocks[1] = stack.blocks[1] / factors[:, None, :, None]
        return _edited(stack, blocks, {1: _bias(stack, 1) * factors})

    return change


def _absolute(stack: Stack, generator: Generator) -> Stack:
    return _edited(stack, {1: stack.blocks[1].abs()})


def _taps_alike(stack: Stack, generator: Generator) -> Stack | None:
    taps = stack.blocks[1].shape[-1]
    return None if taps < 2 else _edited(stack, {1: stack.blocks[1][..., _cycle(taps, generator)]})


def _taps_one_by_one(stack: Stack, generator: Generator) -> Stack | None:
    weight = stack.blocks[1]
    order = torch.rand(weight.shape, generator=generator).argsort(-1)
    return None if weight.shape[-1] < 2 else _edited(stack, {1: weight.gather(-1, order)})


def _flipped_kernels(stack: Stack, generator: Generator) -> Stack | None:
    flipped = {b: w.flip(-1) for b, w in enumerate(stack.blocks) if w.shape[-1] > 1}
    return _edited(stack, flipped) if flipped else None


def _other_activation(stack: Stack, generator: Generator) -> Stack:
    return replace(stack, spec=with_other_activation(stack.spec))


DISTURBANCES: tuple[Disturbance, ...] = (
    Disturbance("rows of one matrix permuted, biases left", _separating("uncoupled rows")),
    Disturbance("columns of one matrix permuted", _separating("uncoupled columns")),
    Disturbance("neurons of one layer permuted without the next", _uncoupled_neurons),
    Disturbance("all entries of each tensor shuffled", _shuffled_tensors),
    Disturbance("two layers of equal size exchanged", _exchanged_layers),
    Disturbance("input neurons permuted", _input_neurons),
    Disturbance("output neurons permuted", _output_neurons),
    Disturbance("an own factor for every kernel", _separating("kernel factors")),
    Disturbance("rows scaled without the next layer", _through_neurons(_factors, coupled=False)),
    Disturbance("neurons scaled that are no ReLUs", _through_neurons(_factors, coupled=True)),
    Disturbance("weight moved between layers, biases left", _moved_weight),
    Disturbance("one layer's weights doubled", _doubled_layer),
    Disturbance("last layer doubled", _doubled_output),
    Disturbance("all parameters times 1.5", _everything_scaled),
    Disturbance("signs shuffled in one matrix", _separating("shuffled signs")),
    Disturbance("rows negated without the next layer", _through_neurons(_signs, coupled=False)),
    Disturbance("signs of ReLU neurons flipped", _through_neurons(_signs, coupled=True)),
    Disturbance("one matrix replaced by its absolute values", _absolute),
    Disturbance("inputs negated", _negated_inputs),
    Disturbance("biases permuted", _shuffled_biases),
    Disturbance("biases scaled", _scaled_biases),
    Disturbance("taps permuted, alike in every kernel of a layer", _taps_alike),
    Disturbance("taps permuted, kernel by kernel", _taps_one_by_one),
    Disturbance("kernels turned by half a turn", _flipped_kernels),
    Disturbance("another activation of the same symmetry", _other_activation),
)
"""All that the table of blind spots tries."""
