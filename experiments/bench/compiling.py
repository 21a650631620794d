"""Training steps of models as they are, and of the same models under ``torch.compile``."""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed, InternalTorchDynamoError
from torch._dynamo.utils import counters

from experiments.bench.subjects import SHAPES, Shape, models, training_step
from experiments.bench.timing import Spread, interleaved
from graphnfn.graph import NeuralGraph
from graphnfn.traced_stack import AnyStack

MODELS = ("native", "gated", "synchronous", "statnn")
"""Ours whose steps are in C, in part and not at all, and a baseline; to compile one takes minutes."""


def compiling(
    names: Sequence[str] = MODELS,
    *,
    networks: int = 64,
    rounds: int = 9,
    shapes: Mapping[str, Shape] = SHAPES,
    backend: str | Callable[..., Any] = "inductor",
) -> list[dict[str, Any]]:
    """A row per shape and model: what ``torch.compile`` with its defaults makes of a training step.

    Both take turns. Rows with ``error`` are models that could not be compiled, as without a C++ compiler.

    Args:
        names: of the models.
        networks: per step.
        rounds: interleaved, at most.
        shapes: of the networks.
        backend: of ``torch.compile``.
    """
    rows = []
    for shape in shapes.values():
        known, stack = models(shape), shape.stack(networks)
        for name in names:
            facts = {"shape": shape.title, "name": name, "networks": networks}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Dynamo on functions that are kept, such as facts of a spec
                try:
                    rows.append({**facts, **_compared(known[name](), stack, rounds, backend)})
                except (BackendCompilerFailed, InternalTorchDynamoError) as error:
                    rows.append({**facts, "error": " ".join(str(error).split()[:30])})
    return rows


def _compared(model: nn.Module, stack: AnyStack, rounds: int, backend: Any) -> dict[str, Any]:
    with torch.no_grad():
        model(NeuralGraph.from_stacks([stack]))  # a model may make parameters in its first pass
    torch.compiler.reset()
    counters.clear()
    twin = copy.deepcopy(model)
    compiled: Any = torch.compile(twin, backend=backend)
    options: Any = torch.compiler.config
    with options.patch(force_disable_caches=True):  # what is compiled already would take no time
        start = time.perf_counter()
        _results(compiled, twin, stack)
        first_s = time.perf_counter() - start
        _results(model, model, stack)  # for models that keep statistics of what they have seen in training
        facts = {"graphs": counters["stats"]["unique_graphs"], "breaks": sum(counters["graph_break"].values())}
        for one in (model, twin):
            one.eval()  # without dropout, whose random numbers are others
        found, wanted = _results(compiled, twin, stack), _results(model, model, stack)
        for one in (model, twin):
            one.train()
        times = interleaved(
            {"eager": training_step(model, stack), "compiled": training_step(compiled, stack)}, rounds=rounds
        )
    cpu, wall = times["compiled"].ratio(times["eager"])
    return {
        "eager_cpu_ms": vars(Spread.of(times["eager"].cpu)), "compiled_cpu_ms": vars(Spread.of(times["compiled"].cpu)),
        "cpu": vars(cpu), "wall": vars(wall), "first_s": first_s - statistics.median(times["compiled"].wall) / 1e3,
        "output_error": _error(found[0], wanted[0]), "gradient_error": _error(found[1], wanted[1]),
        **facts,
    }  # fmt: skip


def _results(run: nn.Module, model: nn.Module, stack: AnyStack) -> tuple[Tensor, Tensor]:
    """Predictions, and all gradients of their mean square as one vector."""
    model.zero_grad()
    out = run(NeuralGraph.from_stacks([stack]))
    out.square().mean().backward()
    grads = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in model.parameters()]
    return out.detach(), torch.cat([g.flatten() for g in grads])


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())
