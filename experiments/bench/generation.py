"""Networks per minute of the zoo builders, against a plain loop of PyTorch over single networks that does the same.

The builders train on two threads. The plain loop runs one module and one ``torch.optim.Adam`` in the setting that
is fastest on this machine: defaults or ``fused=True``, one thread or all. Beside the ratio stands what arithmetic
allows: the time that products and sines of a training step take at the rates that PyTorch reaches on this core, on
large matrices and on an array in the cache.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench.timing import Spread, Step, interleaved, one_thread
from experiments.zoos import DIGITS_CNN, FMNIST_CNN
from experiments.zoos.cnn import CNNZoo
from experiments.zoos.engines import Chunk, ThreadEngine
from experiments.zoos.fleet import flatten
from experiments.zoos.images import Images
from experiments.zoos.members import prepare
from experiments.zoos.plain_classifiers import train_plain
from experiments.zoos.plans import draw_plan
from experiments.zoos.siren import SirenFit, SirenZoo, fit_squares, initial_siren, pixel_grid, siren_spec

TARGET = 15.0
THREADS = 2
_IMAGES, _BATCH, _DROPOUT, _RATE = 1000, 32, 0.2, 1e-3
_SETTINGS = {"defaults": {}, "fused": {"fused": True}}


@dataclass(frozen=True)
class Job:
    """A small training task, done in both ways.

    Args:
        title: in words.
        step: makes a fresh module and gives what computes its loss in a step.
        train: the builders' way, for networks by their numbers.
        sines: sines and cosines of a step and network.
    """

    title: str
    step: Callable[[], tuple[nn.Module, Callable[[], Tensor]]]
    train: Callable[[range], Tensor]
    sines: int = 0


class _Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30.0 * x)


def siren_job(steps: int, side: int) -> Job:
    """A SIREN 2-32-32-1 on an image of ``side x side`` pixels, all of them in every step."""
    grid, image = pixel_grid(side), torch.rand(1, side * side) * 2 - 1
    spec = siren_spec()

    def step() -> tuple[nn.Module, Callable[[], Tensor]]:
        module = nn.Sequential(nn.Linear(2, 32), _Sine(), nn.Linear(32, 32), _Sine(), nn.Linear(32, 1))
        return module, lambda: F.mse_loss(module(grid)[:, 0], image[0])

    def train(numbers: range) -> Tensor:
        initial = flatten([initial_siren(spec, 0, i) for i in numbers])
        fit = SirenFit(steps=steps, learning_rate=_RATE)
        return fit_squares(spec, initial, grid, image.expand(len(numbers), -1), fit)[0]

    return Job(f"SIREN 2-32-32-1, {side}x{side} pixels", step, train, sines=side * side * 64 * 2)


def cnn_job(steps: int, side: int, zoo: CNNZoo) -> Job:
    """A CNN 1-16-16-16 with ReLU and dropout of channels on batches of 32 images."""
    data = Images("noise", torch.rand(_IMAGES, side, side), torch.randint(10, (_IMAGES,)), *_halves())
    ranges = replace(
        zoo.ranges,
        activation=("relu",),
        optimiser=("adam",),
        learning_rate=(_RATE, _RATE),
        dropout=(_DROPOUT, _DROPOUT),
        steps=(steps, steps),
    )
    spec = zoo.spec("relu", side)

    def step() -> tuple[nn.Module, Callable[[], Tensor]]:
        layers = [m for c in (1, 16, 16) for m in (nn.Conv2d(c, 16, 3, zoo.stride), nn.ReLU(), nn.Dropout2d(_DROPOUT))]
        module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

        def loss() -> Tensor:
            rows = torch.randint(len(data.train), (_BATCH,))
            return F.cross_entropy(module(data.inputs(rows)), data.labels[rows])

        return module, loss

    def train(numbers: range) -> Tensor:
        plans = [draw_plan(i, 0, ranges) for i in numbers]
        return train_plain(spec, [prepare(plan, spec, data, 0, _BATCH) for plan in plans], data)

    return Job(f"CNN 1-16-16-16, {side}x{side} images, stride {zoo.stride}", step, train)


def _halves() -> tuple[Tensor, Tensor]:
    rows = torch.arange(_IMAGES)
    return rows[: _IMAGES // 2], rows[_IMAGES // 2 :]


def jobs(steps: int = 60) -> dict[str, tuple[Job, int]]:
    """Every job with the number of networks of a thread, which is the builders' own."""
    return {
        "siren-8x8": (siren_job(steps, 8), SirenZoo.chunk),
        "siren-28x28": (siren_job(steps, 28), SirenZoo.chunk),
        "cnn-8x8": (cnn_job(steps, 8, DIGITS_CNN), CNNZoo.chunk),
        "cnn-28x28": (cnn_job(steps, 28, FMNIST_CNN), CNNZoo.chunk),
    }


