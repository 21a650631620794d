"""Model zoos of Schürholt et al. (2022, arXiv 2209.14764): CNNs trained under Ray Tune, checkpoint by checkpoint.

Raw zoos are folders of trials: ``<trial>/result.json`` (one JSON object a line and epoch, with ``config``) and
``<trial>/checkpoint_<epoch>/checkpoints``, a state dict ``module_list.<i>.*``. Preprocessed zoos are one ``.pt`` file
with the official splits; see :mod:`converters.public_zoos.model_zoo_file`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.public_zoos.model_zoo_file import stored_networks
from converters.public_zoos.networks import Network, Networks, collect, is_number, require_folder
from converters.public_zoos.sirens import load_dict
from graphnfn.activations import as_activation
from graphnfn.chain import ChainBuilder
from graphnfn.errors import ConversionError
from graphnfn.spec import NetSpec, SpatialOp

_KEY = re.compile(r"module_list\.(\d{1,4})\.(weight|bias)")
_CHECKPOINT = re.compile(r"checkpoint_(\d{1,9})")
_MOST_BYTES = 1 << 28
_SHARES = (0.7, 0.15)
"""Of train and val; the rest is test."""


@dataclass(frozen=True)
class Form:
    """One of the published architectures: kernels 2-d convolutions, then two dense layers.

    Args:
        channels: of the convolutions.
        kernels: sides of their kernels.
        pooled: how many of them are followed by 2x2 max pooling, before the activation.
        flat: inputs of the first dense layer.
        side: of the images.
    """

    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    pooled: int
    flat: int
    side: int

    def shapes(self, into: int) -> list[tuple[int, ...]]:
        """Weights in order, for images of ``into`` channels."""
        pairs = zip(self.channels, (into, *self.channels), self.kernels, strict=False)
        return [*((out, n, k, k) for out, n, k in pairs), (20, self.flat), (10, 20)]


FORMS: dict[str, Form] = {
    "CNN": Form((8, 6, 4), (5, 5, 2), 2, 36, 28),
    "CNN2": Form((6, 9, 6), (5, 5, 2), 2, 54, 28),
    "CNN3": Form((16, 32, 15), (3, 3, 3), 3, 60, 32),
}
"""``model::type`` -> architecture; ResNet-18 zoos are no chains."""
_ACTIVATIONS = {"leakyrelu": "leaky_relu"}


@dataclass(frozen=True)
class ModelZooReader:
    """Reads a folder of trials, or a preprocessed ``.pt`` file.

    Args:
        epochs: those to take; none given: the last of every trial (folders), all (files).
        activation: of all networks, where the zoo does not tell.

    Folders have no official split (the published one follows the order in which a file system lists them); ours
    shuffles the sorted names with ``random.Random(42)`` and cuts 70 : 15 : 15 by trial, as the published code would.

    Example:
        >>> ModelZooReader(epochs=(5, 15, 25)).epochs
        (5, 15, 25)
    """

    epochs: tuple[int, ...] = ()
    activation: str | None = None

    def read(self, path: Path) -> Networks:
        """Read the networks; those with NaN or infinite weights and missing epochs are left out, as in published code.

        ``about["left_out"]`` of the zoo counts them.

        Raises:
            ConversionError: a file is missing, damaged or unsafe, or holds another architecture.
        """
        left_out: list[str] = []
        about: dict[str, Any] = {"layout": "model-zoo", "source": path.resolve().name}
        networks = self._stored(path, left_out) if path.is_file() else self._trials(path, left_out)
        first = next(networks, None)
        if first is None:
            raise ConversionError(f"{path}: no network of epochs {self.epochs or 'any'}; left out: {left_out[:3]}")
        found = collect(chain([first], networks), about)
        return Networks(found.stacks, found.table, {**about, "left_out": len(left_out)})

    def _trials(self, root: Path, left_out: list[str]) -> Iterator[Network]:
        require_folder(root)
        trials = sorted(p for p in root.iterdir() if (p / "result.json").is_file())
        if not trials:
            raise ConversionError(f"{root}: no folder with a result.json in it; give the folder of the trials")
        for trial, split in zip(trials, _shuffled_splits(len(trials)), strict=True):
            results = read_results(trial / "result.json")
            told = (line.get("config") for line in results.values())
            config = next((c for c in told if isinstance(c, Mapping)), {})
            have = {int(m[1]): p for p in trial.iterdir() if (m := _CHECKPOINT.fullmatch(p.name))}
            for epoch in self.epochs or sorted(have)[-1:]:
                if epoch not in have:
                    left_out.append(f"{trial}/checkpoint_{epoch}")
                    continue
                file = have[epoch] / "checkpoints"
                facts = results.get(epoch, {})
                row = {"trial": trial.name, "epoch": epoch, "split": split, **_row({**facts, "config": config})}
                yield from self._network(load_dict(file), config, row, file, left_out)

    def _stored(self, path: Path, left_out: list[str]) -> Iterator[Network]:
        for stored in stored_networks(path):
            epoch = stored.facts.get("training_iteration", stored.epoch)
            if not self.epochs or epoch in self.epochs:
                row = {"trial": stored.trial, "epoch": epoch, "split": stored.split, **_row(stored.facts)}
                state = stored.state if isinstance(stored.state, dict) else cut_vector(stored.state, path)
                yield from self._network(state, stored.facts, row, path, left_out)

    def _network(
        self, state: Mapping[str, Any], config: Mapping[str, Any], row: dict[str, Any], where: Path, left_out: list[str]
    ) -> Iterator[Network]:
        kind = self.activation or config.get("model::nlin")
        if not isinstance(kind, str):
            raise ConversionError(f"{where}: the zoo does not tell the activation; give activation=tanh, for example")
        tensors = ordered(state, where)
        shapes = [tuple(w.shape) for w, _ in tensors]
        form = next((n for n, f in FORMS.items() if f.shapes(shapes[0][1] if shapes[0][1:] else 0) == shapes), None)
        if form is None or any(b is not None and b.shape != w.shape[:1] for w, b in tensors):
            known = ", ".join(FORMS)
            raise ConversionError(f"{where}: weights of shapes {shapes[:8]}; supported are the published {known}")
        biased = tuple(b is not None for _, b in tensors)
        spec = form_spec(form, shapes[0][1], _ACTIVATIONS.get(kind, kind), biased)
        parts = [
            (n, t) for i, (w, b) in enumerate(tensors) for n, t in ((f"{_name(i)}.weight", w), (f"{_name(i)}.bias", b))
        ]
        named = {name: tensor for name, tensor in parts if tensor is not None}
        if all(t.isfinite().all() for t in named.values()):
            yield Network(spec, named, {"model": form, "activation": _ACTIVATIONS.get(kind, kind), **row})
        else:
            left_out.append(where.as_posix())


@lru_cache(maxsize=256)
def form_spec(form: str, into: int, activation: str, biased: tuple[bool, ...]) -> NetSpec:
    """A published architecture: pooling comes before the activation, the last map is flattened channel by channel.

    Example:
        >>> form_spec("CNN", 1, "tanh", (True,) * 5).num_params, form_spec("CNN3", 3, "gelu", (True,) * 5).num_params
        (2464, 10853)
    """
    facts = FORMS[form]
    network = ChainBuilder(into, (into, facts.side, facts.side))
    convs = len(facts.channels)
    for i, shape in enumerate(facts.shapes(into)):
        name, bias = _name(i), f"{_name(i)}.bias" if biased[i] else None
        if i < convs:
            network.conv(f"{name}.weight", shape, bias=bias)
        else:
            network.linear(f"{name}.weight", shape, bias=bias)
        if i < facts.pooled:
            network.spatial(SpatialOp("max_pool", (2, 2), (2, 2), (0, 0), (1, 1)))
        if i <= convs:
            network.activation(as_activation(activation))
        if i == convs - 1:
            network.spatial(SpatialOp("flatten"))
    return network.build()


def _name(layer: int) -> str:
    return f"conv{layer}" if layer < 3 else f"dense{layer - 3}"


def ordered(state: Mapping[str, Any], where: Path) -> list[tuple[Tensor, Tensor | None]]:
    """Weights with their biases in the order of ``module_list``, whose numbers depend on dropout.

    Raises:
        ConversionError: a name is unknown, or a layer has no weight.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        found = _KEY.fullmatch(key)
        if found is None or not isinstance(value, Tensor) or not value.is_floating_point():
            raise ConversionError(f"{where}: got {key[:60]!r}; expected weights called module_list.<number>.weight")
        layers.setdefault(int(found[1]), {})[found[2]] = value
    if not layers or any("weight" not in parts for parts in layers.values()):
        raise ConversionError(f"{where}: has layers {sorted(layers)[:8]}; expected each with a weight")
    return [(layers[i]["weight"], layers[i].get("bias")) for i in sorted(layers)]


