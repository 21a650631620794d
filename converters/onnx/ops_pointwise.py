"""Operators on every entry: arithmetic, comparisons, activations."""

from __future__ import annotations

import functools
import math
import operator as py
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx.calls import Call, operator
from graphnfn.errors import ConversionError

for _name, _function in {
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Erf": torch.erf, "Exp": torch.exp,
    "Log": torch.log, "Sqrt": torch.sqrt, "Reciprocal": torch.reciprocal, "Abs": torch.abs, "Neg": torch.neg,
    "Sign": torch.sign, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round, "Sin": torch.sin,
    "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin, "Acos": torch.acos, "Atan": torch.atan,
    "Sinh": torch.sinh, "Cosh": torch.cosh, "Asinh": torch.asinh, "Acosh": torch.acosh, "Atanh": torch.atanh,
    "Softplus": F.softplus, "Softsign": F.softsign, "Mish": F.mish, "HardSwish": F.hardswish, "IsNaN": torch.isnan,
    "Not": torch.logical_not, "BitwiseNot": torch.bitwise_not,
}.items():  # fmt: skip
    operator(_name)(lambda c, x, f=_function: f(x))


def _divide(a: Any, b: Any) -> Any:
    floating = isinstance(a, float) or isinstance(b, float) or torch.result_type(a, b).is_floating_point
    return py.truediv(a, b) if floating else torch.div(a, b, rounding_mode="trunc")


for _name, _function in {
    "Add": py.add, "Sub": py.sub, "Mul": py.mul, "Div": _divide, "Less": py.lt, "LessOrEqual": py.le,
    "Greater": py.gt, "GreaterOrEqual": py.ge, "And": py.and_, "Or": py.or_, "Xor": py.xor, "BitwiseAnd": py.and_,
    "BitwiseOr": py.or_, "BitwiseXor": py.xor,
}.items():  # fmt: skip
    operator(_name, numbers=True)(lambda c, a, b, f=_function: f(a, b))


@operator("Equal", numbers=True)
def equal(c: Call, a: Any, b: Any) -> Tensor:
    return a == b


@operator("Pow", numbers=True, scalar=(1,))
def power(c: Call, x: Any, exponent: Any) -> Tensor:
    out = x**exponent
    return out.to(x.dtype) if isinstance(x, Tensor) else out


@operator("Mod", numbers=True)
def modulo(c: Call, a: Any, b: Any) -> Tensor:
    return torch.fmod(a, b) if c.attr("fmod", 0) else torch.remainder(a, b)


@operator("Sum", numbers=True)
def total(c: Call, *values: Any) -> Any:
    return functools.reduce(py.add, values)


@operator("Mean", numbers=True)
def mean(c: Call, *values: Any) -> Any:
    return functools.reduce(py.add, values) / len(values)


@operator("Max", numbers=True, scalar=tuple(range(16)))
def maximum(c: Call, *values: Any) -> Any:
    return functools.reduce(lambda a, b: _bound(a, b, torch.maximum, "min"), values)


@operator("Min", numbers=True, scalar=tuple(range(16)))
def minimum(c: Call, *values: Any) -> Any:
    return functools.reduce(lambda a, b: _bound(a, b, torch.minimum, "max"), values)


def _bound(a: Any, b: Any, both: Any, side: str) -> Any:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return both(a, b)
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        return max(a, b) if side == "min" else min(a, b)
    value, number = (a, b) if isinstance(a, Tensor) else (b, a)
    return torch.clamp(value, **{side: number})