def train_alone(job: Job, steps: int, adam: Mapping[str, Any]) -> float:
    """The plain loop over the steps of one network; the loss of the last one."""
    module, loss = job.step()
    optimiser, value = torch.optim.Adam(module.parameters(), lr=_RATE, **adam), torch.zeros(())
    for _ in range(steps):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
    return value.item()


def generation(
    *, steps: int = 60, alone: int = 2, rounds: int = 5, scale: float = 1.0, setting: tuple[str, int] | None = None
) -> list[dict[str, Any]]:
    """A row per job.

    Args:
        steps: of Adam per network.
        alone: networks of the plain loop per round.
        rounds: how often all are measured, in turns.
        scale: factor on the numbers of networks of the builders.
        setting: of the plain loop, defaults or fused, and its threads; None tries all.
    """
    return [
        _row(job, steps, alone, max(2, round(scale * each)), rounds, setting or _best_setting(job))
        for job, each in jobs(steps).values()
    ]


def _row(job: Job, steps: int, alone: int, each: int, rounds: int, setting: tuple[str, int]) -> dict[str, Any]:
    engine, ranges = ThreadEngine(THREADS), [range(i * each, (i + 1) * each) for i in range(THREADS)]

    def plain(name: str, threads: int) -> None:
        torch.set_num_threads(threads)
        for _ in range(alone):
            train_alone(job, steps, _SETTINGS[name])
        one_thread()

    ways: dict[str, Step] = {
        "best": partial(plain, *setting),
        "defaults": partial(plain, "defaults", 1),
        "together": lambda: list(engine.each(_Make(job), ranges)),
    }
    times = interleaved(ways, rounds=rounds, seconds=45.0)
    counts = {"best": alone, "defaults": alone, "together": each * THREADS}
    minute = {k: Spread.of([60e3 * counts[k] / wall for wall in times[k].wall]) for k in ways}
    ratios = {k: times[k].ratio(times["together"]) for k in ("best", "defaults")}
    share = counts["together"] / alone
    cpu_us = Spread.of([1e3 * t / counts["together"] / steps for t in times["together"].cpu])
    flops, floor = _flops(job), _floor(job)
    plain_us = 1e3 * Spread.of(times["best"].cpu).middle / alone / steps
    return {
        "title": job.title, "steps": steps, "threads": THREADS, "networks": counts,
        "setting": "{}, threads: {}".format(*setting),
        "per_minute": {k: vars(v) for k, v in minute.items()},
        "speedup": {k: _scaled(wall, share) for k, (_, wall) in ratios.items()},
        "cpu_speedup": {k: _scaled(cpu, share) for k, (cpu, _) in ratios.items()},
        "mflop": flops / 1e6, "gflops": flops / cpu_us.middle / 1e3, "cpu_us": vars(cpu_us),
        "floor_us": floor, "bound": plain_us / (floor / THREADS),
    }  # fmt: skip


def _scaled(ratio: Spread, factor: float) -> dict[str, float]:
    return {name: value * factor for name, value in vars(ratio).items()}


def _best_setting(job: Job, steps: int = 3) -> tuple[str, int]:
    """The fastest setting of the plain loop by trial."""
    found = {}
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        for name, adam in _SETTINGS.items():
            train_alone(job, 1, adam)
            tries = [_seconds(partial(train_alone, job, steps, adam)) for _ in range(2)]
            found[min(tries)] = name, threads
    one_thread()
    return found[min(found)]


def _flops(job: Job) -> int:
    """Of the products of one training step, counted on the plain module: forward and backward."""
    module, loss = job.step()
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    return counter.get_total_flops()


def _floor(job: Job) -> float:
    """Microseconds of CPU time for the arithmetic of a step of one network at this core's best."""
    a, b, c = (torch.randn(512, 512) for _ in range(3))
    angles, sines = torch.randn(16384), torch.empty(16384)
    rate = 2 * 512**3 / min(_seconds(lambda: torch.mm(a, b, out=c), time.thread_time) for _ in range(30))
    sine = min(_seconds(lambda: torch.sin(angles, out=sines), time.thread_time) for _ in range(50)) / len(angles)
    return 1e6 * (_flops(job) / rate + job.sines * sine)


def _seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


@dataclass(frozen=True)
class _Make:
    job: Job

    def __call__(self, numbers: range) -> Chunk:
        self.job.train(numbers)
        return Chunk([], pd.DataFrame({"network": list(numbers)}))
