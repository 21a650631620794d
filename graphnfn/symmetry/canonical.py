"""Canonical forms: unit incoming norms for positive scales, positive reference responses for signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphnfn.activations import Gauge
from graphnfn.effective import effective
from graphnfn.errors import SymmetryError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec, NeuronGroup
from graphnfn.stack import Stack
from graphnfn.symmetry.action import act
from graphnfn.symmetry.element import GroupAction, GroupElement
from graphnfn.symmetry.law_canonical import canonical_element
from graphnfn.traced import TracedSpec

NEGLIGIBLE = 1e-16
"""Share of a neuron's incoming norm below which another neuron does not matter to it, in any precision."""


@dataclass(frozen=True)
class CanonicalScales:
    """Per group ``[B, n]``: the norm c_i (charge 1) and its output factor phi(c_i); 1 where there is no scale."""

    norm: tuple[Tensor, ...]
    phi: tuple[Tensor, ...]


def _mask(group: NeuronGroup, flag: Gauge, device: torch.device) -> Tensor:
    return torch.tensor([bool(gauge & flag) for _, gauge in group.per_neuron()], device=device)


def _odd(group: NeuronGroup, device: torch.device) -> Tensor:
    return torch.tensor([bool(a.phi_sign) for a, _ in group.per_neuron()], device=device)


def _power(group: NeuronGroup, like: Tensor) -> Tensor:
    return torch.tensor([a.phi_scale for a, _ in group.per_neuron()], dtype=like.dtype, device=like.device)


def canonical_scales(stack: Stack) -> tuple[CanonicalScales, Stack]:
    """The scales that give every neuron unit incoming norm, and the (effective) stack in that form.

    In topological order ``c_i = || (w_ij phi(c_j))_j, b_i ||``, ``w'_ij = w_ij phi(c_j) / c_i`` and
    ``b'_i = b_i / c_i``: c has charge 1, so w' and b' are invariant under positive scales.  Dead neurons
    (norm 0) get c = 1, and their outgoing w' are 0: that is the limit for c -> 0, it changes no function because
    sigma(0) = 0 wherever scales are a symmetry, and any other value would depend on the scale.  Neurons whose outgoing
    w' are all below :data:`NEGLIGIBLE` are read as dead, too, and their incoming w', b' are 0: weight decay leaves of
    them subnormal numbers, whose few digits would not survive other scales.  For the same reason all is computed in
    float64: of small weights behind small norms a product in float32 may be 0 where it would not be under other scales.
    Scales, where there are any, are returned in float64, weights in float32 or, where they came so, in float64.
    A device without float64 computes in float32.
    """
    stack = effective(stack)
    spec, narrow = stack.spec, torch.promote_types(stack.nodes.dtype, torch.float32)
    scaled = any(g & Gauge.POSITIVE for group in spec.groups for g in group.gauge)
    stack = stack.apply(lambda t: t.to(_widest(t.device) if scaled else narrow))
    bias = stack.nodes[..., 0]
    blocks = list(stack.blocks)
    norms: list[Tensor] = []
    phis: list[Tensor] = []
    alive: list[Tensor] = []
    biases = []
    for i, group in enumerate(spec.groups):
        here = bias[:, spec.span(i)]
        for b in spec.incoming[i]:
            source = spec.position[spec.blocks[b].src]
            if any(g & Gauge.POSITIVE for g in spec.groups[source].gauge):
                blocks[b] = blocks[b] * (phis[source] * alive[source])[:, None, :, None]
        if any(g & Gauge.POSITIVE for g in group.gauge):
            parts = [blocks[b].flatten(2) for b in spec.incoming[i]] + [here[..., None]]
            c, live = _row_norm(parts, torch.finfo(narrow).tiny)
            if not all(g & Gauge.POSITIVE for g in group.gauge):
                some = _mask(group, Gauge.POSITIVE, c.device)
                c, live = torch.where(some, c, 1.0), torch.where(some, live, 1.0)
            for b in spec.incoming[i]:
                blocks[b] = blocks[b] / c[:, :, None, None]
            here = here / c
        else:
            c = live = torch.ones_like(here)
        power = _power(group, c)
        phis.append(c if bool((power == 1).all()) else c**power)
        norms.append(c)
        alive.append(live)
        biases.append(here)
    _forget_unheard(spec, blocks, biases)
    nodes = torch.cat([torch.cat(biases, 1)[..., None], stack.nodes[..., 1:]], -1)
    canonical = Stack(spec, nodes, tuple(blocks)).apply(lambda t: t.to(narrow))
    return CanonicalScales(tuple(norms), tuple(phis)), canonical


