"""The activation table: what each nonlinearity lets you do to its neuron without changing the network.

A neuron computes ``x = sigma(z)`` with ``z = sum_j w_j x_j + b``.  Its *gauge* is a factor ``g`` with
``sigma(g z) = phi(g) sigma(z)``: multiply the incoming row and bias by ``g`` and divide the outgoing
column by ``phi(g)``, and the network stays the same function.  Every row of the table has
``phi(g) = |g|^scale_power * sign(g)^sign_power``.  Periodic rows also have *half turns*:
``sigma(z + n pi / omega) = (-1)^n sigma(z)``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from graphnfn.errors import SymmetryError


class Gauge(enum.Flag):
    """Which factors a neuron may be rescaled by; ``a & b`` is the meet of two gauges."""

    NONE = 0
    POSITIVE = 1
    SIGN = 2
    NONZERO = 3


@dataclass(frozen=True)
class ActivationRule:
    """One row of the activation table.

    Args:
        function: ``(z, param) -> x``, elementwise.
        gauge: the group of factors ``g``.
        scale_power: ``k`` in ``phi(g) = |g|^k`` for ``g > 0``.
        sign_power: ``p`` in ``phi(-1) = (-1)^p``.
        half_turns: whether a bias shift of ``pi / param`` negates the output.
        default: value of ``param`` when none is given.
        elementwise: False for rows that mix neurons (softmax): allowed on outputs only.
    """

    function: Callable[[Tensor, float], Tensor]
    gauge: Gauge = Gauge.NONE
    scale_power: float = 1.0
    sign_power: int = 1
    half_turns: bool = False
    default: float = 0.0
    elementwise: bool = True


def _plain(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, float], Tensor]:
    return lambda z, _: function(z)


_RULES: dict[str, ActivationRule] = {
    "relu": ActivationRule(_plain(torch.relu), Gauge.POSITIVE),
    "leaky_relu": ActivationRule(lambda z, slope: F.leaky_relu(z, slope), Gauge.POSITIVE, default=0.01),
    "prelu": ActivationRule(lambda z, slope: F.leaky_relu(z, slope), Gauge.POSITIVE, default=0.25),
    "tanh": ActivationRule(_plain(torch.tanh), Gauge.SIGN),
    "sin": ActivationRule(lambda z, omega: torch.sin(omega * z), Gauge.SIGN, half_turns=True, default=1.0),
    "erf": ActivationRule(_plain(torch.erf), Gauge.SIGN),
    "asinh": ActivationRule(_plain(torch.asinh), Gauge.SIGN),
    "atan": ActivationRule(_plain(torch.atan), Gauge.SIGN),
    "softsign": ActivationRule(_plain(F.softsign), Gauge.SIGN),
    "hardtanh": ActivationRule(_plain(F.hardtanh), Gauge.SIGN),
    "tanhshrink": ActivationRule(_plain(F.tanhshrink), Gauge.SIGN),
    "softshrink": ActivationRule(lambda z, width: F.softshrink(z, width), Gauge.SIGN, default=0.5),
    "abs": ActivationRule(_plain(torch.abs), Gauge.NONZERO, sign_power=0),
    "cos": ActivationRule(
        lambda z, omega: torch.cos(omega * z), Gauge.SIGN, sign_power=0, half_turns=True, default=1.0
    ),
    "gaussian": ActivationRule(lambda z, s: torch.exp(-((s * z) ** 2)), Gauge.SIGN, sign_power=0, default=1.0),
    "identity": ActivationRule(_plain(lambda z: z), Gauge.NONZERO),
    "gelu": ActivationRule(_plain(F.gelu)),
    "gelu_tanh": ActivationRule(_plain(lambda z: F.gelu(z, approximate="tanh"))),
    "silu": ActivationRule(_plain(F.silu)),
    "sigmoid": ActivationRule(_plain(torch.sigmoid)),
    "softplus": ActivationRule(lambda z, beta: F.softplus(z, beta), default=1.0),
    "elu": ActivationRule(lambda z, alpha: F.elu(z, alpha), default=1.0),
    "selu": ActivationRule(_plain(F.selu)),
    "mish": ActivationRule(_plain(F.mish)),
    "relu6": ActivationRule(_plain(F.relu6)),
    "hardsigmoid": ActivationRule(_plain(F.hardsigmoid)),
    "hardswish": ActivationRule(_plain(F.hardswish)),
    "softmax": ActivationRule(_plain(lambda z: torch.softmax(z, -1)), elementwise=False),
    "log_softmax": ActivationRule(_plain(lambda z: torch.log_softmax(z, -1)), elementwise=False),
}


def _relu_power(z: Tensor, power: float) -> Tensor:
    return torch.relu(z) ** power


TABLE = MappingProxyType({**_RULES, "relu_power": ActivationRule(_relu_power, Gauge.POSITIVE, default=2.0)})
"""Name -> rule, read only. ``relu_power`` is relu^k; its ``scale_power`` is its parameter k."""

NAMES: tuple[str, ...] = tuple(TABLE)
"""Activation names in a fixed order; a neuron's activation id is its position here."""


