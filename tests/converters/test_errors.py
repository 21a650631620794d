"""Bad input: one clear error each, and nothing executed."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import graphnfn as gn
from converters import ConversionError, convert, restore


def sequential():
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x))) + x


class TwoInputs(Skip):
    def forward(self, x, y):
        return self.a(x)


class DataDependent(Skip):
    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.b(x)


UNSUPPORTED = {
    "LayerNorm": nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)),
    "groups=2": nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)),
    "padding_mode": nn.Sequential(nn.Conv2d(1, 4, 3, padding_mode="circular", padding=1)),
    "branches": Skip(),
    "two inputs": TwoInputs(),
    "cannot be traced": DataDependent(),
    "batch norm after an activation": nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 1)),
    "running statistics": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False)),
    "two activations": nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Tanh(), nn.Linear(3, 1)),
    "no Linear or Conv": nn.Sequential(nn.ReLU()),
    "Embedding": nn.Sequential(nn.Embedding(4, 2)),
    "mixes neurons": nn.Sequential(nn.Linear(2, 3), nn.Softmax(1), nn.Linear(3, 1)),
    "cannot chain": nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(4, 1)),
    "not symmetric": nn.Sequential(nn.Conv2d(1, 2, 2, padding="same")),
}


@pytest.mark.parametrize("words", UNSUPPORTED)
def test_unsupported_modules(words):
    with pytest.raises(ConversionError, match=words):
        convert(UNSUPPORTED[words])


def test_missing_file(tmp_path):
    with pytest.raises(ConversionError, match="no such file"):
        convert(tmp_path / "nothing.safetensors")


def test_unknown_suffix(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ConversionError, match="supported"):
        convert(tmp_path / "model.bin")


@pytest.mark.parametrize("keep", [4, 40, 200])
def test_truncated_safetensors(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_file(sequential().state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConversionError, match="damaged"):
        convert(path, activation="relu")


@pytest.mark.parametrize("keep", [0, 10, 700])
def test_truncated_torch_file(tmp_path, keep):
    path = tmp_path / "model.pth"
    torch.save(sequential().state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConversionError, match="damaged|holds more"):
        convert(path, activation="relu")


class Bomb:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickles_are_never_run(tmp_path, how):
    trace, path = tmp_path / "executed", tmp_path / "model.pth"
    if how == "torch":
        torch.save({"weight": Bomb(trace)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Bomb(trace)}))
    with pytest.raises(ConversionError, match="run code|damaged"):
        convert(path, activation="relu")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))  # noqa: S301  (control: the bomb does work)
    assert trace.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights(value):
    module = sequential()
    with torch.no_grad():
        module[0].weight[1, 0] = value
    with pytest.raises(ConversionError, match=r"0\.weight.*1 NaN or infinite"):
        convert(module)
    with pytest.raises(ConversionError, match="NaN or infinite"):
        convert(module.state_dict(), activation="relu")


def test_state_dicts_that_do_not_work():
    good = sequential().state_dict()
    with pytest.raises(ConversionError, match="activation="):
        convert(good)
    with pytest.raises(ConversionError, match="state dict"):
        convert({})
    with pytest.raises(ConversionError, match="cannot chain"):
        convert(good | {"2.weight": torch.zeros(1, 5)}, activation="relu")
    with pytest.raises(ConversionError, match=r"0\.bias"):
        convert(good | {"0.bias": torch.zeros(3)}, activation="relu")
    with pytest.raises(ConversionError, match="in_proj_weight"):
        convert(good | {"attention.in_proj_weight": torch.zeros(3, 3)}, activation="relu")
    with pytest.raises(ConversionError, match="no dense or convolution"):
        convert({"bias": torch.zeros(3)}, activation="relu")
    with pytest.raises(ConversionError, match="int"):
        convert(3)
    with pytest.raises(ConversionError, match="activations itself"):
        convert(sequential(), activation="relu")


def test_restore_into_something_else():
    graph = convert(sequential())
    with pytest.raises(ConversionError, match="like="):
        restore(graph, like=nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1)))
    with pytest.raises(ConversionError, match="to_data_list"):
        restore(gn.NeuralGraph.batch([graph, graph]), like=sequential())


def test_example_input_that_does_not_run():
    with pytest.raises(ConversionError, match="example_input"):
        convert(sequential(), example_input=torch.zeros(1, 3))
