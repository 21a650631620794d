"""The spec of a plain MLP or CNN from nothing but the names and shapes of its tensors."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from torch import Tensor

from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder
from graphnfn.errors import ConversionError, SpecError
from graphnfn.spec import NetSpec, SpatialOp

_NORM = {"weight": "norm_weight", "bias": "norm_bias", "running_mean": "norm_mean", "running_var": "norm_var"}
NORM_EPS = 1e-5
"""A state dict does not hold the epsilon of its batch norms; this is PyTorch's default."""

Layers = dict[str, dict[str, Tensor]]


def tensors_spec(
    tensors: Mapping[str, Tensor], activation: Activation | None, output_activation: Activation | None
) -> NetSpec:
    """Read layers off a state dict: ``weight`` of rank 2 is dense, 3 to 5 a convolution, running means a batch norm.

    Layers are taken in the order of the state dict; where their shapes do not chain, the top-level parts are tried
    in other orders, and the one that chains is taken.

    Args:
        tensors: the state dict.
        activation: of the hidden layers.
        output_activation: of the last layer.

    Raises:
        ConversionError: a tensor has no place in a chain, shapes do not chain, or the activation is missing.
    """
    layers = _layers(tensors)
    if not any("weight" in parts and parts["weight"].dim() > 1 for parts in layers.values()):
        raise ConversionError(f"no dense or convolution weights in a state dict with keys {list(tensors)[:8]}")
    try:
        return _chain(layers, activation, output_activation)
    except SpecError as error:
        roots = list(dict.fromkeys(name.split(".")[0] for name in layers))
        found = []
        for order in itertools.permutations(roots) if 1 < len(roots) <= 6 else ():
            moved = {n: p for root in order for n, p in layers.items() if n.split(".")[0] == root}
            try:
                found.append(_chain(moved, activation, output_activation))
            except SpecError:
                continue
        if len(found) == 1:
            return found[0]
        raise ConversionError(f"{error}. Give the module itself if it is no plain chain") from error


def _layers(tensors: Mapping[str, Tensor]) -> Layers:
    layers: Layers = {}
    for key, tensor in tensors.items():
        prefix, _, leaf = key.rpartition(".")
        if not tensor.is_floating_point():
            continue  # counters
        layers.setdefault(prefix, {})[leaf] = tensor
    for name, parts in layers.items():
        extra = set(parts) - set(_NORM)
        if extra:
            raise ConversionError(
                f"{name + '.' + sorted(extra)[0]!r}: no rule for such a parameter; a bare state dict may hold "
                "weights and biases of Linear and Conv layers, batch norms and PReLU slopes: convert the module"
            )
    return layers


def _chain(layers: Layers, activation: Activation | None, output_activation: Activation | None) -> NetSpec:
    main = [name for name, parts in layers.items() if "weight" in parts and parts["weight"].dim() > 1]
    first = layers[main[0]]["weight"]
    chain = ChainBuilder(first.shape[1])
    pending = False
    for name, parts in layers.items():
        weight = parts.get("weight")
        if "running_mean" in parts:
            chain.norm({_NORM[leaf]: f"{name}.{leaf}" for leaf in parts}, NORM_EPS)
        elif weight is not None and weight.dim() > 1:
            if pending:
                chain.activation(_needed(activation, name))
            _layer(chain, name, parts)
            pending = True
        elif weight is not None and set(parts) == {"weight"} and pending:
            chain.activation(Activation("prelu"), slope=f"{name}.weight", slope_size=len(weight))
            pending = False
        else:
            raise ConversionError(
                f"{name!r} holds {sorted(parts)} of shapes {[tuple(p.shape) for p in parts.values()]}: "
                "no Linear, Conv, batch norm or PReLU; convert the module instead"
            )
    if output_activation is not None and pending:
        chain.activation(output_activation)
    return chain.build()


def _layer(chain: ChainBuilder, name: str, parts: dict[str, Tensor]) -> None:
    weight, bias = parts["weight"], None
    if "bias" in parts:
        bias = f"{name}.bias"
        if tuple(parts["bias"].shape) != (weight.shape[0],):
            got = tuple(parts["bias"].shape)
            raise ConversionError(f"{bias!r} has shape {got}; its layer has {weight.shape[0]} outputs")
    if weight.dim() == 2:
        if chain.width != weight.shape[1]:
            chain.spatial(SpatialOp("flatten"))
        chain.linear(f"{name}.weight", tuple(weight.shape), bias=bias)
    else:
        chain.conv(f"{name}.weight", tuple(weight.shape), bias=bias, facts_known=False)


def _needed(activation: Activation | None, before: str) -> Activation:
    if activation is None:
        raise ConversionError(
            f"a state dict does not tell the activation in front of {before!r}: give activation='relu', or the module"
        )
    return activation
