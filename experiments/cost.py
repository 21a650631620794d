"""What one training step costs: CPU time on one thread and memory, measured in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import psutil
import torch

from experiments.cell import build_model, prepare_task
from experiments.config import load, plain
from experiments.data import open_zoo
from experiments.errors import ExperimentError
from graphnfn.zoo import Zoo

WARMUP, REPEATS = 3, 15


def measure_apart(overrides: Sequence[str]) -> dict[str, Any]:
    """:func:`measure` in a fresh Python process, so that no earlier run has shaped its memory.

    Args:
        overrides: of the configuration; the model among them.

    Raises:
        ExperimentError: the process failed; says its last words.
    """
    done = subprocess.run(
        [sys.executable, "-m", "experiments.cost", *overrides], capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ExperimentError(f"measuring the cost with {' '.join(overrides)!r} failed: {words[0]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(overrides: Sequence[str]) -> dict[str, Any]:
    """Cost of forward, backward and optimiser step on one batch of training networks.

    Returns:
        ``step_ms`` the median CPU time and ``step_ms_low``, ``step_ms_high`` its quartiles; ``peak_mb`` the growth of
        resident memory in the first step, optimiser state included; ``parameters``; ``cost_networks``.
    """
    torch.set_num_threads(1)
    config = load(overrides)
    zoo = open_zoo(config.zoo)
    task = prepare_task(config, zoo)
    networks = config.compare.cost_networks
    _warm_up_torch()
    with _Peak() as peak:
        step = _Step(config, zoo, task, networks)
        step()
    for _ in range(WARMUP):
        step()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        step()
        times.append(1e3 * (time.process_time() - start))
    low, middle, high = statistics.quantiles(times, n=4)
    return {
        "model": config.model.name, "step_ms": middle, "step_ms_low": low, "step_ms_high": high,
        "peak_mb": peak.grown / 2**20, "parameters": sum(p.numel() for p in step.model.parameters()),
        "cost_networks": networks, "config": plain(config.model),
    }  # fmt: skip


class _Step:
    """A model, its optimiser and one batch."""

    def __init__(self, config: Any, zoo: Zoo, task: Any, networks: int) -> None:
        torch.manual_seed(0)
        rows = zoo.split("train")
        rows = rows[torch.randint(len(rows), (networks,))]
        self.task, self.zoo, self.rows = task, zoo, rows
        self.labels = task.labels(zoo, rows)
        self.model = build_model(config, task, zoo)
        with torch.no_grad():
            self.model(zoo.batch(rows[:2]))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def __call__(self) -> None:
        loss = self.task.loss(self.model(self.zoo.batch(self.rows)), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class _Peak:
    """The largest resident memory of this process while it is entered, beyond that at entry; sampled."""

    grown = 0

    def __enter__(self) -> _Peak:
        self._process, self._done = psutil.Process(), threading.Event()
        self._start = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._done.wait(5e-4):
            self._look()

    def _look(self) -> None:
        self.grown = max(self.grown, self._process.memory_info().rss - self._start)


def _warm_up_torch() -> None:
    """Load the kernels' libraries first: they are not the model's memory."""
    layer = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.SiLU(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.randn(64, 64)).sum().backward()
    optimizer.step()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(sys.argv[1:])) + "\n")
