"""CNN Wild Park: configurations that are objects, residual sums, lists with scores, hostile files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

import graphnfn as gn
from converters.public_zoos import export_zoo, import_zoo
from graphnfn.errors import ConversionError, GraphNFNError
from graphnfn.functional import run

ACTS = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "leaky_relu": F.leaky_relu}


@dataclass(frozen=True)
class Config:
    """As the authors' dataclass of the same fields; a checkpoint has it inside an OmegaConf container."""

    n_layers: int
    n_classes: int
    channels: list[int]
    kernel_size: list[int]
    stride: list[int]
    padding: list[int]
    residual: list[int]
    activation: list[str]


def config(channels: list[int], kernels: list[int], residual: list[int], acts: list[str]) -> Config:
    layers = len(kernels)
    return Config(layers, 10, channels, kernels, [1] * layers, [k // 2 for k in kernels], residual, acts)


CONFIGS = [
    config([3, 4, 6], [3, 5], [-1, -1], ["relu", "none"]),
    config([3, 4, 8, 5, 6], [3, 7, 3, 5], [-1, -1, 0, 1], ["relu", "tanh", "leaky_relu", "relu"]),
    config([3, 8, 4, 4], [3, 3, 3], [-1, -1, 0], ["gelu", "sigmoid", "tanh"]),
]


class WildCNN(nn.Module):
    """What the dataset's paper describes: a residual is added before the activation, on the channels that both have."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        pairs = zip(c.channels, c.channels[1:], c.kernel_size, strict=False)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, k, padding=k // 2) for a, b, k in pairs)
        self.fc = nn.Linear(c.channels[-1], c.n_classes)
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for layer, r, act in zip(self.layers, self.c.residual, self.c.activation, strict=True):
            z = layer(maps[-1] if maps else x)
            if r >= 0:
                both = min(z.shape[1], maps[r].shape[1])
                z = torch.cat([z[:, :both] + maps[r][:, :both], z[:, both:]], dim=1)
            maps.append(z if act == "none" else ACTS[act](z))
        return self.fc(maps[-1].mean((2, 3)))


def checkpoint(model: WildCNN, iteration: int, form: str) -> dict[str, Any]:
    """As the authors' Ray trainable saves it, with the whole configuration among the results."""
    tune = {"model": model.c, "data": {"path": Path("/x/dataset.pt")}, "lr": 1e-3}
    held = OmegaConf.create(tune).model if form == "omegaconf" else dict(vars(model.c))
    results = {"test/acc": 0.25 + iteration / 1000, "config": tune if form == "omegaconf" else {}}
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    return {
        "model": model.state_dict(), "optimizer": optimizer, "config": held, "iteration": iteration,
        "last_result": results, "ray_version": "2.4.0",
    }  # fmt: skip


@contextmanager
def authors_names() -> Iterator[None]:
    """Inside, the dataclass is pickled under the name of the authors' module, which a reader does not have."""
    module = "experiments.cnn_generalization.dataset.cnn_sampler"
    parents = (module.rpartition(".")[0], "experiments.cnn_generalization")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "__module__", module)
        for name in (*parents, module):
            patch.setitem(sys.modules, name, sys.modules[__name__])
        yield


@pytest.fixture
def park(tmp_path: Path) -> tuple[Path, dict[str, WildCNN]]:
    """Three trials of two checkpoints."""
    root, models = tmp_path / "dataset", {}
    listed: dict[str, dict[str, list]] = {s: {"path": [], "score": [], "step": []} for s in ("train", "val", "test")}
    for i, (c, split) in enumerate(zip(CONFIGS, listed, strict=True)):
        for step in (10, 200):
            file = f"cifar10_zooV2/trial_{i}/checkpoint_{step:06d}/checkpoint.pt"
            models[file] = WildCNN(c)
            (root / file).parent.mkdir(parents=True)
            with authors_names():
                torch.save(checkpoint(models[file], step, "omegaconf" if i else "plain"), root / file)
            for column, value in (("path", file), ("score", 0.5 + i / 10), ("step", step)):
                listed[split][column].append(value)
    (root / "cnn_park_splits.json").write_text(json.dumps(listed))
    return root, models


def test_the_fixture_holds_objects_of_foreign_classes(park: tuple[Path, dict[str, WildCNN]]):
    file = park[0] / "cifar10_zooV2/trial_1/checkpoint_000010/checkpoint.pt"
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    assert "omegaconf.dictconfig.DictConfig" in names and "pathlib.PosixPath" in names
    assert "experiments.cnn_generalization.dataset.cnn_sampler.Config" in names


def test_networks_compute_what_the_park_trained(park: tuple[Path, dict[str, WildCNN]], tmp_path: Path):
    root, models = park
    zoo = import_zoo("cnn-wild-park", root, tmp_path / "zoo")
    assert len(zoo) == 6 and len(zoo.specs) == 3
    images = torch.randn(2, 3, 32, 32)
    for row, file in enumerate(zoo.table["file"]):
        model = models[file]
        assert torch.allclose(run(zoo.batch([row]), images)[0], model(images), atol=1e-5)
        got = zoo.batch([row]).stacks()[0].unpack()
        assert all(torch.equal(got[name][0], value) for name, value in model.state_dict().items())


def test_a_residual_that_is_dropped_would_be_noticed(park: tuple[Path, dict[str, WildCNN]], tmp_path: Path):
    """The check above has power: without its sums the second network computes something else."""
    root, models = park
    zoo = import_zoo("cnn-wild-park", root, tmp_path / "zoo")
    images = torch.randn(2, 3, 32, 32)
    stack = zoo.batch([2]).stacks()[0]
    own = len([b for b in stack.spec.blocks if not b.param.startswith("skip.")])
    without = type(stack)(stack.spec, stack.nodes, (*stack.blocks[:own], *(0 * b for b in stack.blocks[own:])))
    assert len(stack.blocks) == own + 2
    assert not torch.allclose(run(without, images)[0], models[zoo.table["file"][2]](images), atol=1e-3)


def test_table_and_splits(park: tuple[Path, dict[str, WildCNN]], tmp_path: Path):
    zoo = import_zoo("cnn-wild-park", park[0], tmp_path / "zoo")
    assert zoo.table["split"].tolist() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert zoo.table["test_accuracy"].tolist() == pytest.approx([0.5, 0.5, 0.6, 0.6, 0.7, 0.7])
    assert zoo.table["activations"][0] == "relu,identity" and zoo.table["residual"][2] == "-1,-1,0,1"
    last = import_zoo("cnn-wild-park", park[0], tmp_path / "last", ["steps=200"])
    assert last.table["step"].tolist() == [200] * 3 and last.table["trial"].tolist() == [
        "trial_0",
        "trial_1",
        "trial_2",
    ]


def test_without_a_list_the_files_tell_their_scores(park: tuple[Path, dict[str, WildCNN]], tmp_path: Path):
    (park[0] / "cnn_park_splits.json").unlink()
    zoo = import_zoo("cnn-wild-park", park[0], tmp_path / "zoo")
    assert zoo.table["test_accuracy"].tolist() == pytest.approx([0.26, 0.45] * 3) and "split" not in zoo.table


def test_models_are_exact_on_networks_with_residuals(park: tuple[Path, dict[str, WildCNN]], tmp_path: Path):
    zoo = import_zoo("cnn-wild-park", park[0], tmp_path / "zoo", ["steps=200"])
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=8, rounds=1), specs=zoo.specs)
    for row in range(3):
        gn.testing.assert_equivariant(model, zoo.batch([row]))
    assert model(zoo.batch([0, 1, 2])).shape == (3, 1)


