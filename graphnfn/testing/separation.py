"""Does a metanetwork notice transformations that change the function?

Exactness alone is cheap: a constant has it.  A model may be invariant to the symmetries, and to nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graphnfn.errors import GraphNFNError, SpecError
from graphnfn.functional import input_shape, run
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.testing.compare import MetaModule, evaluate, findings
from graphnfn.testing.traced_separation import (
    traced_changes,
    traced_columns,
    traced_factors,
    traced_rows,
    traced_signs,
)
from graphnfn.traced_stack import TracedStack

GraphMap = Callable[[NeuralGraph], NeuralGraph]

_THRESHOLD = {torch.float64: 1e-7, torch.float32: 1e-4}
"""Relative changes that rounding cannot explain."""
_SAMPLES = 64


def separating_transforms(graph: NeuralGraph, seed: int = 0) -> dict[str, GraphMap]:
    """Linear maps of the weights that look like symmetries but change what the networks compute.

    Rows (or columns) of one hidden matrix change places while the biases and the neighbouring matrices stay;
    every kernel gets its own positive factor, not one that splits into neuron factors; the signs of a hidden
    matrix's entries are shuffled.

    Args:
        graph: the networks; every map is drawn for exactly these.
        seed: of the draw.

    Returns:
        Name -> map of graphs; only maps that apply to every architecture of the batch.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> list(separating_transforms(random_graph(mlp_spec([2, 8, 8, 1], "relu"))))
        ['uncoupled rows', 'uncoupled columns', 'kernel factors', 'shuffled signs']
    """
    makers = {
        "uncoupled rows": (_rows, traced_rows),
        "uncoupled columns": (_columns, traced_columns),
        "kernel factors": (_factors, traced_factors),
        "shuffled signs": (_signs, traced_signs),
    }
    maps = {}
    for number, (name, (of_chain, of_traced)) in enumerate(makers.items()):
        generator = torch.Generator().manual_seed(seed * len(makers) + number)
        tables = {
            s.spec: of_traced(s, generator) if isinstance(s, TracedStack) else of_chain(s, generator)
            for s in graph.stacks()
        }
        if all(table is not None for table in tables.values()):
            maps[name] = _Tables(tables)
    return maps


class _Tables:
    """Per architecture, a map of the blocks of a stack, or of the tensors of a traced one."""

    def __init__(self, tables: Mapping[NetSpec, Callable[[Any, Tensor], Tensor] | None]) -> None:
        self._tables = tables

    def __call__(self, graph: NeuralGraph) -> NeuralGraph:
        return graph.map_stacks(self._move)

    def _move(self, stack: Any) -> Any:
        table = self._tables[stack.spec]
        assert table is not None
        if isinstance(stack, TracedStack):
            return replace(stack, tensors={name: table(name, t) for name, t in stack.tensors.items()})
        return replace(stack, blocks=tuple(table(b, weight) for b, weight in enumerate(stack.blocks)))


def _hidden_block(spec: NetSpec, axis: int) -> int | None:
    """The block to disturb along an axis (0 targets, 1 sources): hidden on both sides if there is one."""

    def rank(b: int) -> tuple[bool, bool, int]:
        block = spec.blocks[b]
        sides = [spec.groups[spec.position[g]] for g in (block.dst, block.src)]
        return sides[axis].role == "hidden" and sides[axis].size > 1, sides[1 - axis].role == "hidden", -b

    best = max(range(len(spec.blocks)), key=rank)
    return best if rank(best)[0] else None


def _cycle(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Permutations ``[batch, size]`` that leave no place alone."""
    order = torch.rand(batch, size, generator=generator).argsort(-1)
    return torch.empty_like(order).scatter_(1, order, order.roll(1, -1))


def _shuffle_axis(stack: Stack, axis: int, generator: torch.Generator) -> Callable[[int, Tensor], Tensor] | None:
    chosen = _hidden_block(stack.spec, axis)
    if chosen is None:
        return None
    perm = _cycle(stack.size, stack.spec.blocks[chosen].sizes[axis], generator)

    def move(b: int, weight: Tensor) -> Tensor:
        if b != chosen:
            return weight
        index = perm[:, :, None, None] if axis == 0 else perm[:, None, :, None]
        return weight.gather(axis + 1, index.to(weight.device).expand_as(weight))

    return move


def _rows(stack: Stack, generator: torch.Generator) -> Callable[[int, Tensor], Tensor] | None:
    return _shuffle_axis(stack, 0, generator)


