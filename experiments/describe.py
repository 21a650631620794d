"""What can be said of one network without running it: layers, groups, symmetry, dead neurons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from graphnfn.activations import Gauge
from graphnfn.effective import effective
from graphnfn.graph import NeuralGraph
from graphnfn.law import Exchange, MoveGroup
from graphnfn.spec import NeuronGroup
from graphnfn.stack import Stack
from graphnfn.traced import TracedSpec
from graphnfn.traced_stack import TracedStack

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
        reason: why there is this symmetry and no more.
    """

    id: str
    role: str
    size: int
    activation: str
    symmetry: str
    scales: int
    dead: int
    reason: str = ""


@dataclass(frozen=True)
class Description:
    """A network in numbers; ``freedom`` is what is left of ``parameters`` after the continuous symmetry.

    Args:
        families: what may be exchanged as a whole, such as attention heads, in words.
        notes: what was not understood, and what failed verification.
    """

    layers: tuple[LayerFacts, ...]
    groups: tuple[GroupFacts, ...]
    parameters: int
    freedom: int
    families: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def describe(graph: NeuralGraph) -> Description:
    """The layers, groups and symmetry of a single network.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> facts = describe(random_graph(mlp_spec([2, 8, 1], "relu")))
        >>> facts.parameters, facts.freedom, facts.groups[1].symmetry
        (33, 25, 'permutations, positive scales')
    """
    if isinstance(graph.spec, TracedSpec):
        return _traced(graph.stacks()[0])
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
    scales = int((scaled & ~dead).sum())
    return GroupFacts(
        group.id, group.role, group.size, names, symmetry, scales, int(dead.sum()), _REASONS[gauge_of(group)]
    )


def gauge_of(group: NeuronGroup) -> Gauge:
    """What all neurons of a group have."""
    out = Gauge.NONZERO
    for gauge in group.gauge:
        out &= gauge
    return out


_REASONS = {
    Gauge.NONE: "the activation commutes with no scale and no sign",
    Gauge.POSITIVE: "f(g z) = g^k f(z) for g > 0 only",
    Gauge.SIGN: "f(-z) = f(z) or -f(z); scales change the function",
    Gauge.NONZERO: "f(g z) = phi(g) f(z) for every g other than 0",
}


def _traced(stack: TracedStack) -> Description:
    """The same of a traced network, from its law."""
    spec = stack.spec
    layers = tuple(LayerFacts(name, _kind(spec, name), *_ends(spec, name), shape) for name, shape in spec.shapes)
    groups = tuple(_move_group(spec, g) for g in spec.law.groups)
    families = tuple(f"{len(f)} bundles of {' and '.join(f[0])} may be exchanged" for f in spec.law.families)
    families += tuple(f"{len(e.parts)} parts such as {_pieces(e)} may be exchanged" for e in spec.law.exchanges)
    freedom = spec.num_params - sum(g.scales for g in groups)
    return Description(layers, groups, spec.num_params, freedom, families, spec.law.notes)


def _pieces(exchange: Exchange) -> str:
    """The first part in words."""
    words = []
    for piece in exchange.parts[0]:
        runs = ", ".join(f"{a}:{b}" if b - a > 1 else f"{a}" for a, b in piece.runs[:3])
        more = ", ..." if len(piece.runs) > 3 else ""
        words.append(piece.param + (f"[{':, ' * piece.axis}{runs}{more}]" if piece.runs else ""))
    return " and ".join(words[:2]) + (f" and {len(words) - 2} more" if len(words) > 2 else "")


def _kind(spec: TracedSpec, name: str) -> str:
    return next((b.kind for b in spec.blocks if b.param == name), "neurons")


def _ends(spec: TracedSpec, name: str) -> tuple[str, str]:
    blocks = [b for b in spec.blocks if b.param == name]
    if blocks:
        return _few(b.src for b in blocks), _few(b.dst for b in blocks)
    return "", _few(c.group for c in spec.columns if c.param == name)


def _few(names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return distinct[0] if len(distinct) == 1 else f"{distinct[0]} and {len(distinct) - 1} more"


def _move_group(spec: TracedSpec, group: MoveGroup) -> GroupFacts:
    gauges = spec.law.gauges_of[group.id]
    words = ["permutations"] if group.permutable else []
    words += [_KINDS[g.kind] for g in gauges]
    scales = sum(group.size**2 if g.linear else group.size * g.scale for g in gauges)
    reasons = dict.fromkeys(r for r in (group.reason, *(g.reason for g in gauges)) if r)
    acts = " / ".join(group.acts)
    symmetry = ", ".join(words) or ("fixed" if not group.permutable else "none")
    return GroupFacts(group.id, group.role, group.size, acts, symmetry, scales, 0, "; ".join(reasons))


_KINDS = {"GL": "GL", "nonzero": "scales and sign flips", "positive": "positive scales", "sign": "sign flips"}
