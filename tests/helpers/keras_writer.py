"""Keras files as Keras 2 writes them, made with h5py alone."""

from __future__ import annotations

import json
import zipfile

import h5py
import numpy as np


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


def archive(**files):
    def make(path):
        with zipfile.ZipFile(path, "w") as made:
            for name, content in files.items():
                made.writestr(name.replace("_", "."), content)
        return path

    return make
