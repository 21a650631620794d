"""The share of a training step that goes into reading a batch from a zoo on disk and putting it together."""

from __future__ import annotations

import tempfile
from itertools import cycle
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
    """A row per shape and model: time of ``zoo.batch(rows)``, rows shuffled, over itself plus a training step.

    Every model takes turns with the loader alone, as in training: between steps of other models, whose states fill the
    caches, a batch would take several times as long as it does there.
    """
    rows = []
    for shape in SHAPES.values():
        stack = shape.stack(zoo_size)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "zoo"
            Zoo.write(place, [stack], pd.DataFrame({"score": torch.rand(zoo_size).numpy()}))
            zoo = Zoo.open(place)
            zoo.validate()  # as `graphnfn train` does first: every page of the file is mapped
            load = _loader(zoo, networks)
            for name in LAYERS:
                step = training_step(ours(name, shape), stack.take(slice(0, networks)))
                times = interleaved({name: step, "load": load}, rounds=rounds)
                cpu, wall = times[name].ratio(times["load"])
                share = {k: {q: 1 / (1 + v) for q, v in vars(s).items()} for k, s in (("cpu", cpu), ("wall", wall))}
                rows.append({"shape": shape.title, "name": name, "networks": networks, "share": share})
    return rows


def _loader(zoo: Zoo, networks: int) -> Step:
    generator = torch.Generator().manual_seed(0)
    epochs = [torch.randperm(len(zoo), generator=generator).split(networks) for _ in range(8)]
    rows = cycle([batch for epoch in epochs for batch in epoch])
    return lambda: zoo.batch(next(rows))
