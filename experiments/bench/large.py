"""Large input networks through a model of two rounds and width 32, forward and backward, in processes of their own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters import convert
from experiments.architectures import Architecture
from experiments.bench.timing import one_thread
from experiments.built import GPT2, Encoder, ResNet50
from graphnfn.graph import NeuralGraph
from graphnfn.io import load, save
from graphnfn.models import GraphMetaNet, MetaNetConfig

NETWORKS: dict[str, type[Architecture]] = {"resnet50": ResNet50, "gpt2": GPT2, "encoder": Encoder}
"""ResNet-50 (25.6 M parameters), GPT-2 small (124 M), and a small encoder to try things out."""
LARGE = ("resnet50", "gpt2")
LIMIT_GB = 24.0
ROUNDS, WIDTH = 2, 32
_FILE = "graph.safetensors"


@dataclass(frozen=True)
class Run:
    """How the model runs.

    Args:
        checkpoint: a few channels at a time, once more in the backward pass.
        half: under bfloat16 autocast.
    """

    checkpoint: bool = False
    half: bool = False


RUNS: dict[str, Run] = {
    "plain": Run(),
    "checkpoint": Run(checkpoint=True),
    "checkpoint, bfloat16": Run(checkpoint=True, half=True),
}


def large(names: Sequence[str] = LARGE, runs: Sequence[str] = tuple(RUNS)) -> list[dict[str, Any]]:
    """A row per network and way of running; ``error`` where its process failed."""
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            made = _in_process("make", name, folder)
            for run in runs:
                done = made if "error" in made else {**made, **_in_process("measure", run, folder)}
                rows.append({"name": name, "run": run, **done})
    return rows


def _in_process(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.bench.large", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"exit code {done.returncode}: {last}"}
    return json.loads(done.stdout.splitlines()[-1])


def make(name: str, folder: str) -> dict[str, Any]:
    """Convert a network and write its graph to a file."""
    torch.manual_seed(0)
    module = NETWORKS[name]().eval()
    examples = list(NETWORKS[name].examples())
    cpu, wall = time.process_time(), time.perf_counter()
    graph = convert(module, example_input=tuple(examples) if len(examples) > 1 else examples[0], verify=False)
    seconds = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    save(graph, Path(folder) / _FILE)
    weights = sum(p.numel() for p in module.parameters())
    return {"weights": weights, "convert": {**seconds, "peak_gb": peak_gb()}}


def measure(run: str, folder: str) -> dict[str, Any]:
    """Seconds of forward, and of forward with backward, and the process's largest resident memory so far.

    Forward keeps what a backward pass needs. Counted are also the parameters that got a finite gradient other than 0.
    """
    torch.manual_seed(0)
    batch = NeuralGraph.batch([load(Path(folder) / _FILE)])
    row: dict[str, Any] = {"load": {"peak_gb": peak_gb()}}
    how = RUNS[run]
    model = GraphMetaNet(MetaNetConfig(width=WIDTH, rounds=ROUNDS, layer="native", checkpoint=how.checkpoint))

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=how.half):
            return model(batch).sum()

    with torch.no_grad():
        forward()  # makes its parameters, and the fixed random numbers that are kept
    steps: dict[str, Callable[[], object]] = {"forward": forward, "both": lambda: forward().backward()}
    for part, go in steps.items():
        cpu, wall = time.process_time(), time.perf_counter()
        go()
        row[part] = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "peak_gb": peak_gb()}
    used = [*model.reader.parameters(), *model.head.predict.parameters()]  # type: ignore[union-attr]
    sizes = [0.0 if p.grad is None else float(p.grad.abs().amax()) for p in used]
    row["parameters"] = len(used)
    row["without_gradient"] = sum(not 0 < size < float("inf") for size in sizes)
    return row


def peak_gb() -> float:
    """The largest resident memory of this process, in GiB.

    Linux passes a parent's on as ``ru_maxrss``; its own status file does not.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    one_thread()
    part, *words = sys.argv[1:]
    sys.stdout.write(json.dumps({"make": make, "measure": measure}[part](*words)) + "\n")
