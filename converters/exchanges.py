"""Exchanges of equal parts: proposed by how a network looks, accepted where random weights do not refute them."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace

import torch
from torch import Tensor

from converters.gauge.candidates import candidates, entries
from converters.moved import Moved
from converters.verify import TOLERANCE, program_runner, relative_error, with_law
from graphnfn.errors import ConversionError
from graphnfn.graph import NeuralGraph
from graphnfn.law import Exchange, SymmetryLaw
from graphnfn.symmetry.law_element import LawElement
from graphnfn.traced_stack import TracedStack

SEEN = 1e3 * TOLERANCE
"""Outputs that change less when the tensors in question become larger say nothing."""
LARGE = 1 << 16
"""Entries of a tensor that is taken to be generic."""
TESTS, ENTRIES = 500, 4_000_000_000
"""At most so many tests, and so many entries of weights read for them (but 30 tests): no clock, so that a network has
the same symmetry on every machine. What was not tested by then is not claimed."""


def with_exchanges(graph: NeuralGraph, tests: int = TESTS) -> NeuralGraph:
    """The graph with the exchanges of parts that its law lacks.

    ``f(exchange w) = f(w)`` is tested for the transposition of the first two parts and the cycle of all, which
    generate all permutations, at random weights and two random inputs in float64. Both sides are piecewise analytic,
    so where the identity does not hold around the weights and inputs drawn, it fails there with probability 1.

    Args:
        graph: one traced network.
        tests: at most so many, fewer for large networks.
    """
    stack = graph.stacks()[0]
    assert isinstance(stack, TracedStack)
    law, spec = stack.spec.law, stack.spec
    left = min(tests, max(30, ENTRIES // max(1, spec.num_params)))
    test: _Test | None = None
    found: list[Exchange] = []
    failed: set[str] = set()  # one layer of many alike, one head of many: what fails there fails everywhere
    for proposed in candidates(law, dict(spec.shapes), spec.program):
        kind = re.sub(r"\d+", "", proposed[0].id) + f" in {len(proposed[0].parts[0])} of {len(proposed)}"
        if kind in failed:
            continue
        for exchange in proposed:
            if any(_conflict(exchange, other) for other in found):
                continue
            if left == 0:
                break
            left -= 1
            try:
                test = test or _Test(stack)
            except ConversionError:  # it does not run on random weights: nothing can be shown
                return graph
            if test.holds(exchange):
                found.append(exchange)
                break
        else:
            failed.add(kind)
    if not found:
        return graph
    named = [replace(e, id=f"{e.id}#{k}") for k, e in enumerate(found)]
    return with_law(graph, replace(law, exchanges=tuple(named)))


class _Test:
    """The network on random weights and inputs, before and after exchanges."""

    def __init__(self, stack: TracedStack) -> None:
        self.stack = stack
        self.runs = [program_runner(stack, self._weights(), seed) for seed in (0, 1)]
        self.bases = [run(self._weights()) for run in self.runs]

    def _weights(self, element: LawElement | None = None, louder: frozenset[str] = frozenset()) -> Moved:
        def read(name: str) -> Tensor:
            value = _generic(name, self.stack.tensors[name][0])
            return value * 1.5 if name in louder else value

        return Moved(tuple(self.stack.tensors), read, element)

    def holds(self, exchange: Exchange) -> bool:
        """Whether outputs stay, although they do depend on the tensors that move."""
        m = len(exchange.parts)
        law = SymmetryLaw((), (), (), exchanges=(exchange,))
        swap, cycle = [1, 0, *range(2, m)], [*range(1, m), 0]
        for order in [swap] if m == 2 else [swap, cycle]:
            moved = self._weights(LawElement(law, order={exchange.id: torch.tensor(order)}))
            runs = zip(self.runs, self.bases, strict=True)
            if not all(relative_error(base, run(moved)) <= TOLERANCE for run, base in runs):
                return False
        louder = self._weights(louder=frozenset(piece.param for piece in exchange.parts[0]))
        return relative_error(self.bases[0], self.runs[0](louder)) > SEEN


def _conflict(a: Exchange, b: Exchange) -> bool:
    """Whether they share entries without one lying within a part of the other."""
    mine, theirs = ([entries(part) for part in e.parts] for e in (a, b))
    one, two = frozenset().union(*mine), frozenset().union(*theirs)
    return bool(one & two) and not any(one <= part for part in theirs) and not any(two <= part for part in mine)


def _generic(name: str, tensor: Tensor) -> Tensor:
    """Weights near the network's own, without accidental equalities; what is nowhere negative stays so.

    Large tensors are left as they are, unless all of their entries are equal.
    """
    if tensor.numel() > LARGE and bool(tensor.min() < tensor.max()):
        return tensor.double()
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    value = tensor.double()
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)
    noise *= 0.3 * value.abs().mean().clamp(min=0.1)
    return (value + noise).abs() if bool((value >= 0).all()) else value + noise
