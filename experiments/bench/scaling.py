"""How time and memory grow with the parameters of the input network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from experiments.bench.curves import measured
from experiments.bench.subjects import Shape, ours, training_step
from graphnfn.chain import mlp_spec

SIZES = (30, 100, 316, 1000, 3162)
"""Hidden neurons of MLPs 2-n-n-1: a thousand to ten million parameters."""
MODELS = ("native", "gated", "combined")
TARGET = 1.05


def scaling(sizes: Sequence[int] = SIZES, *, width: int = 32, rounds: int = 5) -> dict[str, Any]:
    """Training steps on one network of each size, and per model the exponents of time and memory.

    An exponent is the slope of a least-squares line through the logarithms; ``steepest`` is the largest slope between
    neighbours.
    """
    rows: list[dict[str, Any]] = []
    for size in sizes:
        shape = Shape(f"MLP 2-{size}-{size}-1", mlp_spec([2, size, size, 1], "relu"), 1)
        stack = shape.stack(1)
        steps = {name: training_step(ours(name, shape, width=width), stack) for name in MODELS}
        facts = {"shape": shape.title, "weights": shape.spec.num_params, "width": width}
        rows += measured(steps, facts, 1, rounds)
    exponents = {}
    for name in MODELS:
        own = [r for r in rows if r["name"] == name]
        x = [math.log(r["weights"]) for r in own]
        exponents[name] = {
            "time": slopes(x, [math.log(r["cpu_ms"]["middle"]) for r in own]),
            "memory": slopes(x, [math.log(r["peak_kb_per_network"]) for r in own]),
        }
    return {"rows": rows, "exponents": exponents}


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
