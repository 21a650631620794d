"""Does a metanetwork respect the symmetries of the networks it reads?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphnfn.graph import NeuralGraph
from graphnfn.testing.compare import Finding, MetaModule, evaluate, tolerance, worst
from graphnfn.testing.draws import Symmetry, act_each, random_elements


@dataclass(frozen=True)
class _Check:
    decades: float
    half_turns: int
    seed: int
    draws: int
    symmetry: Symmetry

    def worst(self, module: MetaModule, graph: NeuralGraph) -> Finding:
        still = evaluate(module, graph)
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for _ in range(self.draws):
            elements = random_elements(
                graph, decades=self.decades, half_turns=self.half_turns, seed=generator, symmetry=self.symmetry
            )
            moved = evaluate(module, act_each(elements, graph))
            if isinstance(moved, NeuralGraph):
                # undone rather than applied: the errors are then measured in the scale of the given weights
                moved = act_each([e.inverse() for e in elements], moved)
            found.append(worst(moved, still))
        return max(found, key=lambda f: f.error)


def equivariance_error(
    module: MetaModule,
    graph: NeuralGraph,
    *,
    decades: float = 6.0,
    half_turns: int = 0,
    seed: int = 0,
    draws: int = 3,
    symmetry: Symmetry = "spec",
) -> float:
    """The largest relative error of a module under random group elements, one per network.

    An invariant module f returns a tensor with one row per network and should obey ``f(g G) = f(G)``; an
    equivariant one returns a graph and should obey ``g^-1 f(g G) = f(G)``, compared tensor by tensor, each
    relative to its own norm.

    Args:
        module: maps a NeuralGraph to a tensor ``[networks, ...]`` or to a NeuralGraph.
        graph: one network or a batch, mixed architectures included.
        decades: scales are log-uniform over so many decades.
        half_turns: largest phase shift of sin and cos neurons, in half periods.
        seed: of the group elements.
        draws: how many elements per network.
        symmetry: ``"spec"`` for the whole group, ``"permutation"`` for modules that promise no more.

    Raises:
        SymmetryError: a network has no symmetry to test.
        GraphNFNError: the output is of neither kind.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 8, 1], "tanh"), networks=2)
        >>> equivariance_error(lambda g: g.stacks()[0].blocks[1].abs().sum((1, 2, 3)), graph) < 1e-12
        True
        >>> equivariance_error(lambda g: g.stacks()[0].blocks[1].sum((1, 2, 3)), graph) > 1e-3
        True
    """
    return _Check(decades, half_turns, seed, draws, symmetry).worst(module, graph).error


def assert_equivariant(
    module: MetaModule,
    graph: NeuralGraph,
    *,
    decades: float = 6.0,
    half_turns: int = 0,
    seed: int = 0,
    draws: int = 3,
    symmetry: Symmetry = "spec",
    tol: float | None = None,
) -> float:
    """Check that :func:`equivariance_error` is at rounding level, and return it.

    Args:
        module: see :func:`equivariance_error`, as all arguments but the last.
        graph: one network or a batch.
        decades: range of the scales.
        half_turns: largest phase shift.
        seed: of the group elements.
        draws: how many elements per network.
        symmetry: the group to test.
        tol: largest error allowed; by default 1e-10 for float64 and 1e-4 for float32 weights.

    Raises:
        AssertionError: the error is larger; the message names the worst network and tensor.
    """
    limit = tolerance(graph) if tol is None else tol
    finding = _Check(decades, half_turns, seed, draws, symmetry).worst(module, graph)
    if not finding.error <= limit:
        raise AssertionError(
            f"not exact under the {symmetry} symmetry (scales over {decades:g} decades, {draws} draws, seed {seed}): "
            f"{finding} > {limit:.0e}"
        )
    return finding.error
