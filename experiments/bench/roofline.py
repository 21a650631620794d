"""The roofline: a native sweep of width d against running the same networks forward on d inputs each.

Running is a chain of batched matrix products and activations on contiguous copies of the same weights, and nothing
else. A convolution acts at one position: as in a sweep every weight is then used once per input, so that the ratio
says what a sweep costs beyond running the network, and not how large its feature maps are. Running on whole images
stands beside it. The sweep is what a model runs: wiring, states at inputs and outputs, both directions, and what every
neuron sees of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from experiments.bench.subjects import SHAPES, Shape
from experiments.bench.timing import Step, interleaved
from graphnfn.functional import run
from graphnfn.nn.blocks import BlockWiring
from graphnfn.nn.native import NativeSweep
from graphnfn.nn.state import State
from graphnfn.nn.taps import Sizes
from graphnfn.stack import Stack
from graphnfn.symmetry.canonical import canonical_scales

WIDTHS = (32, 64, 128)
TARGET = 3.0
"""Largest forward ratio asked for; forward and backward may take three times that."""
IMAGE = (1, 28, 28)


def running(stack: Stack, width: int) -> Callable[[], Tensor]:
    """Evaluate every network on its own d inputs, at one position: ``x <- act(W x + b)``."""
    spec = stack.spec
    weights = [block.flatten(2).contiguous() for block in stack.blocks]
    biases = [stack.group(spec.position[b.dst])[..., :1].contiguous() for b in spec.blocks]
    acts = [spec.groups[spec.position[b.dst]].activations[0] for b in spec.blocks]
    copies = [b.num_taps for b in spec.blocks]
    start = torch.randn(stack.size, weights[0].shape[2], width)

    def step() -> Tensor:
        x = start
        with torch.no_grad():
            for k, (w, b, act) in enumerate(zip(weights, biases, acts, strict=True)):
                if k and copies[k] > 1:
                    x = x.repeat_interleave(copies[k], 1)  # the patch under the kernel
                x = torch.baddbmm(b, w, x)
                x = x if act.name == "identity" else act(x)
        return x

    return step


def ratios(shape: Shape, width: int, *, networks: int = 64, rounds: int = 15) -> dict[str, Any]:
    """One row: forward, and forward with backward, over running; whole images for convolutions."""
    stack = canonical_scales(shape.stack(networks))[1]
    torch.manual_seed(0)
    sweep = NativeSweep(width, Sizes.of([shape.spec]))
    even = [torch.randn(networks, g.size, width) for g in shape.spec.groups]

    def forward() -> Tensor:
        return sum((e.sum() for e in sweep(State(even), BlockWiring(stack)).even), torch.zeros(()))

    def quiet() -> None:
        with torch.no_grad():
            sweep(State(even), BlockWiring(stack))

    def both() -> None:
        sweep.zero_grad()
        forward().backward()

    steps: dict[str, Step] = {"running": running(stack, width), "forward": quiet, "both": both}
    if shape.spec.groups[0].size == 1:  # images
        images = torch.randn(width, *IMAGE)
        steps["images"] = torch.no_grad()(lambda: run(stack, images))
    times = interleaved(steps, rounds=rounds)
    row: dict[str, Any] = {"shape": shape.title, "width": width, "networks": networks}
    row["running_cpu_ms"] = sorted(times["running"].cpu)[len(times["running"].cpu) // 2]
    for name, base in (("forward", "running"), ("both", "running"), ("forward", "images"), ("both", "images")):
        if base in times:
            cpu, wall = times[name].ratio(times[base])
            row[f"{name}_over_{base}"] = {"cpu": vars(cpu), "wall": vars(wall)}
    return row


def roofline(*, widths: tuple[int, ...] = WIDTHS, networks: int = 64, rounds: int = 15) -> list[dict[str, Any]]:
    """A row per shape and width."""
    return [ratios(s, w, networks=networks, rounds=rounds) for s in SHAPES.values() for w in widths]
