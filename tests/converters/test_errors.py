"""Bad input: one clear error each, and nothing executed."""

from __future__ import annotations

import os
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
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
        return self.a(x) + y


class Forward(nn.Module):
    """``function(x, *layers)`` as a module."""

    def __init__(self, function, *layers) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def tied():
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    return module


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
    "divisor_override": nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2, divisor_override=3)),
    "avg_pool2d: divisor": Forward(lambda x, a: F.avg_pool2d(a(x), 2, divisor_override=3), nn.Conv2d(1, 2, 3)),
    "return_indices": nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, return_indices=True)),
    r"Hardtanh on \[0": Forward(lambda x, a: F.hardtanh(a(x), 0, 1), nn.Linear(3, 2)),
    "threshold": Forward(lambda x, a: F.softplus(a(x), 2.0, 1.0), nn.Linear(3, 2)),
    "pow: no rule": Forward(lambda x, a: 2 ** F.relu(a(x)), nn.Linear(3, 2)),
    "powers of a ReLU": Forward(lambda x, a: torch.tanh(a(x)) ** 2, nn.Linear(3, 2)),
    "end of one chain": Forward(lambda x, a: 3 * a(x), nn.Linear(3, 2)),
    "a factor 3.0": Forward(lambda x, a: F.relu(3 * a(x)), nn.Linear(3, 2)),
    "batch axis|from axis 0": Forward(lambda x, a: torch.flatten(a(x)), nn.Conv2d(1, 2, 3)),
    "reshape to": Forward(lambda x, a: a(x).view(4, -1), nn.Conv2d(1, 2, 3)),
    "Linear on channels": nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Linear(28, 5)),
    "input in front of a Linear": nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)),
    "behind a Flatten": nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Conv1d(4, 4, 3)),
    "softmax over axis 0": nn.Sequential(nn.Linear(3, 2), nn.Softmax(0)),
    "softmax over axis 1": nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Softmax(1)),
    "72 features": nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.BatchNorm1d(72)),
    "3 slopes for 4": nn.Sequential(nn.Linear(2, 4), nn.PReLU(3)),
    "used twice": Forward(lambda x, a: a(a(x)), nn.Linear(3, 3)),
    "one tensor": tied(),
    "computed from other": nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))),
    "no shape yet": nn.Sequential(nn.LazyLinear(3)),
    "meta device": nn.Sequential(nn.Linear(3, 2, device="meta")),
    "complex64": nn.Sequential(nn.Linear(3, 2, dtype=torch.complex64)),
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


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes(tmp_path, zipped):
    """Whatever a flipped byte breaks, it is one clear error, or a network with other numbers."""
    path = tmp_path / "model.pth"
    torch.save(sequential().state_dict(), path, _use_new_zipfile_serialization=zipped)
    good, places = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(5):
            data[places.randrange(min(1200, len(data)))] = places.randrange(256)
        path.write_bytes(bytes(data))
        try:
            convert(path, activation="relu")
        except ConversionError:
            refused += 1
    assert refused > 50


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
        module.state_dict()["0.weight"][1, 0] = value
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
        convert(3)  # type: ignore[arg-type]
    with pytest.raises(ConversionError, match="activations itself"):
        convert(sequential(), activation="relu")
    with pytest.raises(ConversionError, match="activations itself"):
        convert(sequential(), omega=30.0)
    with pytest.raises(ConversionError, match="omega"):
        convert(good, activation="relu", omega=30.0)
    with pytest.raises(ConversionError, match="example_input"):
        convert(good, activation="relu", example_input=torch.zeros(1, 2))
    with pytest.raises(ConversionError, match="one tensor"):
        convert(tied().state_dict(), activation="relu")


def test_restore_into_something_else():
    graph = convert(sequential())
    with pytest.raises(ConversionError, match="like="):
        restore(graph, like=nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1)))
    with pytest.raises(ConversionError, match="to_data_list"):
        restore(gn.NeuralGraph.batch([graph, graph]), like=sequential())


def test_restore_refuses_values_that_a_type_cannot_hold():
    module = sequential()
    graph = convert(module)
    graph.edge_attr.mul_(1e30)
    assert restore(graph, like=module)["0.weight"].abs().max() > 1e25
    with pytest.raises(ConversionError, match="not finite as torch.float16"):
        restore(graph, like=module.half())


def test_example_input_that_does_not_run():
    with pytest.raises(ConversionError, match="example_input"):
        convert(sequential(), example_input=torch.zeros(1, 3))
