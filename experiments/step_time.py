"""CPU time of a training step on networks of one shape, next to the figures of published codes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import nn

from baselines.errors import BaselineError
from experiments.subjects import Subject
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.testing import random_graph

PUBLISHED = Path(__file__).with_name("published_costs.yaml")
NETWORKS, MOST_REPEATS, SECONDS = 64, 9, 4.0


@dataclass(frozen=True)
class Shape:
    """Networks to time on, and the numbers to predict for each."""

    name: str
    title: str
    spec: NetSpec
    out: int


SHAPES = (
    Shape("small_cnn", "small CNN 1-16-16-16-10", small_cnn_spec([1, 16, 16, 16], 10, "relu", stride=2), 1),
    Shape("siren", "SIREN 2-32-32-1", mlp_spec([2, 32, 32, 1], "sin", omega=30.0), 10),
)


@dataclass(frozen=True)
class Figure:
    """A published code's cost on one shape, see ``published_costs.yaml``."""

    shape: str
    baseline: str
    preset: str
    model: str
    parameters: int
    step_ms: float


@dataclass(frozen=True)
class StepTime:
    """CPU time of forward, backward and AdamW on 64 networks, one thread.

    Args:
        shape: title of the networks.
        preset: published settings, empty for the defaults.
        parameters: of the model.
        ms: median, with the quartiles in ``low`` and ``high``; all three are equal where one step was timed.
        repeats: steps timed.
        published: the published code with these settings, None where there is no figure.
    """

    shape: str
    preset: str
    parameters: int
    ms: float
    low: float
    high: float
    repeats: int
    published: Figure | None


def published_figures() -> list[Figure]:
    """The figures of published codes that have a counterpart here."""
    fields = Figure.__dataclass_fields__
    rows = OmegaConf.to_container(OmegaConf.load(PUBLISHED))["figures"]  # type: ignore[index,call-overload]
    return [Figure(**{k: v for k, v in row.items() if k in fields}) for row in rows]  # type: ignore[union-attr]


def step_times(subject: Subject, *, networks: int = NETWORKS, seconds: float = SECONDS) -> list[StepTime]:
    """The cost of a model on every shape that it reads, with the settings of the published figure or the defaults.

    Args:
        subject: the model.
        networks: per step.
        seconds: after a first step, steps are repeated up to nine times within so many.
    """
    figures = {(f.baseline, f.shape): f for f in published_figures()}
    rows = []
    for shape in SHAPES:
        figure = figures.get((subject.name, shape.name))
        settings = subject.presets[figure.preset] if figure else {}
        try:
            model = subject.make(specs=[shape.spec], out=shape.out, **settings)
            times = _times(_step(model, random_graph(shape.spec, dtype=torch.float32, networks=networks)), seconds)
        except BaselineError:
            continue
        low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        count = sum(p.numel() for p in model.parameters())
        preset = figure.preset if figure else ""
        rows.append(StepTime(shape.title, preset, count, middle, low, high, len(times), figure))
    return rows


def _step(model: nn.Module, graph: NeuralGraph) -> Callable[[], None]:
    """A training step on a batch that is put together anew each time; the first step is done here."""
    stacks = graph.stacks()

    with torch.no_grad():
        model(graph)  # a model may make parameters in its first pass
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        loss = model(NeuralGraph.from_stacks(stacks)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    return step


def _times(step: Callable[[], None], seconds: float) -> list[float]:
    times: list[float] = []
    while len(times) < MOST_REPEATS and (not times or sum(times) < 1e3 * seconds):
        start = time.process_time()
        step()
        times.append(1e3 * (time.process_time() - start))
    return times