def cut_vector(vector: Tensor, where: Path) -> dict[str, Tensor]:
    """A flattened network: layer by layer its weight in the order of memory, then its bias.

    Raises:
        ConversionError: no published architecture has so many parameters.
    """
    for form in FORMS.values():
        for into in (1, 3):
            shapes = [s for shape in form.shapes(into) for s in (shape, shape[:1])]
            sizes = [torch.Size(s).numel() for s in shapes]
            if sum(sizes) == vector.numel():
                parts = vector.reshape(-1).split(sizes)
                names = [f"module_list.{i // 2}.{('weight', 'bias')[i % 2]}" for i in range(len(parts))]
                return {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
    raise ConversionError(f"{where}: vectors of {vector.numel()} numbers; no published architecture has so many")


def read_results(path: Path) -> dict[int, dict[str, Any]]:
    """Epoch -> what was measured, from the lines of ``result.json``.

    Raises:
        ConversionError: it is too large or no such file.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ConversionError(f"{path}: has {path.stat().st_size} bytes; expected at most {_MOST_BYTES}")
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {int(line["training_iteration"]): line for line in lines}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConversionError(
            f"{path}: expected a JSON object a line with training_iteration ({type(error).__name__})"
        ) from error


def _row(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracies, losses and hyper-parameters as columns; ``model::dropout`` becomes ``dropout``."""
    measured = {k: v for k, v in facts.items() if k.endswith(("_acc", "_loss")) or k == "ggap"}
    row: dict[str, Any] = {k: float(v) for k, v in measured.items() if is_number(v)}
    config = facts["config"] if isinstance(facts.get("config"), Mapping) else facts
    for key, value in config.items():
        if key.startswith(("model::", "optim::")) or key == "seed":
            row[key.rpartition("::")[2]] = value
    if {"train_acc", "test_acc"} <= row.keys():
        row.setdefault("ggap", row["train_acc"] - row["test_acc"])
    told = ("nlin", "type")  # these are the columns activation and model
    return {k: v for k, v in row.items() if (isinstance(v, str) or is_number(v)) and k not in told}


def _shuffled_splits(count: int) -> list[str]:
    order = list(range(count))
    random.Random(42).shuffle(order)
    first, second = int(_SHARES[0] * count), int(_SHARES[1] * count)
    names = ["train"] * first + ["val"] * second + ["test"] * (count - first - second)
    split = [""] * count
    for place, name in zip(order, names, strict=True):
        split[place] = name
    return split
