"""Cost of training steps by layer, model, batch size and width, and next to published codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

import baselines
from experiments.bench.subjects import SHAPES, Shape, ours, readable, training_step
from experiments.bench.timing import Spread, Step, interleaved, peak_bytes
from experiments.published import Figure, published_figures
from graphnfn.models import LAYERS
from graphnfn.nn.blocks import BlockWiring
from graphnfn.nn.edges import EdgeWiring
from graphnfn.nn.gated import GatedSweep
from graphnfn.nn.native import NativeSweep
from graphnfn.nn.paths import PathSweep
from graphnfn.nn.state import State
from graphnfn.nn.synchronous import SynchronousLayer
from graphnfn.nn.taps import Sizes
from graphnfn.symmetry.canonical import canonical_scales

KINDS: Mapping[str, type[nn.Module]] = {
    "native": NativeSweep, "gated": GatedSweep, "paths": PathSweep, "synchronous": SynchronousLayer,
}  # fmt: skip

LARGEST_GIB = 4.0
"""Of one training step, in the comparison of models."""


def measured(steps: Mapping[str, Step], facts: Mapping[str, Any], networks: int, rounds: int) -> list[dict[str, Any]]:
    """A row per step: CPU and wall milliseconds, peak memory per network."""
    times = interleaved(steps, rounds=rounds)
    return [
        {
            **facts, "name": name, "networks": networks, "rounds": len(times[name].cpu),
            "cpu_ms": vars(Spread.of(times[name].cpu)), "wall_ms": vars(Spread.of(times[name].wall)),
            "peak_kb_per_network": peak_bytes(step) / 1024 / networks,
        }
        for name, step in steps.items()
    ]  # fmt: skip


def layers(*, width: int = 32, networks: int = 64, rounds: int = 9) -> list[dict[str, Any]]:
    """Forward and backward of one layer: block by block, and native by ``edge_index`` ("native on edges")."""
    rows = []
    for shape in SHAPES.values():
        steps = _layer_steps(shape, width, networks)
        rows += measured(steps, {"shape": shape.title, "width": width}, networks, rounds)
    return rows


def _layer_steps(shape: Shape, width: int, networks: int) -> dict[str, Step]:
    stack = canonical_scales(shape.stack(networks))[1]
    torch.manual_seed(0)
    made = {name: kind(width, Sizes.of([shape.spec])) for name, kind in KINDS.items()}
    even = [torch.randn(networks, g.size, width) for g in shape.spec.groups]
    flat = [e.flatten(0, 1) for e in even]  # in a chain every level is one group of every network

    def on_blocks(layer: nn.Module) -> Step:
        return lambda: _even_sum(layer(State(even), BlockWiring(stack))).backward()

    def on_edges(layer: nn.Module) -> Step:
        return lambda: _even_sum(layer(State(flat), EdgeWiring([stack]))).backward()

    return {**{k: on_blocks(v) for k, v in made.items()}, "native on edges": on_edges(made["native"])}


def _even_sum(state: State) -> torch.Tensor:
    return sum((e.sum() for e in state.even), torch.zeros(()))


def by_model(*, networks: int = 64, rounds: int = 5) -> list[dict[str, Any]]:
    """Training steps of our models and every baseline with default settings.

    Rows with ``refused`` are models that are not made for a shape; rows with ``too_large`` hold the GiB that a step
    would need, by a step on a sixteenth of the networks (two at least), where that is more than :data:`LARGEST_GIB`.
    """
    rows = []
    for shape in SHAPES.values():
        found, refused = readable(shape)
        few, stack = max(2, networks // 16), shape.stack(networks)  # two at least: batch norms
        needed = {name: peak_bytes(training_step(m, shape.stack(few))) * networks / few for name, m in found.items()}
        large = {name: b / 2**30 for name, b in needed.items() if b > LARGEST_GIB * 2**30}
        kept = {name: model for name, model in found.items() if name not in large}
        steps = {name: training_step(model, stack) for name, model in kept.items()}
        counts = {name: sum(p.numel() for p in model.parameters()) for name, model in kept.items()}
        for row in measured(steps, {"shape": shape.title}, networks, rounds):
            rows.append({**row, "parameters": counts[row["name"]]})
        rows += [{"shape": shape.title, "name": name, "refused": True} for name in refused]
        rows += [{"shape": shape.title, "name": name, "too_large": gib} for name, gib in large.items()]
    return rows


def by_batch(sizes: Sequence[int] = (1, 4, 16, 64, 256), *, rounds: int = 7) -> list[dict[str, Any]]:
    """Training steps of our models at width 32 against networks a batch."""
    rows = []
    for shape in SHAPES.values():
        for networks in sizes:
            stack = shape.stack(networks)
            steps = {name: training_step(ours(name, shape), stack) for name in LAYERS}
            rows += measured(steps, {"shape": shape.title, "width": 32}, networks, rounds)
    return rows


def by_width(
    widths: Sequence[int] = (8, 16, 32, 64, 128), *, networks: int = 64, rounds: int = 7
) -> list[dict[str, Any]]:
    """Training steps of our models against width."""
    rows = []
    for shape in SHAPES.values():
        stack = shape.stack(networks)
        for width in widths:
            steps = {name: training_step(ours(name, shape, width=width), stack) for name in LAYERS}
            rows += measured(steps, {"shape": shape.title, "width": width}, networks, rounds)
    return rows


def against_published(*, networks: int = 64, rounds: int = 3, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Our ``probes`` and the counterpart here of every published code, beside its own figure.

    Args:
        networks: per step.
        rounds: interleaved.
        only: baselines, all where empty.
    """
    rows = []
    for figure in published_figures():
        if only and figure.baseline not in only:
            continue
        shape = SHAPES[figure.shape]
        stack = shape.stack(networks)
        steps = {
            "probes": training_step(ours("probes", shape), stack),
            "counterpart": training_step(_counterpart(figure, shape), stack),
        }
        mine, theirs = measured(steps, {}, networks, rounds)
        rows.append(
            {
                "shape": shape.title, "published": figure.model, "baseline": figure.baseline, "source": figure.codes,
                "published_step_ms": figure.step_ms,
                "published_peak_kb_per_network": None if figure.peak_mb is None else 1024 * figure.peak_mb / 64,
                "probes": mine, "counterpart": theirs,
                "cheaper_time": figure.step_ms / mine["cpu_ms"]["middle"],
                "counterpart_cheaper_time": figure.step_ms / theirs["cpu_ms"]["middle"],
            }
        )  # fmt: skip
    return rows


def _counterpart(figure: Figure, shape: Shape) -> nn.Module:
    """The baseline with the settings of the published figure."""
    plain: Any = type(baselines.build(figure.baseline, out=shape.out, specs=[shape.spec]))
    return baselines.build(figure.baseline, out=shape.out, specs=[shape.spec], **plain.presets[figure.preset])