@dataclass(frozen=True)
class Activation:
    """An activation with its parameter: slope, power k, omega, beta or alpha.

    Args:
        name: a key of :data:`TABLE`.
        param: the parameter; None takes the default of the table.

    Raises:
        SymmetryError: the name is not in the table.

    Example:
        >>> Activation("sin", 30.0).phi_sign, Activation("abs").phi_sign, Activation("relu_power", 3.0).phi_scale
        (1, 0, 3.0)
    """

    name: str
    param: float | None = None

    def __post_init__(self) -> None:
        if self.name not in TABLE:
            raise SymmetryError(f"unknown activation {self.name!r}; known: {', '.join(NAMES)}")
        value = self.rule.default if self.param is None else float(self.param)
        object.__setattr__(self, "param", value)

    @property
    def rule(self) -> ActivationRule:
        return TABLE[self.name]

    @property
    def code(self) -> int:
        """The activation id stored per neuron on a graph."""
        return NAMES.index(self.name)

    @property
    def phi_scale(self) -> float:
        """k in phi(g) = g^k for g > 0."""
        return self.parameter if self.name == "relu_power" else self.rule.scale_power

    @property
    def phi_sign(self) -> int:
        """p in phi(-1) = (-1)^p."""
        return self.rule.sign_power

    @property
    def parameter(self) -> float:
        """The parameter as a plain float."""
        return float(self.param or 0.0)

    def __call__(self, z: Tensor, slope: Tensor | None = None) -> Tensor:
        """Apply the activation; ``slope`` is the learned slope of a PReLU, broadcast against ``z``."""
        if self.name == "prelu" and slope is not None:
            return torch.where(z >= 0, z, slope * z)
        return self.rule.function(z, self.parameter)

    def value_and_slope(self, z: Tensor, slope: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The activation and its derivative, the latter divided by omega for sin and cos to stay of order 1."""
        if self.name in ("sin", "cos"):
            sine, cosine = torch.sin(self.parameter * z), torch.cos(self.parameter * z)
            return (sine, cosine) if self.name == "sin" else (cosine, -sine)
        if self.name == "relu":
            return torch.relu(z), (z > 0).to(z.dtype)
        if self.name == "tanh":
            x = torch.tanh(z)
            return x, 1 - x * x
        if self.name == "hardsigmoid":  # PyTorch knows no second derivative of it
            return F.hardsigmoid(z), (z.abs() < 3).to(z.dtype) / 6
        pair = torch.func.jvp(lambda v: self(v, slope), (z,), (torch.ones_like(z),))
        return pair[0], pair[1]

    def __str__(self) -> str:
        return self.name if self.parameter == self.rule.default else f"{self.name}({self.parameter:g})"


def as_activation(value: str | Activation, omega: float | None = None) -> Activation:
    """``"relu"``, ``"sin"`` with ``omega``, or an :class:`Activation`, as an :class:`Activation`."""
    if isinstance(value, Activation):
        return value
    return Activation(value, omega) if value in ("sin", "cos") else Activation(value)
