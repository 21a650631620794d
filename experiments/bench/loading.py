"""The share of a training step that goes into reading a batch from a zoo on disk and putting it together."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.bench.subjects import SHAPES, ours, training_step
from experiments.bench.timing import Step, interleaved
from graphnfn.models import LAYERS
from graphnfn.zoo import Zoo

TARGET = 0.05


def loading(*, networks: int = 64, zoo_size: int = 1024, rounds: int = 15) -> list[dict[str, Any]]:
    """A row per shape and model: time of ``zoo.batch(rows)`` on shuffled rows over itself plus a training step."""
    rows = []
    for shape in SHAPES.values():
        stack = shape.stack(zoo_size)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "zoo"
            Zoo.write(place, [stack], pd.DataFrame({"score": torch.rand(zoo_size).numpy()}))
            steps = {name: training_step(ours(name, shape), stack.take(slice(0, networks))) for name in LAYERS}
            times = interleaved({**steps, "load": _loader(Zoo.open(place), networks)}, rounds=rounds)
            for name in steps:
                cpu, wall = times[name].ratio(times["load"])
                share = {k: {q: 1 / (1 + v) for q, v in vars(s).items()} for k, s in (("cpu", cpu), ("wall", wall))}
                rows.append({"shape": shape.title, "name": name, "networks": networks, "share": share})
    return rows


def _loader(zoo: Zoo, networks: int) -> Step:
    generator = torch.Generator().manual_seed(0)
    return lambda: zoo.batch(torch.randint(len(zoo), (networks,), generator=generator))
