"""What a model cannot see: changes of the function under which its output stays the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.errors import BaselineError
from experiments.claims import settled
from experiments.disturbances import DISTURBANCES, Disturbance, with_other_activation
from experiments.errors import ExperimentError
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.testing import random_graph
from graphnfn.testing.compare import evaluate, findings
from graphnfn.testing.separation import function_changes

_IMAGE = (1, 20, 20)
SPECS: tuple[NetSpec, ...] = (
    mlp_spec([3, 6, 6, 6, 2], "relu"),
    mlp_spec([3, 6, 6, 6, 2], "tanh"),
    small_cnn_spec([1, 5, 5, 5], 2, "relu", stride=2, input_shape=_IMAGE),
    small_cnn_spec([1, 5, 5, 5], 2, "tanh", stride=2, input_shape=_IMAGE),
)
"""Small networks with inputs of known shape, so that a change of the function can be measured."""

CLEAR, ROUNDING = 1e-7, 1e-12
"""Relative changes: above the first a model sees, below the second it is blind, in between it sees faintly."""
NETWORKS, SEEDS = 3, 2


@dataclass(frozen=True)
class Sight:
    """How often a model noticed a disturbance.

    Args:
        seen: networks whose output changed clearly.
        faint: networks whose output changed by less than 1e-7, but more than by rounding.
        of: networks whose function changed.
    """

    seen: int = 0
    faint: int = 0
    of: int = 0

    def __add__(self, other: Sight) -> Sight:
        return Sight(self.seen + other.seen, self.faint + other.faint, self.of + other.of)

    @property
    def word(self) -> str:
        """sees, faintly, partly, blind, or nothing where no network that the model reads was changed."""
        noticed = self.seen + self.faint
        if not self.of:
            return ""
        if not noticed:
            return "blind"
        return "partly" if noticed < self.of else "faintly" if self.faint else "sees"


Makers = Callable[[Sequence[NetSpec]], nn.Module]
"""Makes a model that reads these architectures."""


def sights(
    make: Makers,
    *,
    specs: Sequence[NetSpec] = SPECS,
    disturbances: Sequence[Disturbance] = DISTURBANCES,
    seeds: int = SEEDS,
    networks: int = NETWORKS,
) -> dict[str, Sight]:
    """Which disturbances a model with random weights sees.

    A network counts where its function changes, ``|t(G)(x) - G(x)| > 1e-7 |G(x)|`` on random inputs x; it is seen
    where ``|f(t(G)) - f(G)| > 1e-7 |f(G)|``, faintly where it is more than 1e-12. Architectures that the model cannot
    read are left out.

    Args:
        make: makes the model; called with an architecture, and its twin with another activation where that works.
        specs: architectures to try.
        disturbances: the changes t.
        seeds: how many models with random weights per architecture.
        networks: random networks per model.

    Returns:
        Name of the disturbance -> sight, over all architectures, seeds and networks.

    Raises:
        ExperimentError: the model reads none of the architectures.
    """
    totals = {d.name: Sight() for d in disturbances}
    read = 0
    for number, spec in enumerate(specs):
        for seed in range(seeds):
            model = _reader(make, spec, seed)
            if model is None:
                break
            read += 1
            graph = random_graph(spec, seed=100 * number + seed, networks=networks)
            for place, disturbance in enumerate(disturbances):
                totals[disturbance.name] += _sight(model, graph, disturbance, 1000 * seed + place)
    if not read:
        raise ExperimentError("this model reads none of the architectures on which blind spots are looked for")
    return totals


def _reader(make: Makers, spec: NetSpec, seed: int) -> nn.Module | None:
    """A model for an architecture and its twin, else for itself alone, else None."""
    for specs in ([spec, with_other_activation(spec)], [spec]):
        try:
            return settled(lambda _, specs=specs: make(specs), spec, seed)
        except BaselineError:
            continue
    return None


def _sight(model: nn.Module, graph: NeuralGraph, disturbance: Disturbance, seed: int) -> Sight:
    moved = disturbance.change(graph.stacks()[0], torch.Generator().manual_seed(seed))
    if moved is None:
        return Sight()
    moved = NeuralGraph.from_stacks([moved])
    counted = function_changes(graph, moved, seed) > CLEAR
    try:
        after = evaluate(model, moved)
    except BaselineError:
        return Sight()  # the model refuses the other activation, so it cannot be fooled by it
    before = evaluate(model, graph)
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        raise ExperimentError("blind spots are those of predictions: give a model with one row of numbers per network")
    changes = torch.tensor([f.error for f in findings(after, before)])[counted]
    seen = int((changes > CLEAR).sum())
    return Sight(seen, int((changes > ROUNDING).sum()) - seen, len(changes))
