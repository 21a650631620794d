"""CPU time of a training step on networks of one shape, next to the figures of published codes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from baselines.errors import BaselineError
from experiments.bench.subjects import SHAPES, training_step
from experiments.published import Figure, published_figures
from experiments.subjects import Subject
from graphnfn.traced_stack import AnyStack

UNTIMED = frozenset(
    {("monomial_siren", "small_cnn"), ("monomial_siren_np", "small_cnn"), ("monomial_siren_unit", "small_cnn")}
)
"""Models on shapes that they were not made for: hundreds of millions of parameters, more than a minute for a step."""
NETWORKS, MOST_REPEATS, SECONDS = 64, 9, 4.0


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


def step_times(subject: Subject, *, networks: int = NETWORKS, seconds: float = SECONDS) -> list[StepTime]:
    """The cost of a model on every shape that it reads, with the settings of the published figure or the defaults.

    Args:
        subject: the model.
        networks: per step.
        seconds: after a first step, steps are repeated up to nine times within so many.
    """
    figures = {(f.baseline, f.shape): f for f in published_figures()}
    rows = []
    for key, shape in SHAPES.items():
        if (subject.name, key) in UNTIMED:
            continue
        figure = figures.get((subject.name, key))
        settings = subject.presets[figure.preset] if figure else {}
        try:
            model = subject.make(specs=[shape.spec], out=shape.out, **settings)
            row = time_step(model, shape.stack(networks), seconds, title=shape.title)
        except BaselineError:
            continue
        rows.append(replace(row, preset=figure.preset if figure else "", published=figure))
    return rows


def time_step(model: nn.Module, stack: AnyStack, seconds: float, *, title: str) -> StepTime:
    """The cost of one model on one stack of networks, which ``title`` names."""
    step = training_step(model, stack)
    step()
    times = _times(step, seconds)
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    count = sum(p.numel() for p in model.parameters())
    return StepTime(title, "", count, middle, low, high, len(times), None)


def _times(step: Callable[[], None], seconds: float) -> list[float]:
    times: list[float] = []
    while len(times) < MOST_REPEATS and (not times or sum(times) < 1e3 * seconds):
        start = time.process_time()
        step()
        times.append(1e3 * (time.process_time() - start))
    return times