def _columns(stack: Stack, generator: torch.Generator) -> Callable[[int, Tensor], Tensor] | None:
    return _shuffle_axis(stack, 1, generator)


def _factors(stack: Stack, generator: torch.Generator) -> Callable[[int, Tensor], Tensor]:
    draws = [torch.rand(*w.shape[:3], 1, generator=generator) * 2 - 1 for w in stack.blocks]
    return lambda b, weight: weight * torch.exp(draws[b] * math.log(4.0)).to(weight)


def _signs(stack: Stack, generator: torch.Generator) -> Callable[[int, Tensor], Tensor] | None:
    chosen = _hidden_block(stack.spec, 0)
    if chosen is None or min(stack.spec.blocks[chosen].sizes) < 2:
        return None
    weight = stack.blocks[chosen]
    sign = torch.where(weight.detach() < 0, -1.0, 1.0).flatten(1).cpu()
    order = torch.rand(sign.shape, generator=generator).argsort(-1)
    flips = (sign * sign.gather(1, order)).view(weight.shape)
    return lambda b, weight: weight * flips.to(weight) if b == chosen else weight


def function_changes(graph: NeuralGraph, moved: NeuralGraph, seed: int = 0) -> Tensor:
    """Per network, the relative change of its outputs on random inputs; 1 where the spec cannot be run.

    Args:
        graph: networks.
        moved: the same architectures in the same places.
        seed: of the inputs.
    """
    changes = torch.ones(graph.num_graphs, dtype=torch.float64)
    for old, new, places in zip(graph.stacks(), moved.stacks(), graph.members(), strict=True):
        if isinstance(old, TracedStack):
            changes[places] = torch.tensor(traced_changes(old, new, seed), dtype=torch.float64)
            continue
        generator = torch.Generator().manual_seed(seed)
        try:
            inputs = torch.randn(_SAMPLES, *input_shape(old.spec), generator=generator, dtype=torch.float64)
            before, after = (run(s, inputs.to(s.nodes)).detach().double().flatten(1) for s in (old, new))
        except SpecError:
            continue
        scale = before.norm(dim=1).clamp_min(torch.finfo(before.dtype).tiny)
        changes[places] = ((after - before).norm(dim=1) / scale).cpu()
    return changes


def assert_separates(
    module: MetaModule, graph: NeuralGraph, *, seed: int = 0, threshold: float | None = None
) -> dict[str, float]:
    """Check that a module reacts to every transformation of :func:`separating_transforms`.

    For an invariant module f and a transformation t, ``f(t G)`` must differ from ``f(G)``; for an equivariant one
    ``f(t G)`` must differ from ``t f(G)``.  Networks whose function a transformation happens to leave alone (run
    on random inputs, where the spec can be run) are not counted.

    Args:
        module: maps a NeuralGraph to a tensor ``[networks, ...]`` or to a NeuralGraph.
        graph: one network or a batch.
        seed: of the transformations.
        threshold: smallest relative change that counts; by default 1e-7 for float64 and 1e-4 for float32 weights.

    Returns:
        Per transformation, the smallest relative change over the networks.

    Raises:
        AssertionError: the module is blind to a transformation.
        GraphNFNError: no transformation changes these networks, so there is nothing to test.
    """
    dtype = graph.stacks()[0].nodes.dtype
    limit = _THRESHOLD.get(dtype, 1e-2) if threshold is None else threshold
    still = evaluate(module, graph)
    changes: dict[str, float] = {}
    for name, transform in separating_transforms(graph, seed).items():
        moved = transform(graph)
        counted = function_changes(graph, moved, seed) > limit
        if not counted.any():
            continue
        want = transform(still) if isinstance(still, NeuralGraph) else still
        largest = [0.0] * graph.num_graphs
        for finding in findings(evaluate(module, moved), want):
            largest[finding.network] = max(largest[finding.network], finding.error)
        changes[name] = min(c for c, real in zip(largest, counted.tolist(), strict=True) if real)
    if not changes:
        raise GraphNFNError("no separating transformation changes these networks: use wider hidden groups")
    blind = [f"{name!r} (relative change {change:.1e})" for name, change in changes.items() if not change > limit]
    if blind:
        raise AssertionError(
            f"the module is blind to transformations that change the function: {', '.join(blind)}; "
            f"expected changes above {limit:.0e}"
        )
    return changes
