"""One step of a recurrent layer, with all the settings that ONNX has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx.calls import Call
from graphnfn.errors import ConversionError

Function = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, list[Tensor]], list[Tensor]]
Biases = tuple[Tensor | None, Tensor | None]

_FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...]]] = {
    "sigmoid": (torch.sigmoid, ()),
    "tanh": (torch.tanh, ()),
    "relu": (torch.relu, ()),
    "softsign": (F.softsign, ()),
    "softplus": (F.softplus, ()),
    "elu": (F.elu, (1.0,)),
    "leakyrelu": (F.leaky_relu, (0.01,)),
    "hardsigmoid": (lambda x, a, b: torch.clamp(a * x + b, 0.0, 1.0), (0.2, 0.5)),
    "affine": (lambda x, a, b: a * x + b, (1.0, 0.0)),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), (1.0, 1.0)),
}
"""Function and the defaults of alpha and beta, where it has them."""


def activations(c: Call, default: list[str]) -> list[Function]:
    """The functions of the gates; alpha and beta are listed for those that have them."""
    lists = [list(c.attr("activation_alpha", [])), list(c.attr("activation_beta", []))]
    out: list[Function] = []
    for name in c.attr("activations", default):
        if name.lower() not in _FUNCTIONS:
            raise ConversionError(f"activation {name!r} is not supported in recurrent layers")
        function, defaults = _FUNCTIONS[name.lower()]
        values = [given.pop(0) if given else d for given, d in zip(lists, defaults, strict=False)]
        out.append(lambda x, f=function, v=tuple(values): f(x, *v))
    if len(out) != len(default):
        raise ConversionError(f"got {len(out)} activations, expected {len(default)}")
    return out


def cell_of(c: Call, w: Tensor, r: Tensor, biases: Biases, named: list[Function], peep: Tensor | None) -> Step:
    """The function ``(x, states) -> states`` of one direction."""
    limit: Any = c.attr("clip")
    clip: Function = (lambda v: torch.clamp(v, -limit, limit)) if limit else (lambda v: v)
    if c.node.op == "LSTM":
        gates = [_after(clip, f) for f in named[:2]]  # onnxruntime does not clip what leads from cells to outputs
        return _lstm(c, w, r, biases, [*gates, named[2]], peep)
    if c.node.op == "GRU":
        return _gru(c, w, r, biases, [_after(clip, f) for f in named])
    function = _after(clip, named[0])
    return lambda x, states: [function(F.linear(x, w, biases[0]) + F.linear(states[0], r, biases[1]))]


def _after(clip: Function, function: Function) -> Function:
    return lambda x: function(clip(x))


def _lstm(c: Call, w: Tensor, r: Tensor, biases: Biases, named: list[Function], peep: Tensor | None) -> Step:
    gate, candidate, outward = named
    to_i, to_o, to_f = (None, None, None) if peep is None else peep.chunk(3)

    def with_peep(value: Tensor, weight: Tensor | None, cell: Tensor) -> Tensor:
        return value if weight is None else value + weight * cell

    def step(x: Tensor, states: list[Tensor]) -> list[Tensor]:
        h, cell = states
        i, o, f, g = (F.linear(x, w, biases[0]) + F.linear(h, r, biases[1])).chunk(4, -1)
        i = gate(with_peep(i, to_i, cell))
        f = 1 - i if c.attr("input_forget", 0) else gate(with_peep(f, to_f, cell))
        cell = f * cell + i * candidate(g)
        return [gate(with_peep(o, to_o, cell)) * outward(cell), cell]

    return step


def _gru(c: Call, w: Tensor, r: Tensor, biases: Biases, named: list[Function]) -> Step:
    gate, candidate = named
    rows = r.shape[1]
    b = (None, None, None) if biases[1] is None else biases[1].split(rows)

    def step(x: Tensor, states: list[Tensor]) -> list[Tensor]:
        h = states[0]
        z, reset, n = F.linear(x, w, biases[0]).chunk(3, -1)
        to_z, to_r, to_n = r.split(rows)
        z = gate(z + F.linear(h, to_z, b[0]))
        reset = gate(reset + F.linear(h, to_r, b[1]))
        back = reset * F.linear(h, to_n, b[2]) if c.attr("linear_before_reset", 0) else F.linear(reset * h, to_n, b[2])
        return [(1 - z) * candidate(n + back) + z * h]

    return step
