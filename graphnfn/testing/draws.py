"""Random networks, and random group elements for every network of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Literal

import torch
from torch import Tensor

from graphnfn.errors import SymmetryError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import Block, NetSpec, NodeParam
from graphnfn.stack import Stack
from graphnfn.symmetry import Gauge, GroupAction, GroupElement, act, random_element
from graphnfn.symmetry.law_element import LawElement, random_law_element
from graphnfn.traced import TracedSpec
from graphnfn.traced_stack import TracedStack

Symmetry = Literal["spec", "permutation"]
"""The group to draw from: all that the spec claims, or its permutations only."""

_REDRAWS = 64


def random_graph(spec: NetSpec, seed: int = 0, dtype: torch.dtype = torch.float64, *, networks: int = 1) -> NeuralGraph:
    """Networks with random weights of the size that keeps activations of order 1.

    Weights have standard deviation ``(2 / fan_in)^(1/2)``, divided by omega in front of sin and cos; biases are
    small but not zero; kept norms and PReLU slopes are generic too, so that no parameter is neutral by accident.

    Args:
        spec: the architecture.
        seed: of the draw.
        dtype: of the weights.
        networks: how many independent ones.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> random_graph(mlp_spec([2, 8, 1], "tanh"), networks=3)
        NeuralGraph(networks=3, neurons=33, edges=72)
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for block in spec.blocks:
        if block.param not in tensors:
            tensors[block.param] = _weights(spec, block, networks, generator)
    for param in spec.node_params:
        tensors.setdefault(param.param, _node_values(spec, param, networks, generator))
    return NeuralGraph.from_stacks([Stack.pack(spec, tensors).apply(lambda t: t.to(dtype))])


def _omega(spec: NetSpec, group: str) -> float:
    """The frequency in front of which weights must be small, 1 where there is none."""
    target = spec.groups[spec.position[group]]
    if target.norm_eps is not None:
        return 1.0
    return max(a.parameter if a.rule.half_turns else 1.0 for a in target.activations)


def _weights(spec: NetSpec, block: Block, networks: int, generator: torch.Generator) -> Tensor:
    fan_in = block.sizes[1] * block.num_taps
    values = torch.randn(networks, *block.shape, generator=generator, dtype=torch.float64)
    return values * (2 / fan_in) ** 0.5 / _omega(spec, block.dst)


def _node_values(spec: NetSpec, param: NodeParam, networks: int, generator: torch.Generator) -> Tensor:
    shape = (networks, *param.shape)
    if param.field in ("norm_var", "norm_weight"):
        return 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
    if param.field == "slope":
        return 0.05 + 0.4 * torch.rand(shape, generator=generator, dtype=torch.float64)
    values = 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return values / _omega(spec, param.group) if param.field == "bias" else values


def random_elements(
    graph: NeuralGraph,
    *,
    decades: float = 6.0,
    half_turns: int = 0,
    seed: int | torch.Generator = 0,
    symmetry: Symmetry = "spec",
) -> list[GroupElement | LawElement]:
    """One random element per stack of a batch, with an own, non-identity row for every network.

    Traced networks of one stack share one element.

    Args:
        graph: any batch, mixed architectures included.
        decades: scales are log-uniform over so many decades.
        half_turns: largest phase shift in half periods, where those are symmetries.
        seed: of the draw, or a generator.
        symmetry: ``"spec"`` for the whole group, ``"permutation"`` for permutations only.

    Raises:
        SymmetryError: a network has no symmetry to draw from, so a test with it could not fail.
    """
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    return [
        _law_element(s.spec, decades, generator, symmetry)
        if isinstance(s, TracedStack)
        else _moving_element(s, decades, half_turns, generator, symmetry)
        for s in graph.stacks()
    ]


def _law_element(spec: TracedSpec, decades: float, generator: torch.Generator, symmetry: Symmetry) -> LawElement:
    moving = [g for g in spec.law.groups if g.permutable or (symmetry == "spec" and spec.law.gauges_of[g.id])]
    if not moving:
        raise SymmetryError(
            f"a traced network with {len(spec.law.groups)} neuron groups has no {symmetry} symmetry but the identity, "
            "so there is nothing to test: use another one"
        )
    element = random_law_element(spec.law, decades, generator)
    return element if symmetry == "spec" else LawElement(spec.law, element.source, element.perm)


