"""How time and memory grow with the parameters of the input network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from experiments.bench.subjects import Shape, ours, training_step
from experiments.bench.timing import Spread, Step, interleaved, peak_bytes
from graphnfn.chain import mlp_spec
from graphnfn.stack import Stack

SIZES = (30, 100, 316, 1000, 3162)
"""Hidden neurons of MLPs 2-n-n-1: a thousand to ten million parameters."""
MODELS = ("native", "gated", "combined")
TARGET = 1.05
SECONDS = 120.0
"""No further round after so many."""


RUNNING = "running it"
"""The network itself on as many inputs as the width, forward and back: what growth the machine itself shows."""


def scaling(sizes: Sequence[int] = SIZES, *, width: int = 32, rounds: int = 15) -> dict[str, Any]:
    """Training steps on one network of each size, and per model the exponents of time and memory.

    All sizes are interleaved, and time has its exponents round by round, so that a machine that is busy for a while
    bends no curve. Beside the models stands running the network itself: where that grows faster than its parameters,
    as it may once weights no longer fit a cache, models cannot grow more slowly. An exponent is the slope of a
    least-squares line through the logarithms; ``steepest`` is the largest slope between neighbours.
    """
    steps: dict[str, Step] = {}
    facts: dict[str, dict[str, Any]] = {}
    for size in sizes:
        shape = Shape(f"MLP 2-{size}-{size}-1", mlp_spec([2, size, size, 1], "relu"), 1)
        stack = shape.stack(1)
        made = {name: training_step(ours(name, shape, width=width), stack) for name in MODELS}
        for name, step in {**made, RUNNING: _there_and_back(stack, width)}.items():
            key = f"{name} {size}"
            steps[key] = step
            facts[key] = {"shape": shape.title, "name": name, "weights": shape.spec.num_params, "width": width}
    times = interleaved(steps, rounds=rounds, seconds=SECONDS)
    rows = [
        {
            **facts[key], "networks": 1, "rounds": len(times[key].cpu), "cpu_ms": vars(Spread.of(times[key].cpu)),
            "wall_ms": vars(Spread.of(times[key].wall)), "peak_kb_per_network": peak_bytes(step) / 1024,
        }
        for key, step in steps.items()
    ]  # fmt: skip
    exponents = {}
    for name in (*MODELS, RUNNING):
        keys = [key for key in steps if facts[key]["name"] == name]
        x = [math.log(facts[key]["weights"]) for key in keys]
        found = [
            slopes(x, [math.log(ms) for ms in round_]) for round_ in zip(*(times[k].cpu for k in keys), strict=True)
        ]
        memory = [math.log(r["peak_kb_per_network"]) for r in rows if r["name"] == name]
        time = {kind: vars(Spread.of([f[kind] for f in found])) for kind in ("line", "steepest")}
        exponents[name] = {"time": time, "memory": slopes(x, memory)}
    return {"rows": rows, "exponents": exponents}


def _there_and_back(stack: Stack, width: int) -> Step:
    """The network on its own d inputs, and gradients for these."""
    start = torch.randn(1, stack.spec.groups[0].size, width, requires_grad=True)
    weights = [block.flatten(2).contiguous() for block in stack.blocks]

    def step() -> None:
        x = start
        for k, (b, w) in enumerate(zip(stack.spec.blocks, weights, strict=True)):
            z = torch.baddbmm(stack.group(stack.spec.position[b.dst])[..., :1], w, x)
            x = z if k == len(weights) - 1 else torch.relu(z)
        torch.autograd.grad(x.sum(), start)

    return step


def slopes(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Slope of the least-squares line, and the steepest slope between neighbours.

    Example:
        >>> slopes([0.0, 1.0, 2.0], [0.0, 1.0, 4.0])
        {'line': 2.0, 'steepest': 3.0}
    """
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    up = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    steps = [(y[i + 1] - y[i]) / (x[i + 1] - x[i]) for i in range(len(x) - 1)]
    return {"line": up / sum((a - mean_x) ** 2 for a in x), "steepest": max(steps)}
