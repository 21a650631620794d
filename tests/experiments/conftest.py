"""A zoo small enough to train on in a second."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from graphnfn.chain import mlp_spec
from graphnfn.functional import run
from graphnfn.testing import random_graph
from graphnfn.zoo import Zoo

SIZE = 48


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random ReLU networks; the labels are what they compute on one input, as a fraction, a value and a class."""
    spec = mlp_spec([3, 6, 6, 1], "relu")
    stack = random_graph(spec, seed=1, dtype=torch.float32, networks=SIZE).stacks()[0]
    value = run(stack, torch.tensor([[1.0, -0.5, 0.3]]))[:, 0, 0]
    splits = (["train"] * 4 + ["val", "test"]) * (SIZE // 6)
    labels = {"score": torch.sigmoid(value), "value": 10 * value, "label": (value > 0).long()}
    table = pd.DataFrame({name: column.numpy() for name, column in labels.items()} | {"split": splits})
    folder = tmp_path_factory.mktemp("zoo") / "tiny"
    Zoo.write(folder, [stack], table)
    return folder


@pytest.fixture(scope="session")
def tiny_sirens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random networks of images; labelled with whether the middle is bright, and with made-up settings."""
    spec = mlp_spec([2, 6, 6, 1], "sin", omega=4.0)
    stack = random_graph(spec, seed=1, dtype=torch.float32, networks=SIZE).stacks()[0]
    middle = run(stack, torch.zeros(1, 2))[:, 0, 0]
    splits = (["train"] * 4 + ["val", "test"]) * (SIZE // 6)
    table = pd.DataFrame(
        {
            "label": (middle > 0).long().numpy(),
            "rate": middle.exp().numpy(),
            "shift": middle.numpy(),
            "optimizer": ["adam" if m > 0 else "sgd" for m in middle],
            "split": splits,
        }
    )
    folder = tmp_path_factory.mktemp("zoo") / "sirens"
    Zoo.write(folder, [stack], table)
    return folder


@pytest.fixture(scope="session")
def sirens(tiny_sirens: Path) -> list[str]:
    """Overrides for a run on them that takes a second."""
    zoo = ["zoo=folder", f"zoo.folder={tiny_sirens}", "zoo.name=sirens", "zoo.side=6"]
    return [*zoo, "trainer.epochs=3", "decades=[2]", "repeats=1", "compare.cost_networks=0"]


@pytest.fixture(scope="session")
def tiny(tiny_zoo: Path) -> list[str]:
    """Overrides for a run on it that takes a second."""
    zoo = ["zoo=folder", f"zoo.folder={tiny_zoo}", "zoo.name=tiny", "task=fraction", "task.column=score"]
    return [*zoo, "trainer.epochs=3", "decades=[2]", "repeats=1", "compare.cost_networks=8"]
