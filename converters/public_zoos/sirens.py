"""Implicit neural representations saved one by one as state dicts: MLPs with sin(omega (Wx + b))."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters import torchfile
from converters.public_zoos.listed import SPLITS
from converters.public_zoos.networks import require_finite
from graphnfn.chain import mlp_spec
from graphnfn.errors import ConversionError, ZooError
from graphnfn.spec import NetSpec
from graphnfn.zoo import Zoo

NAMES = "seq.{}"
"""Layers are called so in our zoos, whatever the public layout calls them."""
_MOST_LAYERS = 64


@lru_cache(maxsize=256)
def siren_spec(sizes: tuple[int, ...], omega: float) -> NetSpec:
    """Sine layers of these sizes, and a linear last one.

    Example:
        >>> siren_spec((2, 32, 32, 1), 30.0).num_params
        1185
    """
    return mlp_spec(sizes, "sin", omega=omega, names=NAMES)


def load_dict(path: Path) -> dict[str, Any]:
    """The named values in a file that ``torch.save`` made of plain data.

    Raises:
        ConversionError: it is missing, damaged, unsafe, or holds something else.
    """
    if not path.is_file():
        raise ConversionError(f"{path}: no such file; copy the whole zoo, or correct the list of splits")
    data = torchfile.load(path)
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise ConversionError(f"{path}: holds a {type(data).__name__}; expected a state dict")
    return dict(data)


def siren_of(state: Mapping[str, Any], pattern: re.Pattern[str], omega: float, where: Path) -> tuple[NetSpec, dict]:
    """The architecture and the tensors of a state dict, whatever the order of its keys.

    Args:
        state: names that match ``pattern`` and 2-d weights, 1-d biases.
        pattern: its groups give a layer's number, and ``weight`` or ``bias``.
        omega: frequency of all sine layers.
        where: the file, for errors.

    Raises:
        ConversionError: a name is unknown, a part is missing, or shapes do not chain.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        found = pattern.fullmatch(key)
        if found is None or not isinstance(value, Tensor):
            raise ConversionError(f"{where}: got {key[:60]!r}; expected tensors called like {pattern.pattern!r}")
        if value.dim() != (2 if found[2] == "weight" else 1):
            raise ConversionError(f"{where}: {key!r} has shape {tuple(value.shape)}; expected that of a linear layer")
        require_finite(f"{where}: {key!r}", value)
        layers.setdefault(int(found[1][:9]), {})[found[2]] = value
    order = sorted(layers)
    if not 1 < len(order) <= _MOST_LAYERS or any(len(parts) != 2 for parts in layers.values()):
        raise ConversionError(f"{where}: has layers {order[:8]}; expected two or more, each with weight and bias")
    weights = [layers[i]["weight"] for i in order]
    sizes = (weights[0].shape[1], *(w.shape[0] for w in weights))
    fits = all(tuple(w.shape) == (b, a) for w, a, b in zip(weights, sizes, sizes[1:], strict=False))
    if not fits or 0 in sizes or any(layers[i]["bias"].shape[0] != n for i, n in zip(order, sizes[1:], strict=True)):
        raise ConversionError(f"{where}: the layers do not chain: {[tuple(w.shape) for w in weights]}")
    tensors = {f"{NAMES.format(k)}.{part}": layers[i][part] for k, i in enumerate(order) for part in ("weight", "bias")}
    return siren_spec(sizes, omega), tensors


def save_siren(
    spec: NetSpec, tensors: Mapping[str, Tensor], names: list[str], path: Path, extra: dict[str, Any]
) -> None:
    """Write a network under the layout's names, weight before bias, layer by layer."""
    biases = {p.group: p.param for p in spec.node_params}
    state = {}
    for name, block in zip(names, spec.blocks, strict=True):
        state[f"{name}.weight"] = tensors[block.param]
        state[f"{name}.bias"] = tensors[biases[block.dst]]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**state, **extra}, path)


def require_sirens(zoo: Zoo, omega: float, columns: tuple[str, ...]) -> None:
    """Check that a zoo can be written as SIRENs.

    Raises:
        ZooError: a network is none, has another frequency, or the table lacks a column.
    """
    for spec in zoo.specs:
        sizes = [g.size for g in spec.groups]
        wanted = siren_spec(tuple(sizes), omega)
        same = [g.activations for g in spec.groups] == [g.activations for g in wanted.groups]
        shapes = [b.shape for b in spec.blocks] == [b.shape for b in wanted.blocks]
        if not same or not shapes or len(spec.node_params) != len(spec.blocks):
            kinds = [str(g.activations[0]) for g in spec.groups]
            raise ZooError(f"this layout holds sin({omega:g} (Wx + b)) layers with biases; got sizes {sizes}, {kinds}")
    missing = [c for c in columns if c not in zoo.table]
    if missing:
        raise ZooError(f"the table lacks columns {missing}, which this layout needs; it has {list(zoo.table)}")


def split_names(zoo: Zoo) -> list[str]:
    """The split of every network.

    Raises:
        ZooError: one is none of train, val and test.
    """
    splits = zoo.table["split"].astype(str).tolist()
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        raise ZooError(f"column 'split' has {unknown[:8]}; expected {SPLITS}")
    return splits


def image_numbers(zoo: Zoo) -> list[int]:
    """Column ``image`` where it numbers the networks one by one, the numbers of the rows otherwise."""
    if "image" in zoo.table and not zoo.table["image"].isna().to_numpy().any():
        numbers = zoo.labels("image").tolist()
        if len(set(numbers)) == len(numbers) and min(numbers) >= 0:
            return numbers
    return list(range(len(zoo)))
