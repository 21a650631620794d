"""Networks per minute of the zoo builders' stacked training, against a plain loop of PyTorch over single networks."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.zoos.engines import Chunk, Engine, ThreadEngine
from experiments.zoos.fleet import flatten, train
from experiments.zoos.optimisers import StackedOptimiser
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.functional import run
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack

Objective = Callable[[Tensor, Tensor], Tensor]
"""``(outputs, targets)`` of many samples -> one value per sample."""


class _Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30.0 * x)


def _entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def _square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().flatten(1).mean(1)


def _siren() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 32), _Sine(), nn.Linear(32, 32), _Sine(), nn.Linear(32, 1))


def _cnn(stride: int) -> nn.Module:
    convolutions = [m for c in (1, 16, 16) for m in (nn.Conv2d(c, 16, 3, stride), nn.ReLU())]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


@dataclass(frozen=True)
class Job:
    """A small training task, the same for every network: Adam on random data.

    Args:
        spec: the architecture.
        module: makes the same architecture as a fresh module.
        inputs: ``[samples, *input_shape]``.
        targets: ``[samples, ...]``.
        objective: what is minimised.
        steps: of Adam with rate 1e-3.
    """

    spec: NetSpec
    module: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor
    objective: Objective
    steps: int


def siren_job(steps: int = 60, side: int = 8) -> Job:
    """A SIREN 2-32-32-1 on an image of ``side x side`` pixels."""
    axis = torch.linspace(-1, 1, side)
    grid, image = torch.cartesian_prod(axis, axis), torch.randn(side * side, 1)
    return Job(mlp_spec([2, 32, 32, 1], "sin", omega=30.0), _siren, grid, image, _square, steps)


def cnn_job(steps: int = 60, side: int = 8, stride: int = 1, batch: int = 32) -> Job:
    """A CNN 1-16-16-16 with ReLU on a batch of images."""
    spec = small_cnn_spec((1, 16, 16, 16), 10, "relu", stride=stride, input_shape=(1, side, side))
    images, classes = torch.randn(batch, 1, side, side), torch.randint(10, (batch,))
    return Job(spec, partial(_cnn, stride), images, classes, _entropy, steps)


def train_alone(job: Job) -> None:
    """The plain loop: one module, one torch optimiser."""
    module = job.module()
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(job.steps):
        optimiser.zero_grad()
        job.objective(module(job.inputs), job.targets).mean().backward()
        optimiser.step()


def train_together(job: Job, count: int) -> Tensor:
    """The stacked way: ``[count, parameters]``."""
    initial = [{name: 0.1 * torch.randn(shape) for name, shape in job.spec.params.items()} for _ in range(count)]
    rate = torch.full((count,), 1e-3)
    optimiser = StackedOptimiser(["adam"] * count, rate, torch.zeros_like(rate))

    def loss(stack: Stack, _: int) -> Tensor:
        inputs = job.inputs.expand(stack.size, *job.inputs.shape)
        outputs = run(stack, inputs, per_network=True)
        targets = job.targets.expand(stack.size, *job.targets.shape)
        return job.objective(outputs.flatten(0, 1), targets.flatten(0, 1)).view(stack.size, -1).mean(1)

    return train(job.spec, flatten(initial), optimiser, [job.steps] * count, loss)


def bench_zoo(
    jobs: Mapping[str, Job], engine: Engine, *, alone: int = 4, chunk: int = 50, chunks: int = 2, rounds: int = 3
) -> Iterator[dict[str, object]]:
    """One row per job: networks per minute both ways, in turns, medians and extremes over the rounds.

    Args:
        jobs: by name.
        engine: of the stacked training.
        alone: networks per round of the plain loop.
        chunk: networks trained at once.
        chunks: per round.
        rounds: how often both are measured.

    Example:
        >>> rows = bench_zoo({"siren": siren_job(steps=1)}, ThreadEngine(1), alone=1, chunk=2, chunks=1, rounds=1)
        >>> sorted(next(rows))
        ['alone', 'alone_range', 'chunk', 'job', 'rounds', 'speedup', 'steps', 'together', 'together_range']
    """
    ranges = [range(i * chunk, (i + 1) * chunk) for i in range(chunks)]
    for name, job in jobs.items():
        slow, fast = [], []
        for _ in range(rounds):
            slow.append(_per_minute(alone, lambda job=job: [train_alone(job) for _ in range(alone)]))
            fast.append(_per_minute(chunk * chunks, lambda job=job: list(engine.each(_Make(job), ranges))))
        found = {"alone": statistics.median(slow), "together": statistics.median(fast)}
        spread = {"alone_range": (min(slow), max(slow)), "together_range": (min(fast), max(fast))}
        speedup = statistics.median(f / s for f, s in zip(fast, slow, strict=True))
        yield {"job": name, "steps": job.steps, "chunk": chunk, "rounds": rounds, **found, **spread, "speedup": speedup}


@dataclass(frozen=True)
class _Make:
    job: Job

    def __call__(self, numbers: range) -> Chunk:
        train_together(self.job, len(numbers))
        return Chunk([], pd.DataFrame({"network": list(numbers)}))


def _per_minute(count: int, work: Callable[[], Sequence[object]]) -> float:
    start = time.perf_counter()
    work()
    return 60 * count / (time.perf_counter() - start)


def main() -> None:
    """Print the rows as JSON, one a line."""
    jobs = {"siren-8x8": siren_job(), "siren-28x28": siren_job(side=28), "cnn-8x8": cnn_job()}
    jobs |= {"cnn-28x28": cnn_job(side=28, stride=2)}
    for row in bench_zoo(jobs, ThreadEngine(2)):
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
