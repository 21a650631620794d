"""Regression of what networks of signed distances compute: mean and volume, from a zoo described in words."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from experiments.cell import run
from experiments.config import load
from experiments.data import open_zoo
from experiments.metrics import r_squared
from graphnfn.functional import run as run_networks

COUNT = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random networks 3-8-8-1 with a tanh in the end, and what plain torch says that they compute."""
    place = tmp_path_factory.mktemp("sdf")
    torch.manual_seed(3)
    sizes = [3, 8, 8, 1]
    tensors, x = {}, (2 * torch.rand(COUNT, 512, 3) - 1)
    for i, (into, out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        weight, bias = torch.randn(COUNT, out, into) * (2 / into) ** 0.5, torch.randn(COUNT, out) / 2
        tensors |= {f"a{i}.weight": weight, f"a{i}.bias": bias}
        x = x @ weight.transpose(1, 2) + bias[:, None]
        x = torch.tanh(x) if i == 2 else torch.relu(x)
    save_file(tensors, place / "weights.safetensors")
    words = {"architecture": "mlp", "sizes": sizes, "activation": "relu", "output_activation": "tanh"}
    (place / "spec.json").write_text(json.dumps(words))
    splits = (["train"] * 8 + ["val", "test"] * 2) * (COUNT // 12)
    columns = {"mean_sdf": x.mean((1, 2)).numpy(), "volume_fraction": (x < 0).float().mean((1, 2)).numpy()}
    pd.DataFrame({**columns, "split": splits}).to_parquet(place / "table.parquet")
    return place


def test_the_networks_are_those_that_the_labels_belong_to(folder: Path) -> None:
    zoo = open_zoo(load(["zoo=sdf", f"zoo.folder={folder}"]).zoo)
    points = 2 * torch.rand(4096, 3) - 1
    mean = run_networks(zoo.batch(slice(0, COUNT)), points).mean((1, 2))
    assert r_squared(mean, zoo.labels("mean_sdf")) > 0.95 > r_squared(mean.roll(1), zoo.labels("mean_sdf"))
    assert ((mean < 0) == (zoo.labels("volume_fraction") > 0.5)).float().mean() > 0.9


def test_what_a_network_computes_is_learned(folder: Path, tmp_path: Path) -> None:
    words = ["zoo=sdf", f"zoo.folder={folder}", "task=value", "task.column=mean_sdf", "decades=[2]", "repeats=1"]
    words += ["model=native", "trainer.epochs=12", "trainer.batch_size=16", "trainer.weight_decay=1e-2"]
    row = run(load(words), tmp_path / "work").row
    still = run(load([*words, "trainer.learning_rate=0"]), tmp_path / "still").row
    assert row["measure"] == "r2" and row["test_r2"] > 0.6 > 0.1 > still["test_r2"]
    assert row["moved_2dec"] < 1e-3
