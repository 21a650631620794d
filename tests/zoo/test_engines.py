"""Where chunks are made changes nothing: threads and a real local Ray give one zoo, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from experiments.errors import ExperimentError
from experiments.zoos.chunks import build_in_chunks
from experiments.zoos.draws import network_generator
from experiments.zoos.engines import Chunk, Engine, ThreadEngine, using
from experiments.zoos.engines_ray import RayEngine
from experiments.zoos.fleet import flatten, train, unflatten
from experiments.zoos.initial import initial_weights
from experiments.zoos.optimisers import StackedOptimiser
from graphnfn.chain import mlp_spec
from graphnfn.errors import ZooError
from graphnfn.functional import run
from graphnfn.stack import Stack

SPEC, SIZE, CHUNK = mlp_spec([2, 8, 1], "tanh"), 9, 2


def _make(numbers: range, *, seed: int) -> Chunk:
    """Networks that learn sums, in company so that rounding has a chance to differ."""
    ours = list(numbers) * 2
    initial = [initial_weights(SPEC, "normal", 1.0, 0.1, network_generator(seed, i, "initial")) for i in ours]
    inputs = torch.stack([torch.from_numpy(network_generator(seed, i, "x").standard_normal((16, 2))) for i in ours])

    def loss(stack: Stack, _: int) -> torch.Tensor:
        x = inputs[: stack.size].float()
        return (run(stack, x, per_network=True) - x.sum(-1, keepdim=True)).square().mean((1, 2))

    rate = torch.full((len(ours),), 0.01)
    optimiser = StackedOptimiser(["adam"] * len(ours), rate, torch.zeros_like(rate))
    theta = train(SPEC, flatten(initial), optimiser, [15] * len(ours), loss)[: len(numbers)]
    return Chunk([unflatten(SPEC, theta)], pd.DataFrame({"network": list(numbers)}))


@dataclass(frozen=True)
class Deadly:
    """The worker that makes network 4 is killed in the middle; the first time only, where ``once`` says so."""

    note: str
    once: bool

    def __call__(self, numbers: range) -> Chunk:
        chunk = _make(numbers, seed=0)
        if 4 in numbers and not (self.once and Path(self.note).exists()):
            Path(self.note).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return chunk


def _refuse(numbers: range) -> Chunk:
    raise ZooError(f"cannot make network {numbers.start}")


def _build(folder: Path, make: Any, engine: Engine) -> dict[str, bytes]:
    with using(engine):
        zoo = build_in_chunks(folder, SIZE, make, chunk=CHUNK, about={"builder": "test"}, progress=False)
    assert zoo.labels("network").tolist() == list(range(SIZE))
    return {name: (folder / name).read_bytes() for name in ("weights.safetensors", "spec.json")}


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray for all tests of this file: starting it and its workers takes seconds."""
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return _build(tmp_path_factory.mktemp("threads") / "zoo", partial(_make, seed=0), ThreadEngine(1))


def test_the_number_of_threads_changes_nothing_and_the_seed_does(tmp_path: Path, expected: dict[str, bytes]) -> None:
    assert _build(tmp_path / "three", partial(_make, seed=0), ThreadEngine(3)) == expected
    assert _build(tmp_path / "seed", partial(_make, seed=1), ThreadEngine(1)) != expected


@pytest.mark.usefixtures("ray_here")
def test_ray_gives_the_same_zoo_also_when_a_worker_is_killed(tmp_path: Path, expected: dict[str, bytes]) -> None:
    assert _build(tmp_path / "whole", partial(_make, seed=0), RayEngine()) == expected
    note = tmp_path / "killed.txt"
    assert _build(tmp_path / "killed", Deadly(str(note), once=True), RayEngine()) == expected
    assert int(note.read_text()) != os.getpid()  # a worker it was


@pytest.mark.usefixtures("ray_here")
def test_a_chunk_that_always_kills_its_worker_is_given_up_and_the_others_are_kept(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    folder, note = tmp_path / "zoo", tmp_path / "killed.txt"
    with pytest.raises(ExperimentError, match="workers of networks 4 to 5 died 1 times"):
        _build(folder, Deadly(str(note), once=False), RayEngine(retries=0))
    kept = {path.name for path in folder.with_name("zoo.build").glob("chunk-*")}
    assert kept & {"chunk-0000000", "chunk-0000002"}  # one worker had to be done with its first chunk
    assert "chunk-0000004" not in kept
    assert _build(folder, partial(_make, seed=0), ThreadEngine()) == expected  # another engine may go on


@pytest.mark.usefixtures("ray_here")
def test_errors_of_the_networks_come_through(tmp_path: Path) -> None:
    for engine in (RayEngine(), ThreadEngine()):
        with pytest.raises(ZooError, match=r"cannot make network \d"):
            _build(tmp_path / type(engine).__name__, _refuse, engine)


def test_a_missing_ray_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExperimentError, match=r"pip install 'graphnfn\[ray\]'"):
        _build(tmp_path / "zoo", partial(_make, seed=0), RayEngine())
