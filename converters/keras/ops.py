"""Operators on values between layers, such as ``x + y``: Keras 3 calls them ops, Keras 2 TFOpLambda."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.keras.config import Config
from converters.keras.layer import LAYERS, Layer, layer
from converters.keras.merge import JOINS
from graphnfn.errors import ConversionError

_OPS: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Subtract": operator.sub,
    "Multiply": operator.mul,
    "Divide": operator.truediv,
    "TrueDivide": operator.truediv,
    "Power": operator.pow,
    "Maximum": torch.maximum,
    "Minimum": torch.minimum,
    "Matmul": torch.matmul,
    "Absolute": torch.abs,
    "Negative": operator.neg,
    "Square": torch.square,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Relu": torch.relu,
    "Relu6": F.relu6,
    "Silu": F.silu,
    "Softplus": F.softplus,
}
"""Class of an operator without settings in Keras 3 -> function."""
_LAMBDAS = {
    "__operators__.add": "Add",
    "math.add": "Add",
    "math.subtract": "Subtract",
    "math.multiply": "Multiply",
    "math.divide": "Divide",
    "math.truediv": "Divide",
    "math.pow": "Power",
    "math.maximum": "Maximum",
    "math.minimum": "Minimum",
    "linalg.matmul": "Matmul",
    "math.abs": "Absolute",
    "math.negative": "Negative",
    "math.square": "Square",
    "math.sqrt": "Sqrt",
    "math.exp": "Exp",
    "math.log": "Log",
    "math.sin": "Sin",
    "math.cos": "Cos",
    "math.tanh": "Tanh",
    "math.sigmoid": "Sigmoid",
    "nn.relu": "Relu",
    "nn.relu6": "Relu6",
    "nn.silu": "Silu",
    "math.softplus": "Softplus",
}
"""Function of a TFOpLambda -> the same operator of Keras 3. The name is looked up here, never imported."""


class Op(Layer):
    """An operator of one or two values, of which one may be a number."""

    def __init__(self, config: Config, function: Callable[..., Tensor]) -> None:
        super().__init__(config)
        self.function = function

    def forward(self, *args: Any, **named: Any) -> Tensor:
        return self.function(*args, *named.values())


def _builder(kind: str) -> Callable[[Config], Layer]:
    return lambda config: Op(config, _OPS[kind])


LAYERS.update({f"ops.{kind}": _builder(kind) for kind in _OPS})
# entries in H5 files do not tell operators from layers; where both exist they do the same
LAYERS.update({kind: _builder(kind) for kind in _OPS if kind not in JOINS})


@layer("TFOpLambda")
def _lambda(config: Config) -> Layer:
    function = config.values.get("function")
    if not isinstance(function, str) or function not in _LAMBDAS:
        raise ConversionError(
            f"layer {config.name!r}: no rule for the operator {str(function)[:60]!r}; known: {', '.join(_LAMBDAS)}"
        )
    return Op(config, _OPS[_LAMBDAS[function]])
