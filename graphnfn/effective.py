"""Kept batch norms folded into weights and biases: what a network effectively computes with."""

from __future__ import annotations

from dataclasses import replace

import torch

from graphnfn.errors import SpecError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NODE_FIELDS, NetSpec, NodeParam
from graphnfn.stack import Stack

_COL = {name: i for i, name in enumerate(NODE_FIELDS)}


def effective(stack: Stack) -> Stack:
    """The stack with every kept norm folded in; the spec keeps its groups and blocks.

    ``w_eff = gamma / sqrt(var + eps) * w`` and ``b_eff = gamma (b - mean) / sqrt(var + eps) + beta``.
    The columns of the norm become neutral. A stack without norms is returned as it is.
    """
    spec = stack.spec
    if all(g.norm_eps is None for g in spec.groups):
        return stack
    gains, nodes = [], stack.nodes.clone()
    for i, group in enumerate(spec.groups):
        values = stack.group(i)
        if group.norm_eps is None:
            gains.append(None)
            continue
        gain = values[..., _COL["norm_weight"]] * torch.rsqrt(values[..., _COL["norm_var"]] + group.norm_eps)
        shifted = values[..., _COL["bias"]] - values[..., _COL["norm_mean"]]
        neutral = torch.zeros_like(values)
        neutral[..., _COL["bias"]] = gain * shifted + values[..., _COL["norm_bias"]]
        neutral[..., _COL["norm_weight"]] = 1.0
        neutral[..., _COL["norm_var"]] = 1.0
        neutral[..., _COL["slope"]] = values[..., _COL["slope"]]
        nodes[:, spec.span(i)] = neutral
        gains.append(gain)
    blocks = []
    for b, weight in zip(spec.blocks, stack.blocks, strict=True):
        gain = gains[spec.position[b.dst]]
        blocks.append(weight if gain is None else weight * gain[:, :, None, None])
    return Stack(spec, nodes, tuple(blocks))


FOLDED_BIAS = "folded_bias"
"""Last part of the name of a bias that neither the layer nor its norm had a parameter for."""


def folded_spec(spec: NetSpec) -> NetSpec:
    """The spec without norms.

    The bias of a folded group keeps the name of the layer's bias, else takes that of the norm's bias, else is new and
    called ``<group>.folded_bias``.

    Raises:
        SpecError: a pooling lies between a layer and its norm; they do not commute.
    """
    for b in spec.blocks:
        kinds = [op.kind for op in b.post]
        if "norm" in kinds and set(kinds[: kinds.index("norm")]) - {"act"}:
            raise SpecError(
                f"the norm behind {b.param!r} follows a {kinds[0]}, so it cannot be folded exactly: keep it"
            )
    normed = {g.id: g.size for g in spec.groups if g.norm_eps is not None}
    biased = {p.group for p in spec.node_params if p.field == "bias"}
    carried = biased | {p.group for p in spec.node_params if p.field == "norm_bias"}
    params = []
    for p in spec.node_params:
        if p.group not in normed or p.field in ("bias", "slope"):
            params.append(p)
        elif p.field == "norm_bias" and p.group not in biased:
            params.append(NodeParam(p.param, p.group, "bias", p.shape))
    params += [NodeParam(f"{g}.{FOLDED_BIAS}", g, "bias", (size,)) for g, size in normed.items() if g not in carried]
    groups = tuple(replace(g, norm_eps=None) for g in spec.groups)
    blocks = tuple(replace(b, post=tuple(op for op in b.post if op.kind != "norm")) for b in spec.blocks)
    return replace(spec, groups=groups, blocks=blocks, node_params=tuple(params))


def fold_norms(graph: NeuralGraph) -> NeuralGraph:
    """The same functions without batch norms: every norm is folded into the layer before it.

    Raises:
        SpecError: a pooling lies between a layer and its norm; they do not commute.
    """

    def fold(stack: Stack) -> Stack:
        spec = folded_spec(stack.spec)
        return Stack(spec, effective(stack).nodes[..., : spec.num_fields], effective(stack).blocks)

    stacks = [fold(s) for s in graph.stacks()]
    return NeuralGraph.from_stacks(stacks, graph.members())
