"""Keras files that are damaged or hostile: one clear error, or a model that runs."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile

import h5py
import numpy as np
import pytest
import torch
from keras_writer import archive, entry, functional, plain, sequential, write_h5

from converters.keras import load_keras
from converters.keras.examples import example_inputs
from converters.keras.load import model
from converters.keras.store import places
from graphnfn.errors import ConversionError


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