def _widest(device: torch.device) -> torch.dtype:
    """The widest floating point type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have nothing wider


def _forget_unheard(spec: NetSpec, blocks: list[Tensor], biases: list[Tensor]) -> None:
    """Set to 0 what enters neurons with a scale that nobody hears, from the last group to the first, in place."""
    for i in reversed(range(len(spec.groups))):
        group = spec.groups[i]
        if not spec.outgoing[i] or not any(g & Gauge.POSITIVE for g in group.gauge):
            continue
        loudest = torch.stack([blocks[b].detach().abs().amax((1, 3)) for b in spec.outgoing[i]]).amax(0)
        heard = loudest >= NEGLIGIBLE
        if not all(g & Gauge.POSITIVE for g in group.gauge):
            heard = heard | ~_mask(group, Gauge.POSITIVE, heard.device)
        for b in spec.incoming[i]:
            blocks[b] = torch.where(heard[:, :, None, None], blocks[b], 0.0)
        biases[i] = torch.where(heard, biases[i], 0.0)


def _row_norm(parts: list[Tensor], tiny: float) -> tuple[Tensor, Tensor]:
    """Norm of the concatenated parts over their last axis, free of overflow; 1 where all are zero.

    The second tensor is 0 where all are zero and 1 elsewhere.  Numbers below ``tiny``, which weight decay leaves of
    dead neurons, count as zero: in the precision of the weights their reciprocals overflow.
    """
    peak = torch.stack([p.detach().abs().amax(-1) for p in parts]).amax(0)
    live = peak >= tiny
    safe = torch.where(live, peak, 1.0)
    squares = sum(((p / safe[..., None]) ** 2).sum(-1) for p in parts)
    norm = torch.where(live, safe * torch.sqrt(torch.where(live, squares, 1.0)), 1.0)
    return norm, live.to(norm.dtype)


def canonicalize(graph: NeuralGraph) -> tuple[NeuralGraph, Any]:
    """The representative of a graph under positive scales, and the element that leads to it.

    ``canonical = act(element, graph)`` and ``graph = act(element.inverse(), canonical)``; two graphs that
    differ by positive scales have the same canonical form.  See :func:`canonical_scales` for the law, and for traced
    networks, whose GL pairs become canonical too, :func:`~graphnfn.symmetry.law_canonical.canonical_element`.

    Raises:
        SpecError: the batch mixes architectures.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.symmetry import random_element
        >>> spec = mlp_spec([2, 8, 1], "relu")
        >>> graph = NeuralGraph.build(spec, {k: torch.randn(s, dtype=torch.float64) for k, s in spec.params.items()})
        >>> moved = act(random_element(spec, decades=4.0, seed=0).__class__(spec, {}), graph)
        >>> canonical, element = canonicalize(graph)
        >>> bool(torch.allclose(act(element.inverse(), canonical).x, graph.x))
        True
    """
    spec = graph.spec
    if isinstance(spec, TracedSpec):
        law = canonical_element(spec.law, graph.state_dict())
        return act(law, graph), law
    element = scaling_element(spec, canonical_scales(graph.stacks()[0])[0])
    return act(element, graph), element


def scaling_element(spec: NetSpec, scales: CanonicalScales) -> GroupElement:
    """The element that divides every scalable neuron by its norm."""
    actions = {}
    for group, c in zip(spec.groups, scales.norm, strict=True):
        if any(g & Gauge.POSITIVE for g in group.gauge):
            plain = GroupAction.identity(group.size)
            actions[group.id] = GroupAction(plain.perm, _squeeze(1 / c.detach().double()), plain.sign, plain.half_turns)
    return GroupElement(spec, actions)


def _squeeze(rows: Tensor) -> Tensor:
    return rows[0] if rows.shape[0] == 1 else rows


def canonical_signs(graph: NeuralGraph) -> tuple[NeuralGraph, GroupElement]:
    """The representative of a graph under sign flips: every neuron's response to a reference input is positive.

    The reference is one fixed generic input; a neuron whose reference pre-activation is negative is flipped.
    The choice is equivariant to permutations and positive scales and jumps where a response crosses zero, so
    it serves alignment, hashing and export, not training.

    Raises:
        SpecError: the batch mixes architectures.
        SymmetryError: nothing is left to choose, because no neuron has a sign symmetry.
    """
    spec = graph.spec
    if isinstance(spec, TracedSpec):
        raise SymmetryError("canonical_signs knows MLPs and CNNs; a traced network has canonicalize only")
    if not any(g & Gauge.SIGN for group in spec.groups for g in group.gauge):
        raise SymmetryError("no neuron of this spec has a sign symmetry: canonical_signs has nothing to do")
    _, stack = canonical_scales(graph.stacks()[0])
    stack = stack.apply(lambda t: t.double())
    actions, states = {}, []
    for i, group in enumerate(spec.groups):
        if not spec.incoming[i]:
            states.append(_reference(group.size).expand(stack.size, -1).to(stack.nodes))
            continue
        z = stack.group(i)[..., 0]
        for b in spec.incoming[i]:
            z = z + torch.einsum("bijt,bj->bi", stack.blocks[b], states[spec.position[spec.blocks[b].src]])
        flips = _mask(group, Gauge.SIGN, z.device) & (z < 0)
        sign = torch.where(flips, -1.0, 1.0).double().cpu()
        if any(g & Gauge.SIGN for g in group.gauge):
            plain = GroupAction.identity(group.size)
            actions[group.id] = GroupAction(plain.perm, plain.scale, _squeeze(sign), plain.half_turns)
        even = _mask(group, Gauge.SIGN, z.device) & ~_odd(group, z.device)
        # z beside sigma(z): a row of silent ReLUs would otherwise leave the neurons behind it without a sign
        states.append(activate(spec, i, z[..., None], stack)[..., 0] + torch.where(even, 0.0, z))
    element = GroupElement(spec, actions)
    return act(element, graph), element


def _reference(size: int) -> Tensor:
    """A fixed generic input: no two entries equal, none zero."""
    return torch.cos(1.0 + torch.arange(1, size + 1, dtype=torch.float64) * 2.0**0.5)


def activate(spec: NetSpec, i: int, z: Tensor, stack: Stack) -> Tensor:
    """Group i's activations on pre-activations ``[B, n, d]`` (rows that mix neurons are left out)."""
    group = spec.groups[i]
    slope = stack.group(i)[..., 5:6] if stack.nodes.shape[-1] > 5 else None
    if len(set(group.activations)) == 1:
        act_ = group.activations[0]
        return act_(z, slope) if act_.rule.elementwise else z
    out = z
    kinds = [a for a, _ in group.per_neuron()]
    for act_ in dict.fromkeys(kinds):
        rows = torch.tensor([k == act_ for k in kinds], device=z.device)[:, None]
        out = torch.where(rows, act_(z, slope), out)
    return out