def _moving_element(
    stack: Stack, decades: float, half_turns: int, generator: torch.Generator, symmetry: Symmetry
) -> GroupElement:
    if not _has_symmetry(stack.spec, symmetry):
        sizes = [g.size for g in stack.spec.groups]
        raise SymmetryError(
            f"a network with neuron groups of sizes {sizes} has no {symmetry} symmetry but the identity, so there is "
            "nothing to test: use one with wider hidden groups"
        )

    def draw() -> GroupElement:
        element = random_element(stack.spec, decades, generator, networks=stack.size, half_turns=half_turns)
        return element if symmetry == "spec" else _permutation_part(element)

    element = draw()
    for _ in range(_REDRAWS):
        still = _is_identity(element)
        if not still.any():
            break
        element = _replace_rows(element, draw(), still)
    return element


def _has_symmetry(spec: NetSpec, symmetry: Symmetry) -> bool:
    for group in spec.groups:
        kinds = group.per_neuron()
        if group.permutable and len(set(kinds)) < len(kinds):
            return True
        if symmetry == "spec" and any(gauge != Gauge.NONE for _, gauge in kinds):
            return True
    return False


def _permutation_part(element: GroupElement) -> GroupElement:
    actions = {}
    for name, action in element.actions.items():
        one = torch.ones_like(action.scale)
        actions[name] = GroupAction(action.perm, one, one, torch.zeros_like(action.half_turns))
    return GroupElement(element.spec, actions)


def _is_identity(element: GroupElement) -> Tensor:
    """Per network, whether its row moves nothing."""
    parts = []
    for a in element.actions.values():
        straight = a.perm == torch.arange(a.perm.shape[-1])
        parts.append((straight & (a.scale == 1) & (a.sign == 1) & (a.half_turns == 0)).all(-1))
    return torch.stack(parts).all(0)


def _replace_rows(element: GroupElement, other: GroupElement, rows: Tensor) -> GroupElement:
    actions = {}
    for name, action in element.actions.items():
        new = other.actions[name]
        columns = [f.name for f in fields(GroupAction)]
        merged = {c: torch.where(rows[:, None], getattr(new, c), getattr(action, c)) for c in columns}
        actions[name] = GroupAction(**merged)
    return GroupElement(element.spec, actions)


def act_each(elements: Sequence[GroupElement | LawElement], graph: NeuralGraph) -> NeuralGraph:
    """Act on a batch with one element per architecture.

    Args:
        elements: one per stack of the batch, see :func:`random_elements`.
        graph: the batch, mixed architectures included.

    Raises:
        SymmetryError: an architecture of the batch has no element here.
    """
    found = {e.law if isinstance(e, LawElement) else e.spec: e for e in elements}
    stacks = []
    for stack in graph.stacks():
        element = found.get(stack.spec.law if isinstance(stack, TracedStack) else stack.spec)
        if element is None:
            raise SymmetryError("a network of this batch has no group element: draw them with random_elements(graph)")
        stacks.append(act(element, NeuralGraph.from_stacks([stack])).stacks()[0])
    return NeuralGraph.from_stacks(stacks, graph.members())


def random_transform(
    graph: NeuralGraph,
    *,
    decades: float = 6.0,
    half_turns: int = 0,
    seed: int | torch.Generator = 0,
    symmetry: Symmetry = "spec",
) -> NeuralGraph:
    """The same functions with other weights: an own random group element acts on every network.

    Arguments and errors are those of :func:`random_elements`.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.functional import run
        >>> graph = random_graph(mlp_spec([2, 8, 1], "relu"))
        >>> moved, inputs = random_transform(graph), torch.ones(1, 2, dtype=torch.float64)
        >>> bool(torch.allclose(run(moved, inputs), run(graph, inputs))), torch.equal(moved.x, graph.x)
        (True, False)
    """
    elements = random_elements(graph, decades=decades, half_turns=half_turns, seed=seed, symmetry=symmetry)
    return act_each(elements, graph)
