"""The action of the symmetry group on weights: the only code that transforms them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor

from graphnfn.errors import SymmetryError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NODE_CHARGE, NODE_FIELDS, NeuronGroup
from graphnfn.stack import Stack
from graphnfn.symmetry.element import GroupAction, GroupElement
from graphnfn.symmetry.law_element import LawElement
from graphnfn.traced import TracedSpec
from graphnfn.traced_stack import TracedStack


@overload
def act(element: GroupElement, target: NeuralGraph) -> NeuralGraph: ...
@overload
def act(element: GroupElement, target: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
@overload
def act(element: LawElement, target: NeuralGraph) -> NeuralGraph: ...
@overload
def act(element: LawElement, target: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
def act(
    element: GroupElement | LawElement, target: NeuralGraph | Mapping[str, Tensor]
) -> NeuralGraph | dict[str, Tensor]:
    """Move weights by a group element; the network stays the same function.

    With g_i the factor of neuron i after permutation and phi from the activation table:
    ``w'_ij = g_i / phi(g_j) * w_p(i)p(j)`` and ``b'_i = g_i b_p(i) + n_i pi / omega``
    (a kept batch norm takes g_i in its own weight and bias instead).

    Args:
        element: one element for all networks, or one per network.
        target: a graph, a batch of graphs of the element's spec, or a state dict.

    Returns:
        A new graph or state dict; the input is left alone.

    Raises:
        SymmetryError: the target has another spec.
        SpecError: a state dict lacks a parameter of the spec.
    """
    if isinstance(element, LawElement):
        return _act_by_law(element, target)
    if isinstance(target, NeuralGraph):
        if any(s != element.spec for s in target.specs):
            raise SymmetryError("the graph has another spec than the group element: draw the element from graph.spec")
        return target.map_stacks(lambda stack: act_on_stack(element, stack))
    graph = NeuralGraph.build(element.spec, target)
    moved = act(element, graph).state_dict()
    return {key: moved[key].to(value.dtype) if key in moved else value for key, value in target.items()}


def _act_by_law(element: LawElement, target: NeuralGraph | Mapping[str, Tensor]) -> NeuralGraph | dict[str, Tensor]:
    if not isinstance(target, NeuralGraph):
        return element.act(target)
    if any(not isinstance(s, TracedSpec) or s.law != element.law for s in target.specs):
        raise SymmetryError("the graph has another spec than the group element: draw the element from graph.spec")

    def move(stack: TracedStack) -> TracedStack:
        rows = [element.act({name: t[i] for name, t in stack.tensors.items()}) for i in range(stack.size)]
        if stack.size == 1:  # no second copy of a large network
            return replace(stack, tensors={name: t[None] for name, t in rows[0].items()})
        return replace(stack, tensors={name: torch.stack([row[name] for row in rows]) for name in stack.tensors})

    return target.map_stacks(move)


def act_on_stack(element: GroupElement, stack: Stack) -> Stack:
    """:func:`act` on the stacked weights of networks of one spec."""
    if stack.nodes.dtype in (torch.float16, torch.bfloat16):  # the factors may leave the range of half precision
        return act_on_stack(element, stack.apply(lambda t: t.float())).apply(lambda t: t.to(stack.nodes.dtype))
    spec = stack.spec
    factors = [_factors(g, element.get(g.id), stack.nodes) for g in spec.groups]
    nodes = torch.cat([_move_nodes(g, stack.group(i), *factors[i]) for i, g in enumerate(spec.groups)], 1)
    blocks = []
    for b, weight in zip(spec.blocks, stack.blocks, strict=True):
        dst, src = spec.position[b.dst], spec.position[b.src]
        perm_dst, into, _, _ = factors[dst]
        perm_src, _, out, _ = factors[src]
        size, n_dst, n_src, taps = weight.shape
        moved = weight.gather(1, perm_dst[:, :, None, None].expand(size, n_dst, n_src, taps))
        moved = moved.gather(2, perm_src[:, None, :, None].expand(size, n_dst, n_src, taps))
        if spec.groups[dst].norm_eps is None:
            moved = moved * into[:, :, None, None]
        blocks.append(moved / out[:, None, :, None])
    return Stack(spec, nodes, tuple(blocks))


def _factors(group: NeuronGroup, action: GroupAction, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """perm, g (incoming), phi(g) with the half turns (outgoing), bias shift; each ``[B, n]``."""
    shape = (like.shape[0], group.size)
    kinds = [a for a, _ in group.per_neuron()]
    power = torch.tensor([a.phi_scale for a in kinds], dtype=torch.float64)
    odd = torch.tensor([bool(a.phi_sign) for a in kinds])
    turn = torch.tensor([math.pi / a.parameter if a.rule.half_turns else 0.0 for a in kinds], dtype=torch.float64)
    into = action.scale * action.sign
    out = action.scale**power * torch.where(odd, action.sign, 1.0) * (1.0 - 2.0 * (action.half_turns % 2))
    shift = action.half_turns * turn
    perm = action.perm.expand(shape).to(like.device)

    def fit(values: Tensor) -> Tensor:
        return values.expand(shape).to(like.device, like.dtype)

    return perm, fit(into), fit(out), fit(shift)


def _move_nodes(group: NeuronGroup, values: Tensor, perm: Tensor, into: Tensor, _: Tensor, shift: Tensor) -> Tensor:
    """The node parameters of one group, ``[B, n, fields]``."""
    moved = values.gather(1, perm[..., None].expand_as(values))
    normed = group.norm_eps is not None
    charges = [c if not (normed and f == "bias") else 0 for f, c in zip(NODE_FIELDS, NODE_CHARGE, strict=True)]
    columns = []
    for c, name in enumerate(NODE_FIELDS[: values.shape[-1]]):
        column = moved[..., c] * into if charges[c] else moved[..., c]
        shifted = name == ("norm_bias" if normed else "bias")
        columns.append(column + shift if shifted and group.half_turns else column)
    neutral = group.role == "hidden"
    return torch.stack(columns, -1) if neutral else moved
