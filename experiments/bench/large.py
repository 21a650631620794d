"""Large input networks through a two-round model of width 32, forward and backward, each in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from converters import convert
from experiments.architectures import Architecture
from experiments.bench.timing import one_thread
from experiments.built import GPT2, Encoder, ResNet50
from graphnfn.graph import NeuralGraph
from graphnfn.models import GraphMetaNet, MetaNetConfig

NETWORKS: dict[str, type[Architecture]] = {"resnet50": ResNet50, "gpt2": GPT2, "encoder": Encoder}
"""ResNet-50 (25.6 M parameters), GPT-2 small (124 M), and a small encoder to try things out."""
LARGE = ("resnet50", "gpt2")
LIMIT_GB = 24.0


def large(names: Sequence[str] = LARGE) -> list[dict[str, Any]]:
    """A row per network; ``error`` where its process failed."""
    rows = []
    for name in names:
        words = [sys.executable, "-m", "experiments.bench.large", name]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            rows.append({"name": name, "error": f"exit code {done.returncode}: {last}"})
        else:
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def measure(name: str) -> dict[str, Any]:
    """Seconds of forward, and of forward with backward; ``peak_gb`` is the process's largest resident memory so far."""
    one_thread()
    torch.manual_seed(0)
    architecture = NETWORKS[name]
    module = architecture().eval()
    row: dict[str, Any] = {"name": name, "weights": sum(p.numel() for p in module.parameters())}
    examples = list(architecture.examples())
    start = time.perf_counter()
    graph = convert(module, example_input=tuple(examples) if len(examples) > 1 else examples[0], verify=False)
    row["convert"] = {"wall_s": time.perf_counter() - start, "peak_gb": _peak_gb()}
    model = GraphMetaNet(MetaNetConfig(width=32, rounds=2))
    batch = NeuralGraph.batch([graph])
    for part, go in (("forward", lambda: model(batch).sum()), ("both", lambda: model(batch).sum().backward())):
        cpu, wall = time.process_time(), time.perf_counter()
        go()
        row[part] = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "peak_gb": _peak_gb()}
    return row


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(sys.argv[1])) + "\n")