@operator("Clip", static=(1, 2))
def clip(c: Call, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    low, high = (c.attr(name) if given is None else given.item() for name, given in (("min", low), ("max", high)))
    biggest = torch.finfo(torch.float32).max if x.is_floating_point() else math.inf
    low = None if low is None or low <= -biggest else low  # exporters write "no bound" as the largest number
    high = None if high is None or high >= biggest else high
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("Where", numbers=True)
def where(c: Call, mask: Any, a: Any, b: Any) -> Tensor:
    mask = torch.tensor(mask) if isinstance(mask, bool) else mask
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.where(mask, a, b)
    kind = torch.int64 if isinstance(a, int) else (c.floating or torch.float32)
    return torch.where(mask, a, b).to(kind)


@operator("IsInf")
def is_inf(c: Call, x: Tensor) -> Tensor:
    up, down = c.attr("detect_positive", 1), c.attr("detect_negative", 1)
    return torch.isinf(x) & (((x > 0) & bool(up)) | ((x < 0) & bool(down)))


@operator("Cast", "CastLike")
def cast(c: Call, x: Tensor, like: Tensor | None = None) -> Tensor:
    kind = like.dtype if like is not None else c.dtype(c.attr("to"))
    return x if x.dtype == kind else x.to(kind)


@operator("Identity")
def identity(c: Call, x: Tensor) -> Tensor:
    return x


@operator("Dropout", static=(1, 2))
def dropout(c: Call, x: Tensor, ratio: Any = None, training: Any = None) -> Tensor:
    c.only(1)
    if training is not None and training.item():
        raise ConversionError("dropout in training mode; export the model in eval mode")
    return x


@operator("LeakyRelu")
def leaky_relu(c: Call, x: Tensor) -> Tensor:
    return F.leaky_relu(x, c.attr("alpha", 0.01))


@operator("PRelu")
def prelu(c: Call, x: Tensor, slope: Tensor) -> Tensor:
    """``max(x, 0) + slope min(x, 0)``; a slope per channel is PyTorch's own operator."""
    wide = (1,) * (x.dim() - slope.dim()) + tuple(slope.shape)
    channel = min(1, x.dim() - 1)
    if all(n == 1 for k, n in enumerate(wide) if k != channel) and (wide[channel] in (1, x.shape[channel])):
        return F.prelu(x, slope.reshape(-1))
    return torch.relu(x) - slope * torch.relu(-x)


@operator("Elu")
def elu(c: Call, x: Tensor) -> Tensor:
    return F.elu(x, c.attr("alpha", 1.0))


@operator("Celu")
def celu(c: Call, x: Tensor) -> Tensor:
    return F.celu(x, c.attr("alpha", 1.0))


@operator("Selu")
def selu(c: Call, x: Tensor) -> Tensor:
    alpha, gamma = c.attr("alpha", 1.67326319), c.attr("gamma", 1.05070102)
    return gamma * F.elu(x, alpha)


@operator("ThresholdedRelu")
def thresholded_relu(c: Call, x: Tensor) -> Tensor:
    return F.threshold(x, c.attr("alpha", 1.0), 0.0)


@operator("Shrink")
def shrink(c: Call, x: Tensor) -> Tensor:
    bias, edge = c.attr("bias", 0.0), c.attr("lambd", 0.5)
    return torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, torch.zeros_like(x)))


@operator("HardSigmoid")
def hard_sigmoid(c: Call, x: Tensor) -> Tensor:
    return torch.clamp(c.attr("alpha", 0.2) * x + c.attr("beta", 0.5), 0.0, 1.0)


@operator("Gelu")
def gelu(c: Call, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=c.attr("approximate", "none"))


@operator("Swish")
def swish(c: Call, x: Tensor) -> Tensor:
    alpha = c.attr("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("Softmax", "LogSoftmax")
def softmax(c: Call, x: Tensor) -> Tensor:
    """Over one axis (since version 13), over all axes from one on (before)."""
    function = F.softmax if c.node.op == "Softmax" else F.log_softmax
    axis = c.attr("axis", -1 if c.opset >= 13 else 1)
    if c.opset >= 13 or axis % x.dim() == x.dim() - 1:
        return function(x, dim=axis)
    return function(x.flatten(axis % x.dim()), dim=-1).reshape(x.shape)


@operator("Hardmax")
def hardmax(c: Call, x: Tensor) -> Tensor:
    axis = c.attr("axis", -1 if c.opset >= 13 else 1) % x.dim()
    flat = x if c.opset >= 13 else x.flatten(axis)
    place = flat.argmax(axis, keepdim=True)
    return torch.zeros_like(flat).scatter(axis, place, 1.0).reshape(x.shape)
