"""Activations by name, as strings in a layer's configuration and as layers of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.keras.config import Config
from converters.keras.layer import LAYERS, Apply, Layer, Slot, layer
from graphnfn.errors import ConversionError

Function = Callable[[Tensor], Tensor]


def _hard_sigmoid_2(x: Tensor) -> Tensor:
    """Up to Keras 2 the slope is 1/5; Keras 3 made it 1/6."""
    return torch.clamp(0.2 * x + 0.5, 0.0, 1.0)


ACTIVATIONS: dict[str, Function] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "squareplus": lambda x: (x + torch.sqrt(x * x + 4.0)) / 2,
    "sparse_plus": lambda x: torch.where(x < 1, torch.square(torch.relu(x + 1)) / 4, x),
    "sparse_sigmoid": lambda x: torch.clamp((x + 1) / 2, 0.0, 1.0),
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "glu": lambda x: F.glu(x, -1),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "hard_silu": F.hardswish,
    "hard_swish": F.hardswish,
    "hard_tanh": F.hardtanh,
    "hard_shrink": F.hardshrink,
    "soft_shrink": F.softshrink,
    "tanh_shrink": F.tanhshrink,
    "exponential": torch.exp,
    "mish": F.mish,
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "log_sigmoid": F.logsigmoid,
}
"""Name -> function, as Keras 3 defines them."""


def activation(config: Config, key: str = "activation", default: str = "linear") -> Function:
    """The activation that a setting names: a string, or the configuration of an activation layer."""
    value = config.values.get(key, default)
    if isinstance(value, Mapping):
        return _described(config, value)
    name = "linear" if value is None else value
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ConversionError(
            f"layer {config.name!r} ({config.kind}): unknown activation {str(name)[:60]!r}; known: "
            f"{', '.join(ACTIVATIONS)}. Code of one's own is not run: give the model as an nn.Module or ONNX instead"
        )
    if name == "hard_sigmoid" and config.version < 3:
        return _hard_sigmoid_2
    return ACTIVATIONS[name]


def _described(config: Config, value: Mapping[str, Any]) -> Function:
    kind, inner = value.get("class_name"), value.get("config")
    if kind == "function":
        return activation(Config(config.kind, config.name, {"activation": inner}, config.version))
    if isinstance(kind, str) and kind in _FUNCTIONS and isinstance(inner, Mapping):
        return _FUNCTIONS[kind](Config(kind, config.name, inner, config.version))
    raise ConversionError(
        f"layer {config.name!r} ({config.kind}): activation of class {str(kind)[:60]!r} has no rule; "
        f"known: {', '.join(_FUNCTIONS)}"
    )


def _relu(config: Config) -> Function:
    """slope (x - threshold) below the threshold, x above it, at most the maximum."""
    maximum, slope = config.optional("max_value"), config.optional("negative_slope") or 0.0
    threshold = config.optional("threshold") or 0.0

    def rectify(x: Tensor) -> Tensor:
        if threshold:
            return torch.where(x >= threshold, x, slope * (x - threshold))
        return F.leaky_relu(x, slope) if slope else torch.relu(x)

    return rectify if maximum is None else lambda x: torch.clamp(rectify(x), max=maximum)


def _leaky(config: Config) -> Function:
    slope = config.number("negative_slope" if "negative_slope" in config.values else "alpha", 0.3)
    return lambda x: F.leaky_relu(x, slope)


def _elu(config: Config) -> Function:
    alpha = config.number("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


def _thresholded(config: Config) -> Function:
    theta = config.number("theta", 1.0)
    return lambda x: x * (x > theta)


def _softmax(config: Config) -> Function:
    axes = config.integers("axis", [-1])
    if len(axes) != 1:
        raise config.wrong("axis", "one axis")
    return lambda x: torch.softmax(x, axes[0])


_FUNCTIONS: dict[str, Callable[[Config], Function]] = {
    "Activation": activation,
    "ReLU": _relu,
    "LeakyReLU": _leaky,
    "ELU": _elu,
    "ThresholdedReLU": _thresholded,
    "Softmax": _softmax,
}


def _as_layer(function: Callable[[Config], Function]) -> Callable[[Config], Layer]:
    return lambda config: Apply(config, function(config))


LAYERS.update({kind: _as_layer(function) for kind, function in _FUNCTIONS.items()})


@layer("PReLU")
class PReLU(Layer):
    """max(x, 0) - alpha max(-x, 0), with alpha of the shape of x without its batch, 1 along shared axes."""

    alpha: Tensor

    keeps_mask = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.slots = [Slot("alpha")]

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) - self.alpha * torch.relu(-x)
