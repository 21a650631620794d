"""Run in a process of its own: one of our models and its official counterpart take turns at training steps.

``python -m experiments.peers.worker CLONE CASE NETWORKS SECONDS``; prints what :class:`~experiments.peers.times.Pair`
holds, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import baselines
from experiments.bench.subjects import SHAPES, training_step
from experiments.peers import official, stubs
from experiments.peers.cases import CASES

FOREIGN = ("experiments", "nfn", "src", "nn", "data", "ProbeGen")
"""Names of packages in clones; ours of the same name are taken out of the way once all of them is loaded."""
LEAST, MOST = 3, 15


def measure(clone: Path, name: str, networks: int, seconds: float) -> dict[str, Any]:
    """Both models' CPU milliseconds per step, taken in turns on one thread."""
    case = next(c for c in CASES if c.name == name)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = SHAPES[case.shape]
    stack = shape.stack(networks)
    kind: Any = baselines.class_of(case.baseline)
    settings = kind.presets[case.preset] if case.preset else {}
    model = baselines.build(case.baseline, out=shape.out, specs=[shape.spec], **settings)
    ours = training_step(model, stack)
    ours()
    values = stack.unpack()
    weights = tuple(values[b.param] for b in shape.spec.blocks)
    biases = tuple(stack.group(i)[..., 0] for i in range(1, len(shape.spec.groups)))
    _step_aside(clone)
    peer = getattr(official, case.build)(official.Networks(clone, weights, biases))
    theirs = _training_step(peer.module, peer.forward)
    theirs()
    times = in_turns(ours, theirs, seconds)
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, peer.module)]
    return {"ours": times[0], "official": times[1], "parameters": counts[0], "official_parameters": counts[1]}


def _step_aside(clone: Path) -> None:
    """From now on these names are those of the clone."""
    for name in list(sys.modules):
        if name.split(".")[0] in FOREIGN:
            del sys.modules[name]
    sys.modules.update(stubs.stubs())
    sys.path.insert(0, str(clone))


def _training_step(module: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], None]:
    """As :func:`experiments.bench.subjects.training_step`, for a model with another call."""
    module.train()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> None:
        loss = forward().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def in_turns(one: Callable[[], None], two: Callable[[], None], seconds: float) -> tuple[list[float], list[float]]:
    """CPU milliseconds of two steps taken alternately, three times at least."""
    times: tuple[list[float], list[float]] = ([], [])
    start = time.process_time()
    while len(times[0]) < LEAST or (len(times[0]) < MOST and time.process_time() - start < seconds):
        for step, row in zip((one, two), times, strict=True):
            began = time.process_time()
            step()
            row.append(1e3 * (time.process_time() - began))
    return times


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # theirs
    clone, name, networks, seconds = sys.argv[1:]
    sys.stdout.write(json.dumps(measure(Path(clone).resolve(), name, int(networks), float(seconds))) + "\n")
