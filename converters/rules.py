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

SUPPORTED = (
    "Linear, Conv1d, Conv2d (groups=1), BatchNorm right behind them, max, average and adaptive pooling, Flatten, "
    "Dropout, Identity, and elementwise activations, in one chain"
)

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
SKIPPED_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Identity)
SKIPPED_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)
SKIPPED_METHODS = ("contiguous", "clone")


def layer_type(module: nn.Module) -> type[nn.Module] | None:
    """The PyTorch layer with weights that a module computes: its type, or the parent whose forward it keeps."""
    for kind in (nn.Linear, *CONVS, *NORMS, nn.PReLU):
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return kind
    return None


# ---- activations ------------------------------------------------------------------------------


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
}
SOFTMAX_MODULES: dict[type[nn.Module], str] = {nn.Softmax: "softmax", nn.LogSoftmax: "log_softmax"}
"""Apart from the others, because the axis matters."""

_FUNCTION_NAMES = {
    "relu": nn.ReLU, "relu_": nn.ReLU, "relu6": nn.ReLU6, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh, "tanh_": nn.Tanh,
    "sigmoid": nn.Sigmoid, "sigmoid_": nn.Sigmoid, "gelu": nn.GELU, "silu": nn.SiLU, "elu": nn.ELU, "selu": nn.SELU,
    "softplus": nn.Softplus, "mish": nn.Mish, "hardtanh": nn.Hardtanh, "softsign": nn.Softsign,
    "tanhshrink": nn.Tanhshrink, "softshrink": nn.Softshrink, "hardswish": nn.Hardswish, "hardsigmoid": nn.Hardsigmoid,
}  # fmt: skip
_PLAIN_NAMES = {"erf": "erf", "asinh": "asinh", "atan": "atan", "arctan": "atan", "abs": "abs", "absolute": "abs"}
_SOFTMAX_NAMES = {"softmax": "softmax", "log_softmax": "log_softmax"}


def _targets(names: dict[str, Any]) -> dict[Any, Any]:
    """Every function of PyTorch, and every method, of these names."""
    found: dict[Any, Any] = {name: meaning for name, meaning in names.items() if hasattr(torch.Tensor, name)}
    for name, meaning in names.items():
        found |= {getattr(home, name): meaning for home in (torch, F) if hasattr(home, name)}
    return found


FUNCTION_MODULES: dict[Any, type[nn.Module]] = _targets(_FUNCTION_NAMES)
"""Function or method -> the module that takes the same arguments; one rule serves both."""
PLAIN_FUNCTIONS: dict[Any, str] = {**_targets(_PLAIN_NAMES), operator.abs: "abs"}
SOFTMAX_FUNCTIONS: dict[Any, str] = _targets(_SOFTMAX_NAMES)
PERIODIC = {torch.sin: "sin", torch.cos: "cos", "sin": "sin", "cos": "cos"}


def activation_of(module: nn.Module) -> Activation:
    """The activation that a module computes.

    Raises:
        ConversionError: none with a rule.
    """
    if type(module) not in ACTIVATION_MODULES:
        raise ConversionError(f"no rule for {type(module).__name__}; supported: {SUPPORTED}")
    return ACTIVATION_MODULES[type(module)](module)


# ---- convolutions and pooling ------------------------------------------------------------------


def conv_padding(module: Any) -> tuple[int, ...]:
    """Zeros added before and behind every axis.

    Raises:
        ConversionError: not as many before as behind.
    """
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    if module.padding != "same":
        return tuple(module.padding)
    total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if any(t % 2 for t in total):
        raise ConversionError(f"padding='same' with kernel {module.kernel_size} is not symmetric: not supported")
    return tuple(t // 2 for t in total)


def _sizes(value: Any, rank: int) -> tuple[int, ...]:
    """An int or a sequence as one int per spatial axis."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return tuple(int(v) for v in (values * rank if len(values) == 1 else values))


def _pool(kind: str, rank: int) -> Callable[[Any], SpatialOp]:
    def rule(m: Any) -> SpatialOp:
        largest = kind == "max_pool"
        if largest and m.return_indices:
            raise ConversionError("return_indices=True gives two outputs: not supported")
        if not largest and rank > 1 and m.divisor_override is not None:
            raise ConversionError("divisor_override is not supported: leave it out")
        size = _sizes(m.kernel_size, rank)
        return SpatialOp(
            kind, size, size if m.stride is None else _sizes(m.stride, rank), _sizes(m.padding, rank),
            _sizes(m.dilation if largest else 1, rank), m.ceil_mode, largest or m.count_include_pad,
        )  # fmt: skip

    return rule


def _adaptive(kind: str, rank: int) -> Callable[[Any], SpatialOp]:
    def rule(m: Any) -> SpatialOp:
        if kind == "adaptive_max_pool" and m.return_indices:
            raise ConversionError("return_indices=True gives two outputs: not supported")
        values = (m.output_size,) if m.output_size is None else m.output_size
        if not isinstance(values, int) and any(v is None for v in values):
            raise ConversionError(f"adaptive pooling to {m.output_size}: None is not supported; give every axis a size")
        return SpatialOp(kind, _sizes(values, rank))

    return rule


POOL_MODULES: dict[type[nn.Module], Callable[[Any], SpatialOp]] = {
    nn.MaxPool1d: _pool("max_pool", 1), nn.MaxPool2d: _pool("max_pool", 2), nn.MaxPool3d: _pool("max_pool", 3),
    nn.AvgPool1d: _pool("avg_pool", 1), nn.AvgPool2d: _pool("avg_pool", 2), nn.AvgPool3d: _pool("avg_pool", 3),
    nn.AdaptiveAvgPool1d: _adaptive("adaptive_avg_pool", 1), nn.AdaptiveAvgPool2d: _adaptive("adaptive_avg_pool", 2),
    nn.AdaptiveAvgPool3d: _adaptive("adaptive_avg_pool", 3), nn.AdaptiveMaxPool1d: _adaptive("adaptive_max_pool", 1),
    nn.AdaptiveMaxPool2d: _adaptive("adaptive_max_pool", 2), nn.AdaptiveMaxPool3d: _adaptive("adaptive_max_pool", 3),
}  # fmt: skip


def _max_pool(kind: type[nn.Module]) -> Callable[..., nn.Module]:
    """The functions have their last two arguments in another order than the modules."""

    def make(
        kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> nn.Module:  # fmt: skip
        return kind(kernel_size, stride, padding, dilation, return_indices, ceil_mode)

    return make


_POOL_NAMES: dict[str, Callable[..., nn.Module]] = {
    "max_pool1d": _max_pool(nn.MaxPool1d), "max_pool2d": _max_pool(nn.MaxPool2d), "max_pool3d": _max_pool(nn.MaxPool3d),
    "avg_pool1d": nn.AvgPool1d, "avg_pool2d": nn.AvgPool2d, "avg_pool3d": nn.AvgPool3d,
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d, "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_avg_pool3d": nn.AdaptiveAvgPool3d, "adaptive_max_pool1d": nn.AdaptiveMaxPool1d,
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d, "adaptive_max_pool3d": nn.AdaptiveMaxPool3d,
}  # fmt: skip
POOL_FUNCTIONS: dict[Any, Callable[..., nn.Module]] = _targets(_POOL_NAMES)
"""Function -> what makes the module that pools alike."""
