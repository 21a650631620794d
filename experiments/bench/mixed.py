"""Training steps on batches of several architectures: one by one, all at once, and as the model chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from experiments.bench.timing import Spread, Step, interleaved
from experiments.zoos import DIGITS_WILD
from graphnfn.graph import NeuralGraph
from graphnfn.models import GraphMetaNet, MetaNetConfig
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.testing import random_graph

IMAGE = (1, 8, 8)
"""What the networks read: the digits of scikit-learn."""


class OneByOne(GraphMetaNet):
    """Reads architecture by architecture, however many there are."""

    def _routes(self, stacks: Sequence[Stack]) -> list[list[int]]:
        return [[i] for i in range(len(stacks))]


def mixed(
    counts: Sequence[int] = (1, 4, 8, 16, 32),
    layers: Sequence[str] = ("native", "gated", "paths", "probes"),
    *,
    networks: int = 32,
    rounds: int = 7,
) -> list[dict[str, Any]]:
    """A row per layer and number of architectures; all have as many networks, which were prepared.

    Args:
        counts: of architectures, divisors of ``networks``.
        layers: of the models.
        networks: per step.
        rounds: interleaved, at most.
    """
    rows = []
    for layer in layers:
        for count in counts:
            specs = [spec for spec, _ in zip(architectures(), range(count), strict=False)]
            parts = [random_graph(s, i, torch.float32, networks=networks // count) for i, s in enumerate(specs)]
            times = interleaved(_steps(layer, NeuralGraph.batch(parts)), rounds=rounds)
            chosen = times.pop("as chosen")
            row = {"name": layer, "networks": networks, "architectures": count, "cpu_ms": vars(Spread.of(chosen.cpu))}
            rows.append(row | {name: vars(other.ratio(chosen)[0]) for name, other in times.items()})
    return rows


def architectures() -> Iterator[NetSpec]:
    """Those of the zoo builder ``digits-wild`` with seed 0 in their order, each once."""
    seen: set[NetSpec] = set()
    number = 0
    while True:
        spec = DIGITS_WILD.architecture(number, 0).spec(IMAGE)
        if spec not in seen:
            yield spec
        seen.add(spec)
        number += 1


def _steps(layer: str, graph: NeuralGraph) -> dict[str, Step]:
    config: Any = {"layer": layer, "width": 32, "rounds": 1}
    models = {}
    for name, kind in (("as chosen", GraphMetaNet), ("one by one", OneByOne)):
        torch.manual_seed(0)
        models[name] = kind(MetaNetConfig(**config), specs=graph.specs)
    ready = models["as chosen"].prepare(graph)

    def step(run: Any) -> Step:
        return lambda: run(ready).square().mean().backward()

    steps = {name: step(model) for name, model in models.items()}
    return {**steps, "at once": step(models["as chosen"].forward_on_edges)}
