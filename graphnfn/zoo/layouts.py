"""Zoos whose ``spec.json`` describes the architecture in words instead of listing NetSpecs.

Two forms are read. ``{"architecture": "mlp", "sizes": [2, 32, 1], "activation": "sin", "omega_0": 30.0,
"output_activation": "tanh"}`` (the last two optional), and ``{"architecture": "cnn", "layers": [...], "activation":
"relu"}`` with layers in words: ``conv 1->16 3x3 stride 2 valid`` (or ``padding 1``), ``act``, ``max pool 2``,
``global average pool``, ``flatten``, ``dense 16->10``. An activation ``per network, column NAME`` is looked up in
the table. The k-th convolution (dense layer) owns the k-th tensor of its rank whose name ends in ``weight``, in
natural order, and the ``bias`` beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from graphnfn.activations import TABLE, Activation, as_activation
from graphnfn.chain import ChainBuilder
from graphnfn.errors import GraphNFNError, ZooError
from graphnfn.spec import NetSpec, SpatialOp

Shapes = Mapping[str, tuple[int, ...]]
"""Parameter name -> shape of one network."""

_CONV = re.compile(r"conv (\d+)->(\d+) (\d+)x(\d+)(?: stride (\d+))?(?: (?:(valid)|padding (\d+)))?")
_DENSE = re.compile(r"dense (\d+)->(\d+)")
_POOL = re.compile(r"max pool (\d+)")
_GRAMMAR = (
    "'conv 1->16 3x3 stride 2 valid', '... padding 1', 'act', 'max pool 2', 'global average pool', 'flatten', "
    "'dense 16->10'"
)


def described_specs(
    description: Mapping[str, Any], shapes: Shapes, count: int, column: Callable[[str], list[Any]]
) -> tuple[tuple[NetSpec, ...], Tensor]:
    """The specs that a description in words stands for, and per network the number of its spec, ``[count]``.

    Args:
        description: content of ``spec.json``.
        shapes: the stacked parameters of the zoo.
        count: number of networks.
        column: reads a column of the table.

    Raises:
        ZooError: the words are not understood, or do not fit the tensors.

    Example:
        >>> shapes = {"a0.weight": (4, 2), "a0.bias": (4,), "a1.weight": (1, 4), "a1.bias": (1,)}
        >>> words = {"architecture": "mlp", "sizes": [2, 4, 1], "activation": "tanh"}
        >>> specs, number = described_specs(words, shapes, 3, list)
        >>> str(specs[0].groups[1].activations[0]), number
        ('tanh', tensor([0, 0, 0]))
    """
    architecture = description.get("architecture")
    builders = {"mlp": _mlp, "cnn": _cnn}
    if architecture not in builders:
        raise ZooError(f"spec.json has architecture {architecture!r}; expected one of {sorted(builders)}")
    words = _field(description, "activation", str)
    per_network = re.search(r"per network, column (\w+)", words)
    names = [str(v) for v in column(per_network[1])] if per_network else [words]
    kinds = sorted(set(names))
    unknown = [kind for kind in kinds if kind not in TABLE]
    if unknown:
        raise ZooError(f"the zoo has activation {unknown[0]!r}; known: {', '.join(TABLE)}")
    omega = description.get("omega_0")
    try:
        specs = tuple(builders[architecture](description, shapes, as_activation(kind, omega)) for kind in kinds)
    except ZooError:
        raise
    except GraphNFNError as error:
        raise ZooError(f"the layers in spec.json do not chain: {error}") from error
    return specs, torch.tensor([kinds.index(n) for n in names]).expand(count)


def _mlp(description: Mapping[str, Any], shapes: Shapes, activation: Activation) -> NetSpec:
    sizes = _field(description, "sizes", list)
    weights, last = _Weights(shapes), len(sizes) - 2
    chain = ChainBuilder(sizes[0], (sizes[0],))
    for i, (into, out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        name, bias = weights.next((out, into))
        chain.linear(name, (out, into), bias=bias)
        if i < last:
            chain.activation(activation)
        elif "output_activation" in description:
            chain.activation(as_activation(_field(description, "output_activation", str)))
    return chain.build()


def _cnn(description: Mapping[str, Any], shapes: Shapes, activation: Activation) -> NetSpec:
    layers = [str(layer) for layer in _field(description, "layers", list)]
    first = _CONV.fullmatch(layers[0]) if layers else None
    if first is None:
        raise ZooError(f"the first layer of a cnn is {layers[:1]}; expected a convolution such as 'conv 1->16 3x3'")
    side = re.search(r"(\d+)x(\d+)", str(description.get("input", "")))
    channels = int(first[1])
    chain = ChainBuilder(channels, (channels, int(side[1]), int(side[2])) if side else None)
    weights = _Weights(shapes)
    for layer in layers:
        if found := _CONV.fullmatch(layer):
            into, out, height, width = (int(found[i]) for i in range(1, 5))
            stride, padding = int(found[5] or 1), int(found[7] or 0)
            name, bias = weights.next((out, into, height, width))
            chain.conv(name, (out, into, height, width), bias=bias, stride=(stride,) * 2, padding=(padding,) * 2)
        elif found := _DENSE.fullmatch(layer):
            name, bias = weights.next((int(found[2]), int(found[1])))
            chain.linear(name, (int(found[2]), int(found[1])), bias=bias)
        elif found := _POOL.fullmatch(layer):
            size = (int(found[1]),) * 2
            chain.spatial(SpatialOp("max_pool", size, size, (0, 0), (1, 1)))
        elif layer == "act":
            chain.activation(activation)
        elif layer in ("global average pool", "flatten"):
            chain.spatial(SpatialOp("flatten" if layer == "flatten" else "global_avg_pool"))
        else:
            raise ZooError(f"spec.json has a layer {layer!r}; expected one of {_GRAMMAR}")
    return chain.build()


class _Weights:
    """Hands out weight names layer by layer: of the right rank, in natural order of names."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._left = sorted((name for name in shapes if name.rpartition(".")[2] == "weight"), key=_natural)

    def next(self, shape: tuple[int, ...]) -> tuple[str, str | None]:
        name = next((n for n in self._left if len(self._shapes[n]) == len(shape)), None)
        if name is None:
            raise ZooError(f"spec.json describes a layer of shape {shape}, but no weight is left for it")
        if self._shapes[name] != shape:
            raise ZooError(f"tensor {name!r} has shape {self._shapes[name]} per network; spec.json says {shape}")
        self._left.remove(name)
        bias = name.removesuffix("weight") + "bias"
        return name, bias if bias in self._shapes else None


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key in which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _field(description: Mapping[str, Any], name: str, kind: type) -> Any:
    value = description.get(name)
    if not isinstance(value, kind):
        raise ZooError(f"spec.json has {name} = {value!r}; expected a {kind.__name__}; see graphnfn.zoo.layouts")
    return value
