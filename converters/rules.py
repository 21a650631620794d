"""What modules, functions and methods mean for a chain: activations, pooling, and what to pass over."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from graphnfn.activations import Activation
from graphnfn.errors import ConversionError
from graphnfn.spec import SpatialOp


def _plain(name: str) -> Callable[[nn.Module], Activation]:
    return lambda _: Activation(name)


def _hardtanh(module: Any) -> Activation:
    if (module.min_val, module.max_val) == (-1.0, 1.0):
        return Activation("hardtanh")
    if (module.min_val, module.max_val) == (0.0, 6.0):
        return Activation("relu6")
    raise ConversionError(f"Hardtanh on [{module.min_val}, {module.max_val}]: only [-1, 1] and [0, 6] are supported")


def _softplus(module: Any) -> Activation:
    if module.threshold < 20:
        raise ConversionError(f"Softplus with threshold {module.threshold}: only the default 20 is supported")
    return Activation("softplus", module.beta)


ACTIVATION_MODULES: dict[type[nn.Module], Callable[[Any], Activation]] = {
    nn.ReLU: _plain("relu"),
    nn.ReLU6: _plain("relu6"),
    nn.LeakyReLU: lambda m: Activation("leaky_relu", m.negative_slope),
    nn.Tanh: _plain("tanh"),
    nn.Sigmoid: _plain("sigmoid"),
    nn.GELU: lambda m: Activation("gelu_tanh" if m.approximate == "tanh" else "gelu"),
    nn.SiLU: _plain("silu"),
    nn.ELU: lambda m: Activation("elu", m.alpha),
    nn.SELU: _plain("selu"),
    nn.Softplus: _softplus,
    nn.Mish: _plain("mish"),
    nn.Hardtanh: _hardtanh,
    nn.Softsign: _plain("softsign"),
    nn.Tanhshrink: _plain("tanhshrink"),
    nn.Softshrink: lambda m: Activation("softshrink", m.lambd),
    nn.Hardswish: _plain("hardswish"),
    nn.Hardsigmoid: _plain("hardsigmoid"),
    nn.Softmax: _plain("softmax"),
    nn.LogSoftmax: _plain("log_softmax"),
}

_NAMES = (
    "relu", "relu6", "tanh", "sigmoid", "silu", "selu", "mish", "softsign", "tanhshrink", "hardswish", "hardsigmoid",
    "erf", "asinh", "atan", "arctan", "abs", "softmax", "log_softmax", "hardtanh",
)  # fmt: skip
_ALIAS = {"arctan": "atan"}
ACTIVATION_METHODS = {name: _ALIAS.get(name, name) for name in _NAMES}
ACTIVATION_FUNCTIONS: dict[Any, str] = {
    getattr(home, name): _ALIAS.get(name, name) for name in _NAMES for home in (torch, F) if hasattr(home, name)
}
ACTIVATION_FUNCTIONS[operator.abs] = "abs"
PARAMETRIC_FUNCTIONS: dict[Any, tuple[str, str, float]] = {
    F.leaky_relu: ("leaky_relu", "negative_slope", 0.01),
    F.elu: ("elu", "alpha", 1.0),
    F.softplus: ("softplus", "beta", 1.0),
    F.softshrink: ("softshrink", "lambd", 0.5),
}
"""Function -> activation, name and default of its parameter."""

PERIODIC = {torch.sin: "sin", torch.cos: "cos", "sin": "sin", "cos": "cos"}
SKIPPED_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Identity)
SKIPPED_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)
SKIPPED_METHODS = ("contiguous", "clone")

SUPPORTED = (
    "Linear, Conv1d, Conv2d (groups=1), BatchNorm right behind them, max, average and adaptive pooling, Flatten, "
    "Dropout, Identity, and elementwise activations, in one chain"
)


def tuple_of(value: Any, rank: int) -> tuple[int, ...]:
    """An int or a sequence as one int per spatial axis."""
    return (int(value),) * rank if isinstance(value, int) else tuple(int(v) for v in value)


def pool(kind: str, rank: int, size: Any, stride: Any = None, padding: Any = 0, **rest: Any) -> SpatialOp:
    """A pooling with one entry per spatial axis."""
    sizes = tuple_of(size, rank)
    steps = sizes if stride in (None, (), []) else tuple_of(stride, rank)
    dilation = tuple_of(rest.get("dilation", 1), rank)
    return SpatialOp(
        kind, sizes, steps, tuple_of(padding, rank), dilation, bool(rest.get("ceil_mode", False)),
        bool(rest.get("count_include_pad", True)),
    )  # fmt: skip


def adaptive(kind: str, rank: int, size: Any) -> SpatialOp:
    """An adaptive pooling to a fixed size.

    Raises:
        ConversionError: an axis keeps its input's size.
    """
    values = (size,) * rank if isinstance(size, int) else tuple(size)
    if any(v is None for v in values):
        raise ConversionError(f"adaptive pooling to {size}: None is not supported; give a size for every axis")
    return SpatialOp(kind, tuple(int(v) for v in values))


POOL_MODULES: dict[type[nn.Module], Callable[[Any], SpatialOp]] = {}
for _rank in (1, 2, 3):
    for _kind, _type in (("max_pool", f"MaxPool{_rank}d"), ("avg_pool", f"AvgPool{_rank}d")):
        POOL_MODULES[getattr(nn, _type)] = lambda m, kind=_kind, rank=_rank: pool(
            kind, rank, m.kernel_size, m.stride, m.padding, dilation=getattr(m, "dilation", 1), ceil_mode=m.ceil_mode,
            count_include_pad=getattr(m, "count_include_pad", True),
        )  # fmt: skip
    for _kind, _type in (("adaptive_avg_pool", "AdaptiveAvgPool"), ("adaptive_max_pool", "AdaptiveMaxPool")):
        POOL_MODULES[getattr(nn, f"{_type}{_rank}d")] = lambda m, kind=_kind, rank=_rank: adaptive(
            kind, rank, m.output_size
        )

POOL_FUNCTIONS: dict[Any, tuple[str, int]] = {}
for _rank in (1, 2, 3):
    for _kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"):
        POOL_FUNCTIONS[getattr(F, f"{_kind}{_rank}d")] = (_kind, _rank)
        if hasattr(torch, f"{_kind}{_rank}d"):
            POOL_FUNCTIONS[getattr(torch, f"{_kind}{_rank}d")] = (_kind, _rank)

POOL_ARGUMENTS = {
    "max_pool": ("size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool": ("size", "stride", "padding", "ceil_mode", "count_include_pad"),
}
"""Order of the positional arguments of the pooling functions."""
