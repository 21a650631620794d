"""Parameter graphs: every parameter of a network is an edge (Lim et al. 2023, arXiv 2312.04501, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from baselines.errors import BaselineError
from graphnfn.spec import NODE_FIELDS, NetSpec
from graphnfn.stack import Stack

NODE_TYPES, EDGE_TYPES = 17, 14
"""Types in the official code; networks made of layers use the first few."""
_NEURON, _BIAS, _CHANNEL, _CHANNEL_BIAS, _GAMMA, _BETA = range(6)
_LINEAR, _LINEAR_BIAS, _CONV, _CONV_BIAS, _RESIDUAL, _EDGE_GAMMA, _EDGE_BETA = range(7)
_NORMS = {"norm_weight": (_GAMMA, _EDGE_GAMMA), "norm_bias": (_BETA, _EDGE_BETA)}


@dataclass(frozen=True)
class Bundle:
    """Parallel edges between two sets of nodes.

    Args:
        sender: number of the set that the edges leave.
        receiver: number of the set that they reach.
        facts: ``[T, 5]`` per parallel edge: layer, type, position in the kernel (-1 where there is none).
        source: the block's number, or the field and group of a node parameter.
        back: whether the edges lead from the parameter's target to its source.
    """

    sender: int
    receiver: int
    facts: Tensor
    source: int | tuple[str, int]
    back: bool = False

    def values(self, stack: Stack) -> Tensor:
        """``[B, receivers, senders, T]``."""
        if isinstance(self.source, int):
            values = stack.blocks[self.source]
        else:
            values = stack.group(self.source[1])[..., NODE_FIELDS.index(self.source[0])][..., None, None]
        return values.transpose(1, 2) if self.back else values


@dataclass(frozen=True)
class ParameterGraph:
    """The static part: per set of nodes ``[n, 3]`` (layer, place of inputs and outputs or -1, type), and the edges."""

    nodes: tuple[Tensor, ...]
    bundles: tuple[Bundle, ...]

    def degree(self, receiver: int) -> int:
        """Edges that reach a node of a set."""
        return sum(len(b.facts) * len(self.nodes[b.sender]) for b in self.bundles if b.receiver == receiver)


@lru_cache(maxsize=64)
def parameter_graph(spec: NetSpec, undirected: bool = False) -> ParameterGraph:
    """The parameter graph of an architecture.

    A dense layer behind a flatten, which the official code refuses, has one parallel edge per position. Running
    statistics of norms are no parameters, so they are not in it.

    Raises:
        BaselineError: PReLU slopes, or a traced network.

    Example:
        >>> from graphnfn.chain import small_cnn_spec
        >>> graph = parameter_graph(small_cnn_spec([1, 16, 16, 16], 10, "relu"))
        >>> sum(len(rows) for rows in graph.nodes), [len(b.facts) for b in graph.bundles][:2]
        (63, [9, 9])
    """
    if any(p.field == "slope" for p in spec.node_params):
        raise BaselineError("a parameter graph has no place for PReLU slopes: use gmn, or graphnfn.GraphMetaNet")
    conv = [any(spec.blocks[b].kind == "conv" for b in spec.incoming[i]) for i in range(len(spec.groups))]
    conv[0] = any(spec.blocks[b].kind == "conv" for b in spec.outgoing[0])
    nodes = []
    for i, group in enumerate(spec.groups):
        place = torch.full((group.size,), -1) if group.role == "hidden" else torch.arange(group.size)
        rows = torch.tensor([[spec.levels[i], 0, _CHANNEL if conv[i] else _NEURON]]).repeat(group.size, 1)
        rows[:, 1] = place
        nodes.append(rows)
    bundles = []
    for i, b in enumerate(spec.blocks):
        target = spec.position[b.dst]
        positions = torch.full((b.num_taps, 3), -1)
        if b.taps:
            positions[:, : len(b.taps)] = torch.cartesian_prod(*map(torch.arange, b.taps)).view(b.num_taps, -1)
        kind = torch.tensor([[spec.levels[target] - 1, _CONV if b.kind == "conv" else _LINEAR]])
        facts = torch.cat([kind.expand(b.num_taps, -1), positions], 1)
        bundles.append(Bundle(spec.position[b.src], target, facts, i))
    for p in spec.node_params:
        i = spec.position[p.group]
        if p.field == "bias":
            types = (_CHANNEL_BIAS, _CONV_BIAS) if conv[i] else (_BIAS, _LINEAR_BIAS)
        elif p.field in _NORMS:
            types = _NORMS[p.field]
        else:
            continue
        layer = spec.levels[i] - (p.field == "bias")
        bundles.append(Bundle(len(nodes), i, torch.tensor([[layer, types[1], -1, -1, -1]]), (p.field, i)))
        nodes.append(torch.tensor([[spec.levels[i], -1, types[0]]]))
    if undirected:
        bundles += [replace(b, sender=b.receiver, receiver=b.sender, back=True) for b in bundles]
    return ParameterGraph(tuple(nodes), tuple(bundles))
