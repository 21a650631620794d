"""Balanced weights: among all that differ by positive scales, those with the least sum of squares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from graphnfn.activations import Gauge
from graphnfn.errors import SpecError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec, NeuronGroup
from graphnfn.stack import Stack
from graphnfn.symmetry.action import act
from graphnfn.symmetry.canonical import CanonicalScales, canonical_scales, scaling_element
from graphnfn.symmetry.element import GroupElement
from graphnfn.traced_stack import TracedStack


def balanced_scales(stack: Stack, relative: Sequence[float] | None = None) -> tuple[CanonicalScales, Stack]:
    """The scales that balance what enters and what leaves every neuron, and the (effective) stack in that form.

    From unit incoming norms (:func:`~graphnfn.symmetry.canonical.canonical_scales`), which no positive scale changes,
    groups take turns: ``c_i^(2p + 2) = (sum_j |w_ij|^2 + b_i^2) / (p sum_k |w_ki|^2)`` with ``phi(c) = c^p`` is where
    ``w_ij / c_i``, ``b_i / c_i`` and ``w_ki phi(c_i)`` have the least sum of squares.  That sum has one minimum, since
    it is convex in log c.  One round more than there are layers, over-relaxed, brings the weights of small CNNs within
    1 % of it; what is left is invariant, however near.  Neurons that nothing leaves get incoming weights of 0:
    their limit, which changes no function.  Factors are computed in float64.

    Weight decay leads towards this form, in which the weights of a neuron tell how much it matters (Stock, Graham,
    Gribonval, Jegou, "Equi-normalization of Neural Networks", 2019, arXiv 1902.10416, section 3).

    Args:
        stack: any.
        relative: as in :func:`balanced_form`.
    """
    scales, canonical = canonical_scales(stack)
    factors = _factors(canonical, relative)
    if factors is None:
        return scales, canonical
    norms = tuple(c / torch.where(f > 0, f, 1.0).to(c.dtype) for c, f in zip(scales.norm, factors[0], strict=True))
    phis = tuple(phi * f.to(phi.dtype) for phi, f in zip(scales.phi, factors[1], strict=True))
    return CanonicalScales(norms, phis), _scaled(canonical, *factors)


def balanced_form(canonical: Stack, relative: Sequence[float] | None = None) -> Stack:
    """A stack of unit incoming norms in balanced form; the stack itself where no neuron has a scale.

    Args:
        canonical: the stack.
        relative: per group g its width rho_g relative to that of other networks it shall be compared with; then
            ``sum_i (sum_j w_ij^2 + b_i^2) / rho_g(i)`` is least, which does not grow with the width where every neuron
            adds up its sources with weights of a size like (their number)^(-1/2). None: 1 for all.
    """
    factors = _factors(canonical, relative)
    return canonical if factors is None else _scaled(canonical, *factors)


def relative_widths(spec: NetSpec, reference: int | None) -> list[float] | None:
    """Per group its width relative to a hidden one of ``reference`` neurons, 1 at the ends; None without a number."""
    if reference is None:
        return None
    return [group.size / reference if group.role == "hidden" else 1.0 for group in spec.groups]


def balance(graph: NeuralGraph) -> tuple[NeuralGraph, GroupElement]:
    """The balanced representative of a graph under positive scales, and the element that leads to it.

    ``balanced = act(element, graph)``; two graphs that differ by positive scales have the same balanced form, except
    for incoming weights of neurons that nothing leaves. See :func:`balanced_scales` for the law.

    Raises:
        SpecError: the batch mixes architectures, or holds traced networks.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.symmetry import act, random_element
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 8, 1], "relu"))
        >>> moved = act(random_element(graph.spec, decades=4.0, seed=0, permute=False), graph)
        >>> bool(torch.allclose(balance(moved)[0].x, balance(graph)[0].x))
        True
    """
    spec, stack = graph.spec, graph.stacks()[0]
    if isinstance(stack, TracedStack):
        raise SpecError(
            "got a traced network; balance takes MLPs and CNNs: use canonicalize, which knows its symmetry law"
        )
    element = scaling_element(spec, balanced_scales(stack)[0])
    return act(element, graph), element


def _powers(group: NeuronGroup, device: torch.device) -> Tensor:
    """p of ``phi(c) = c^p`` per neuron, 0 where there is nothing to balance."""
    found = [act.phi_scale if gauge & Gauge.POSITIVE else 0.0 for act, gauge in group.per_neuron()]
    return torch.tensor(found, dtype=torch.float64, device=device)


def _factors(stack: Stack, relative: Sequence[float] | None = None) -> tuple[list[Tensor], list[Tensor]] | None:
    """By what incoming and outgoing weights are multiplied, ``1 / c`` and ``phi(c)``, ``[B, n]``; None: by nothing."""
    spec = stack.spec
    powers = [_powers(group, stack.nodes.device) for group in spec.groups]
    turns = [i for i, p in enumerate(powers) if bool(p.any())]
    if not turns:
        return None
    squares = [torch.linalg.vector_norm(block, dim=3).double().square() for block in stack.blocks]
    biases = [stack.group(i)[..., 0].double().square() for i in range(len(powers))]
    ends = [(spec.position[b.src], spec.position[b.dst]) for b in spec.blocks]
    if relative is not None:
        squares = [square / relative[end] for square, (_, end) in zip(squares, ends, strict=True)]
        biases = [bias / rho for bias, rho in zip(biases, relative, strict=True)]
    step = 2 / (1 + math.sin(math.pi / max(spec.levels)))  # successive over-relaxation of a chain of so many springs
    into, out = ([torch.ones_like(bias) for bias in biases] for _ in range(2))  # their squares
    logs = [torch.zeros_like(bias) for bias in biases]  # of c^2; powers are slow
    for _ in range(max(spec.levels) + 1):
        for i in turns:
            p, entering, leaving = powers[i], biases[i], torch.zeros_like(biases[i])
            for b in spec.incoming[i]:
                entering = entering + torch.bmm(squares[b], out[ends[b][0]][..., None])[..., 0]
            for b in spec.outgoing[i]:
                leaving = leaving + torch.bmm(into[ends[b][1]][:, None], squares[b])[:, 0]
            live = (entering > 0) & (leaving > 0) & (p > 0)
            wanted = torch.where(live, entering / (p * leaving), 1.0).log() / (p + 1)
            logs[i] = torch.where(live, step * wanted - (step - 1) * logs[i], 0.0)
            into[i] = torch.where((leaving == 0) & (p > 0), 0.0, torch.exp(-logs[i]))
            out[i] = torch.exp(p * logs[i])
    return [f.sqrt() for f in into], [f.sqrt() for f in out]


def _scaled(stack: Stack, into: list[Tensor], out: list[Tensor]) -> Stack:
    spec, dtype = stack.spec, stack.nodes.dtype
    blocks = tuple(
        weight * (into[spec.position[b.dst]][:, :, None] * out[spec.position[b.src]][:, None]).to(dtype)[..., None]
        for b, weight in zip(spec.blocks, stack.blocks, strict=True)
    )
    bias = stack.nodes[..., :1] * torch.cat(into, 1).to(dtype)[..., None]
    return Stack(spec, torch.cat([bias, stack.nodes[..., 1:]], -1), blocks)
