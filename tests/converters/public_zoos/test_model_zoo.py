"""Model zoos under Ray Tune: modules numbered with dropout or without, pooling, epochs, preprocessed files."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path, PosixPath
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from converters.public_zoos import import_zoo
from graphnfn.errors import ConversionError, GraphNFNError
from graphnfn.functional import run
from graphnfn.zoo import Zoo

ACTS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "leakyrelu": nn.LeakyReLU}


def modules(config: dict[str, Any]) -> nn.ModuleList:
    """The published architectures: convolution, pooling, activation, dropout where there is one; two dense layers."""
    act, drop = ACTS[config["model::nlin"]], config["model::dropout"]
    large = config["model::type"] == "CNN3"
    widths = {"CNN": (8, 6, 4), "CNN2": (6, 9, 6), "CNN3": (16, 32, 15)}[config["model::type"]]
    kernels = (3, 3, 3) if large else (5, 5, 2)
    out, into = nn.ModuleList(), config["model::channels_in"]
    for i, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
        out.append(nn.Conv2d(into, width, kernel))
        if i < 2 or large:
            out.append(nn.MaxPool2d(2, 2))
        out.append(act())
        if large or (drop and i < 2):
            out.append(nn.Dropout(drop))
        into = width
    out.append(nn.Flatten())
    out.append(nn.Linear(into * (4 if large else 9), 20))
    out.append(act())
    if large or drop:
        out.append(nn.Dropout(drop))
    out.append(nn.Linear(20, 10))
    return out


def configuration(kind: str = "CNN", nlin: str = "tanh", dropout: float = 0, channels: int = 1) -> dict[str, Any]:
    return {
        "model::type": kind, "model::channels_in": channels, "model::o_dim": 10, "model::nlin": nlin,
        "model::dropout": dropout, "model::init_type": "uniform", "model::use_bias": False,
        "optim::optimizer": "adam", "optim::lr": 3e-4, "optim::wd": 0.001, "seed": 7, "cuda": False,
    }  # fmt: skip


class Holder(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.module_list = modules(config)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.module_list:
            x = layer(x)
        return x


CONFIGS = [
    configuration(), configuration(nlin="gelu", dropout=0.5), configuration("CNN3", "relu", 0, 3),
    configuration("CNN2", "leakyrelu"), *[configuration() for _ in range(16)],
]  # fmt: skip


@pytest.fixture
def trials(tmp_path: Path) -> tuple[Path, dict[str, Holder]]:
    """Twenty trials with checkpoints of epochs 1 and 50, named as older and newer versions of Ray do."""
    root, models = tmp_path / "tune_zoo_mnist", {}
    for i, config in enumerate(CONFIGS):
        trial, lines = root / f"NN_tune_trainable_{i:05d}_seed={i}", []
        for epoch in (1, 50):
            folder = trial / (f"checkpoint_{epoch:06d}" if i % 2 else f"checkpoint_{epoch}")
            folder.mkdir(parents=True)
            models[f"{trial.name}/{epoch}"] = Holder(config).eval()
            torch.save(models[f"{trial.name}/{epoch}"].state_dict(), folder / "checkpoints")
            torch.save({"state": {}}, folder / "optimizer")
            measured = {"train_loss": 1.0, "train_acc": 0.5 + i / 100, "test_loss": float("nan"), "test_acc": 0.4}
            lines.append(json.dumps({**measured, "training_iteration": epoch, "config": config, "pid": 3}))
        (trial / "result.json").write_text("\n".join(lines) + "\n")
        (trial / "params.json").write_text(json.dumps(config))
    (root / "config.json").write_text("{}")
    return root, models


def _computes(zoo: Zoo, row: int, model: Holder) -> bool:
    images = torch.randn(2, *zoo.specs[zoo.spec_index[row]].input_shape)
    return torch.allclose(run(zoo.batch([row]), images)[0], model(images), atol=1e-5)


def test_networks_compute_what_was_trained(trials: tuple[Path, dict[str, Holder]], tmp_path: Path):
    """Also those with dropout, whose layers have other numbers, and those of three pooling layers."""
    root, models = trials
    zoo = import_zoo("model-zoo", root, tmp_path / "zoo", ["epochs=1,50"])
    assert len(zoo) == 40
    for row in range(8):
        assert _computes(zoo, row, models[f"{zoo.table['trial'][row]}/{zoo.table['epoch'][row]}"])
    assert not _computes(zoo, 0, models[f"{zoo.table['trial'][1]}/{zoo.table['epoch'][1]}"])
    assert zoo.table["model"].tolist()[:8:2] == ["CNN", "CNN", "CNN3", "CNN2"]
    dropped = zoo.table["dropout"] == 0.5
    assert zoo.table.loc[dropped, "activation"].tolist() == ["gelu", "gelu"]


def test_the_last_epoch_by_default(trials: tuple[Path, dict[str, Holder]], tmp_path: Path):
    zoo = import_zoo("model-zoo", trials[0], tmp_path / "zoo")
    assert zoo.table["epoch"].tolist() == [50] * 20
    assert {"test_acc", "train_acc", "ggap", "lr", "wd", "optimizer", "init_type", "dropout", "seed"} <= set(zoo.table)
    assert zoo.table["ggap"].tolist() == pytest.approx([0.1 + i / 100 for i in range(20)])
    with pytest.raises(ConversionError, match=r"no network of epochs \(7,\); left out: .*checkpoint_7"):
        import_zoo("model-zoo", trials[0], tmp_path / "other", ["epochs=7"])


def test_trials_that_stopped_early_are_left_out_and_counted(trials: tuple[Path, dict[str, Holder]], tmp_path: Path):
    folder = sorted(trials[0].glob("*/checkpoint_*50"))[3]
    folder.rename(folder.with_name("checkpoint_30"))
    zoo = import_zoo("model-zoo", trials[0], tmp_path / "zoo", ["epochs=1,50"])
    assert len(zoo) == 39 and zoo.about["left_out"] == 1
    assert len(import_zoo("model-zoo", trials[0], tmp_path / "last")) == 20


def test_all_epochs_of_a_trial_are_in_one_split(trials: tuple[Path, dict[str, Holder]], tmp_path: Path):
    zoo = import_zoo("model-zoo", trials[0], tmp_path / "zoo", ["epochs=1,50"])
    names = sorted(p.name for p in trials[0].iterdir() if p.is_dir())
    random.seed(42)
    random.shuffle(names)
    want = {n: "train" if i < 14 else "val" if i < 17 else "test" for i, n in enumerate(names)}
    assert zoo.table["split"].tolist() == [want[trial] for trial in zoo.table["trial"]]


def test_broken_networks_are_left_out_and_counted(trials: tuple[Path, dict[str, Holder]], tmp_path: Path):
    file = next(trials[0].glob("*/checkpoint_50/checkpoints"))
    state = torch.load(file, weights_only=True)
    state["module_list.0.bias"][0] = torch.nan
    torch.save(state, file)
    zoo = import_zoo("model-zoo", trials[0], tmp_path / "zoo")
    assert len(zoo) == 19 and zoo.about["left_out"] == 1


class ModelDatasetBase(Dataset):
    """Stands for the published class, whose pickles hold its attributes."""


def _data_set(states: list[Any] | Tensor, count: int, start: int, with_nlin: bool) -> ModelDatasetBase:
    data = ModelDatasetBase()
    data.__dict__ |= {
        "data_in": states, "paths": [PosixPath(f"/zoo/trial_{start + i}") for i in range(count)],
        "epochs": [5 + 10 * (i % 2) for i in range(count)], "layer_lst": [(0, "conv2d")], "task": "reconstruction",
        "properties": {"test_acc": [0.1 * i for i in range(count)], "ggap": [0.01] * count}
        | ({"model::nlin": ["gelu"] * count, "optim::lr": [1e-3] * count} if with_nlin else {}),
    }  # fmt: skip
    return data


def _preprocessed(path: Path, sets: dict[str, ModelDatasetBase]) -> None:
    name = "checkpoints_to_datasets.dataset_base"
    with pytest.MonkeyPatch.context() as patch:
        module = ModuleType(name)
        vars(module)["ModelDatasetBase"] = ModelDatasetBase
        patch.setattr(ModelDatasetBase, "__module__", name)
        for part in ("checkpoints_to_datasets", name):
            patch.setitem(sys.modules, part, module)
        torch.save(sets, path)


def test_preprocessed_files_have_the_official_splits(tmp_path: Path):
    models = [Holder(configuration(nlin="gelu", dropout=0.5 * (i % 2))).eval() for i in range(6)]
    states = [m.state_dict() for m in models]
    parts = {"trainset": _data_set(states[:3], 3, 0, True), "valset": _data_set(states[3:4], 1, 3, True),
             "testset": _data_set(states[4:], 2, 4, True)}  # fmt: skip
    _preprocessed(tmp_path / "dataset.pt", parts)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "dataset.pt")
    assert "checkpoints_to_datasets.dataset_base.ModelDatasetBase" in names
    zoo = import_zoo("model-zoo", tmp_path / "dataset.pt", tmp_path / "zoo")
    assert zoo.table["split"].tolist() == ["train"] * 3 + ["val"] + ["test"] * 2
    assert zoo.table["trial"].tolist()[0].endswith("trial_0") and zoo.table["epoch"].tolist() == [5, 15, 5, 5, 5, 15]
    assert zoo.table["lr"].tolist() == [1e-3] * 6
    assert all(_computes(zoo, row, model) for row, model in enumerate(models))
    some = import_zoo("model-zoo", tmp_path / "dataset.pt", tmp_path / "some", ["epochs=15"])
    assert some.table["split"].tolist() == ["train", "test"]


@pytest.mark.parametrize("stacked", [True, False])
def test_flattened_networks(tmp_path: Path, stacked: bool):
    """Layer by layer: the weight in the order of memory, then the bias."""
    models = [Holder(configuration(nlin="tanh")).eval() for _ in range(3)]
    rows = [torch.cat([p.flatten() for p in m.state_dict().values()]) for m in models]
    assert rows[0].numel() == 2464
    data = _data_set(torch.stack(rows) if stacked else rows, 3, 0, False)
    _preprocessed(tmp_path / "dataset.pt", {"testset": data})
    zoo = import_zoo("model-zoo", tmp_path / "dataset.pt", tmp_path / "zoo", ["activation=tanh"])
    assert all(_computes(zoo, row, model) for row, model in enumerate(models))
    with pytest.raises(ConversionError, match="give activation=tanh"):
        import_zoo("model-zoo", tmp_path / "dataset.pt", tmp_path / "other")


class Attack:
    def __reduce__(self):
        return (os.system, ("touch attacked",))


def _first(root: Path) -> Path:
    return sorted(root.glob("*/checkpoint_*50/checkpoints"))[0]


def _change(root: Path, name: str, value: object) -> None:
    torch.save({**torch.load(_first(root), weights_only=True), name: value}, _first(root))


def _result(root: Path, text: str) -> None:
    (_first(root).parent.parent / "result.json").write_text(text)


HOSTILE = {
    "code": lambda r: _change(r, "module_list.0.weight", Attack()),
    "other names": lambda r: _change(r, "conv1.weight", torch.zeros(3)),
    "another architecture": lambda r: _change(r, "module_list.0.weight", torch.zeros(64, 3, 3, 3)),
    "scalar weight": lambda r: _change(r, "module_list.0.weight", torch.zeros(())),
    "bias of other length": lambda r: _change(r, "module_list.0.bias", torch.zeros(3)),
    "whole numbers": lambda r: _change(r, "module_list.0.bias", torch.zeros(8, dtype=torch.long)),
    "truncated": lambda r: _first(r).write_bytes(_first(r).read_bytes()[:500]),
    "no file": lambda r: _first(r).unlink(),
    "result is no json": lambda r: _result(r, "{"),
    "result is a list": lambda r: _result(r, "[1]\n"),
    "deep result": lambda r: _result(r, "[" * 100000),
    "infinite numbers": lambda r: _result(r, '{"training_iteration": 50, "test_acc": 1%s}\n' % ("0" * 400)),
    "no activation": lambda r: _result(r, '{"training_iteration": 50, "config": [1]}\n'),
    "odd activation": lambda r: _result(r, '{"training_iteration": 50, "config": {"model::nlin": "swoosh"}}\n'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_one_clear_error(
    trials: tuple[Path, dict[str, Holder]], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    HOSTILE[name](trials[0])
    with pytest.raises(GraphNFNError) as caught:
        import_zoo("model-zoo", trials[0], tmp_path / "zoo")
    assert len(str(caught.value)) > 30 and "\n" not in str(caught.value)
    assert not (tmp_path / "attacked").exists() and not (tmp_path / "zoo").exists()


@pytest.mark.parametrize("content", [{"trainset": [1]}, {"other": 1}, [1], {"trainset": Attack()}])
def test_hostile_preprocessed_files(tmp_path: Path, content: object, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "dataset.pt")
    with pytest.raises(GraphNFNError):
        import_zoo("model-zoo", tmp_path / "dataset.pt", tmp_path / "zoo")
    assert not (tmp_path / "attacked").exists()


def test_damaged_files_are_read_or_refused(trials: tuple[Path, dict[str, Holder]], refusals: Callable[..., int]):
    file = _first(trials[0])
    assert refusals("model-zoo", trials[0], [file, file.parent.parent / "result.json"], 40) > 15
