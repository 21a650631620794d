"""Models of low-rank adapters: which changes of basis leave them as they are, and which changes of the update they see.

Their networks are LoRA adapters, converted: pairs of factors with any invertible matrix between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from baselines.lol import FactorPair, factor_pairs
from converters import convert
from converters.lora import load_lora
from experiments.blindness import CLEAR, NETWORKS, ROUNDING, SEEDS, Sight
from experiments.step_time import StepTime, time_step
from experiments.subjects import Subject
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.symmetry import act
from graphnfn.symmetry.law_element import LawElement
from graphnfn.testing.compare import evaluate, findings, worst
from graphnfn.traced import TracedSpec

Kind = Literal["permutation", "scale", "sign", "O", "GL"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CONTAINED: Mapping[str, frozenset[str]] = {
    "GL": frozenset(KINDS), "O": frozenset({"permutation", "sign", "O"}), "permutation": frozenset({"permutation"}),
    "scale": frozenset({"scale"}), "sign": frozenset({"sign"}),
}  # fmt: skip
"""A claim -> the kinds of change that it covers."""
LAYERS = {"q": (12, 8), "up": (12, 8), "v": (7, 9)}
"""Adapted layers, ``(d_out, d_in)``; two are equal, so that they can be exchanged."""
RANK, DECADES = 3, 2.0

TIMED_TITLE, TIMED_LAYERS, TIMED_RANK = "LoRA of 4 layers 64 x 64, rank 8", dict.fromkeys("qkvo", (64, 64)), 8
"""Adapters of the attention of a small transformer."""

Tensors = Mapping[str, Tensor]
Change = Callable[[Tensors, tuple[FactorPair, ...], torch.Generator], dict[str, Tensor]]


def adapters(
    networks: int, seed: int = 0, *, layers: Mapping[str, tuple[int, int]] = LAYERS, rank: int = RANK,
    dtype: torch.dtype = torch.float64,
) -> NeuralGraph:  # fmt: skip
    """Random adapters of one architecture, with the spec that their conversion finds.

    Example:
        >>> graph = adapters(5)
        >>> graph.num_graphs, sorted({gauge.kind for gauge in graph.specs[0].law.gauges})
        (5, ['GL'])
    """
    (stack,) = _converted(tuple(layers.items()), rank).stacks()
    generator = torch.Generator().manual_seed(seed)
    shapes = stack.spec.params
    tensors = {
        name: torch.randn(networks, *shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in shapes.items()
    }
    return NeuralGraph.from_stacks([replace(stack, tensors=tensors)])


@lru_cache(maxsize=8)
def _converted(layers: tuple[tuple[str, tuple[int, int]], ...], rank: int) -> NeuralGraph:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (out, into) in layers:
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, into, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank, generator=generator)
    loaded = load_lora(tensors)
    return convert(loaded.module, example_input=loaded.inputs)


def covered(subject: Subject) -> list[Kind]:
    """The kinds of change under which a model claims to stay the same."""
    return [kind for kind in KINDS if any(kind in CONTAINED[claim] for claim in subject.claimed)]


def change_of_basis(spec: NetSpec, kind: Kind, seed: int) -> LawElement:
    """A random element of one kind only: permutations, scales over two decades, signs, rotations, or any matrices.

    Example:
        >>> element = change_of_basis(adapters(1).specs[0], "O", seed=0)
        >>> r = next(iter(element.matrix.values()))
        >>> bool(torch.allclose(r @ r.T, torch.eye(3, dtype=r.dtype)))
        True
    """
    assert isinstance(spec, TracedSpec)
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Tensor:
        def turn() -> Tensor:
            return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q

        scales = 10 ** (DECADES * (torch.rand(n, generator=generator, dtype=torch.float64) - 0.5))
        match kind:
            case "permutation":
                return torch.eye(n, dtype=torch.float64).roll(1 + seed % (n - 1), 0)
            case "scale":
                return scales.diag()
            case "sign":
                signs = torch.randint(2, (n,), generator=generator) * 2.0 - 1.0
                signs[seed % n] = -1.0
                return signs.double().diag()
            case "O":
                return turn()
        return turn() @ scales.diag() @ turn()

    linear = [v for v in spec.law.gauges if v.linear]
    return LawElement(spec.law, matrix={v.id: draw(spec.law.by_id[v.group].size) for v in linear})


def settled(subject: Subject, graph: NeuralGraph, seed: int = 0) -> nn.Module:
    """A model with random weights that has seen other adapters in training, in float64, evaluation mode."""
    torch.manual_seed(seed)
    model = subject.probe(list(dict.fromkeys(graph.specs))).double()
    with torch.no_grad():
        model.train()(adapters(4, seed + 1000))
    return model.eval()


def symmetry_error(subject: Subject, kind: Kind, *, networks: int = 3, draws: int = 2) -> float:
    """``|f(R A, B R^-1) - f(A, B)| / |f(A, B)|``, the largest over random adapters and changes of one kind; float64."""
    graph = adapters(networks)
    model = settled(subject, graph)
    still = evaluate(model, graph)
    moved = (act(change_of_basis(graph.specs[0], kind, seed), graph) for seed in range(draws))
    return max(worst(evaluate(model, m), still).error for m in moved)


def _updated(change: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]) -> Change:
    """A change of the first pair."""

    def apply(tensors: Tensors, pairs: tuple[FactorPair, ...], generator: torch.Generator) -> dict[str, Tensor]:
        pair = pairs[0]
        a, b = change(tensors[pair.first], tensors[pair.second], generator)
        return {**tensors, pair.first: a, pair.second: b}

    return apply


def _exchanged(tensors: Tensors, pairs: tuple[FactorPair, ...], generator: torch.Generator) -> dict[str, Tensor]:
    one, two = (p for p in pairs if p.sizes == pairs[0].sizes)
    swap = {one.first: two.first, two.first: one.first, one.second: two.second, two.second: one.second}
    return {name: tensors[swap.get(name, name)] for name in tensors}


def _turned(size: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def _alone(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return _turned(a.shape[1], generator) @ a, b


CHANGES: Mapping[str, Change] = {
    "the update doubled": _updated(lambda a, b, g: (a, 2 * b)),
    "the update negated": _updated(lambda a, b, g: (a, -b)),
    "outputs rotated": _updated(lambda a, b, g: (a, _turned(b.shape[1], g) @ b)),
    "inputs rotated": _updated(lambda a, b, g: (a @ _turned(a.shape[2], g), b)),
    "A rotated without B": _updated(_alone),
    "output neurons permuted": _updated(lambda a, b, g: (a, b.roll(1, 1))),
    "input neurons permuted": _updated(lambda a, b, g: (a.roll(1, 2), b)),
    "one rank dropped": _updated(lambda a, b, g: (torch.cat([torch.zeros_like(a[:, :1]), a[:, 1:]], 1), b)),
    "two layers of equal size exchanged": _exchanged,
}
"""Changes of the update B A of one layer, or two."""


def sights(subject: Subject, *, seeds: int = SEEDS, networks: int = NETWORKS) -> dict[str, Sight]:
    """Which changes of the update a model with random weights sees; see :func:`experiments.blindness.sights`."""
    totals = {name: Sight() for name in CHANGES}
    for seed in range(seeds):
        graph = adapters(networks, seed)
        model = settled(subject, graph, seed)
        before = evaluate(model, graph)
        (stack,) = graph.stacks()
        pairs = factor_pairs(stack.spec)
        for number, (name, change) in enumerate(CHANGES.items()):
            moved = change(stack.tensors, pairs, torch.Generator().manual_seed(1000 * seed + number))
            counted = sum(_gap(p, stack.tensors, moved) for p in pairs) > CLEAR
            after = evaluate(model, NeuralGraph.from_stacks([replace(stack, tensors=moved)]))
            errors = torch.tensor([f.error for f in findings(after, before)])[counted]
            seen = int((errors > CLEAR).sum())
            totals[name] += Sight(seen, int((errors > ROUNDING).sum()) - seen, len(errors))
    return totals


def _gap(pair: FactorPair, before: Tensors, after: Tensors) -> Tensor:
    """By how much the update of every adapter changed, relative to it, ``[B]``."""
    (a, b), (c, d) = pair.read(before), pair.read(after)
    old, new = b @ a, d @ c
    return (new - old).flatten(1).norm(dim=1) / old.flatten(1).norm(dim=1)


def step_time(subject: Subject, *, networks: int, seconds: float) -> StepTime:
    """The cost of a model with its defaults on adapters of a small transformer's attention."""
    graph = adapters(networks, layers=TIMED_LAYERS, rank=TIMED_RANK, dtype=torch.float32)
    model = subject.make(specs=graph.specs, out=1)
    return time_step(model, graph.stacks()[0], seconds, title=TIMED_TITLE)