class Attack:
    def __reduce__(self):
        return (os.system, ("touch attacked",))


class Evaluated:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('attacked').touch()",))


def _change(root: Path, entry: str, value: object) -> None:
    file = root / "cifar10_zooV2/trial_0/checkpoint_000010/checkpoint.pt"
    content = torch.load(file, weights_only=True)
    if entry in content["config"]:
        content["config"][entry] = value
    else:
        content[entry] = value
    torch.save(content, file)


HOSTILE = {
    "code": lambda r: _change(r, "last_result", Attack()),
    "evaluated": lambda r: _change(r, "config", Evaluated()),
    "path that acts": lambda r: _change(r, "config", _Touch()),
    "no config": lambda r: _change(r, "config", None),
    "no model": lambda r: _change(r, "model", [1]),
    "foreign activation": lambda r: _change(r, "activation", ["relu", "swoosh"]),
    "fewer kernels": lambda r: _change(r, "kernel_size", [3]),
    "other channels": lambda r: _change(r, "channels", [3, 5, 6]),
    "negative": lambda r: _change(r, "channels", [3, -1, 6]),
    "text": lambda r: _change(r, "channels", "3,4,6"),
    "later residual": lambda r: _change(r, "residual", [-1, 1]),
    "residual of itself": lambda r: _change(r, "residual", [0, -1]),
    "deep config": lambda r: _change(r, "config", _deep()),
    "truncated": lambda r: _truncate(r / "cifar10_zooV2/trial_0/checkpoint_000010/checkpoint.pt"),
    "infinite score": lambda r: (r / "cnn_park_splits.json").write_text(
        json.dumps(
            {
                "train": {
                    "path": ["cifar10_zooV2/trial_0/checkpoint_000010/checkpoint.pt"],
                    "score": [10**400],
                    "step": [1],
                }
            }
        )
    ),
    "scores": lambda r: (r / "cnn_park_splits.json").write_text(
        json.dumps(
            {
                "train": {
                    "path": ["cifar10_zooV2/trial_0/checkpoint_000010/checkpoint.pt"],
                    "score": ["good"],
                    "step": [1],
                }
            }
        )
    ),
}


class _Touch:
    def __reduce__(self):
        return (Path.touch, (Path("attacked"),))


def _deep() -> dict:
    out: dict = {}
    for _ in range(40):
        out = {"channels": out}
    return out


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_one_clear_error(
    park: tuple[Path, dict[str, WildCNN]], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    HOSTILE[name](park[0])
    with pytest.raises(GraphNFNError) as caught:
        import_zoo("cnn-wild-park", park[0], tmp_path / "zoo")
    assert len(str(caught.value)) > 30 and "\n" not in str(caught.value)
    assert not (tmp_path / "attacked").exists() and not (tmp_path / "zoo").exists()


def test_the_layout_is_read_only(park: tuple[Path, dict[str, WildCNN]], tmp_path: Path):
    zoo = import_zoo("cnn-wild-park", park[0], tmp_path / "zoo")
    with pytest.raises(ConversionError, match="read only; written are small-cnn-zoo"):
        export_zoo("cnn-wild-park", zoo, tmp_path / "out")


def test_damaged_files_are_read_or_refused(park: tuple[Path, dict[str, WildCNN]], refusals: Callable[..., int]):
    files = sorted(park[0].rglob("*.pt"))[2:4]
    assert refusals("cnn-wild-park", park[0], [*files, park[0] / "cnn_park_splits.json"], 40) > 15
