"""What can be said of one network without running it: layers, groups, symmetry, dead neurons."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphnfn.activations import Gauge
from graphnfn.effective import effective
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NeuronGroup
from graphnfn.stack import Stack

_GAUGES = {
    Gauge.NONE: "none",
    Gauge.POSITIVE: "positive scales",
    Gauge.SIGN: "sign flips",
    Gauge.NONZERO: "scales and sign flips",
}


@dataclass(frozen=True)
class LayerFacts:
    """One block of weights."""

    name: str
    kind: str
    source: str
    target: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GroupFacts:
    """One neuron group and its symmetry.

    Args:
        id: of the group.
        role: input, hidden or output.
        size: neurons.
        activation: its name, or several.
        symmetry: in words.
        scales: continuous scales that act on this group's live neurons.
        dead: neurons that cannot matter: nothing comes in, or nothing goes out.
    """

    id: str
    role: str
    size: int
    activation: str
    symmetry: str
    scales: int
    dead: int


@dataclass(frozen=True)
class Description:
    """A network in numbers; ``freedom`` is what is left of ``parameters`` after the continuous scales."""

    layers: tuple[LayerFacts, ...]
    groups: tuple[GroupFacts, ...]
    parameters: int
    freedom: int


def describe(graph: NeuralGraph) -> Description:
    """The layers, groups and symmetry of a single network.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> facts = describe(random_graph(mlp_spec([2, 8, 1], "relu")))
        >>> facts.parameters, facts.freedom, facts.groups[1].symmetry
        (33, 25, 'permutations, positive scales')
    """
    spec, stack = graph.spec, effective(graph.stacks()[0])
    layers = tuple(LayerFacts(b.param, b.kind, b.src, b.dst, b.shape) for b in spec.blocks)
    groups = tuple(_group(stack, i, group) for i, group in enumerate(spec.groups))
    return Description(layers, groups, spec.num_params, spec.num_params - sum(g.scales for g in groups))


def dead_neurons(stack: Stack, i: int) -> Tensor:
    """Which neurons of a hidden group cannot matter, ``[B, n]``: no weight and bias comes in, or no weight leaves.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> stack = Stack.pack(mlp_spec([1, 2, 1], "relu"), {
        ...     "layers.0.weight": torch.tensor([[[0.0], [1.0]]]), "layers.0.bias": torch.zeros(1, 2),
        ...     "layers.1.weight": torch.ones(1, 1, 2), "layers.1.bias": torch.zeros(1, 1)})
        >>> dead_neurons(stack, 1)
        tensor([[ True, False]])
    """
    spec = stack.spec
    into = stack.group(i)[..., 0] != 0
    for b in spec.incoming[i]:
        into = into | (stack.blocks[b] != 0).any(-1).any(-1)
    leaving = torch.zeros_like(into)
    for b in spec.outgoing[i]:
        leaving = leaving | (stack.blocks[b] != 0).any(-1).any(1)
    return ~(into & leaving)


def _group(stack: Stack, i: int, group: NeuronGroup) -> GroupFacts:
    names = " / ".join(dict.fromkeys(str(a) for a in group.activations))
    if group.role != "hidden":
        return GroupFacts(group.id, group.role, group.size, names, "fixed", 0, 0)
    dead = dead_neurons(stack, i)[0]
    scaled = torch.tensor([bool(gauge & Gauge.POSITIVE) for _, gauge in group.per_neuron()])
    words = ["permutations"] if group.permutable and group.size > 1 else []
    words += [_GAUGES[g] for g in dict.fromkeys(gauge for _, gauge in group.per_neuron()) if g != Gauge.NONE]
    words += ["half turns"] if group.half_turns else []
    symmetry = ", ".join(words) or "none"
    return GroupFacts(group.id, group.role, group.size, names, symmetry, int((scaled & ~dead).sum()), int(dead.sum()))
