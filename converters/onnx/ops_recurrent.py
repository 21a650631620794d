"""LSTM, GRU and plain recurrent layers; W, R and B are read as they are stored, gate after gate."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.onnx.calls import Call, ints, operator
from converters.onnx.cells import activations, cell_of
from converters.onnx.tensors import to_torch
from graphnfn.errors import ConversionError

_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where PyTorch's gates are in the file: i f g o among i o f c; r z n among z r h."""
_PLAIN = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
_WAYS = {"forward": 1, "reverse": 1, "bidirectional": 2}

Weights = tuple[Tensor, Tensor, Tensor | None]


@operator("LSTM", known=(4, 5, 6, 7), absent=(5, 6, 7))
def lstm(c: Call, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, *more: Any) -> tuple[Tensor, ...]:
    """``more`` are lengths, first outputs, first cells, and weights from cells to gates."""
    lengths, h, cell, peep = (*more, None, None, None, None)[:4]
    if isinstance(peep, np.ndarray):
        peep = to_torch(peep).to(x) if peep.any() else None
    return _layer(c, x, (w, r, b), lengths, [h, cell], peep)


@operator("GRU", "RNN", known=(4, 5), absent=(5,))
def gru(c: Call, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, *more: Any) -> tuple[Tensor, ...]:
    """``more`` are lengths and first outputs."""
    lengths, h = (*more, None, None)[:2]
    return _layer(c, x, (w, r, b), lengths, [h], None)


def _layer(
    c: Call, x: Tensor, weights: Weights, lengths: Any, states: list[Any], peep: Tensor | None
) -> tuple[Tensor, ...]:
    """``[time, batch, in]`` to outputs ``[time, directions, batch, hidden]`` and the last states."""
    batch_first, way = bool(c.attr("layout", 0)), c.attr("direction", "forward")
    x = x.transpose(0, 1) if batch_first else x
    directions, hidden = weights[1].shape[0], weights[1].shape[-1]
    if _WAYS.get(way) != directions or x.dim() != 3 or c.attr("hidden_size", hidden) != hidden:
        raise ConversionError(f"direction {way!r} with weights of shape {tuple(weights[1].shape)}")
    if lengths is not None and (isinstance(lengths, Tensor) or any(n != x.shape[0] for n in ints(lengths))):
        raise ConversionError("sequences of different lengths are not supported; export without lengths")
    shape = (directions, x.shape[1], hidden)
    start = [_state(s, x, shape, batch_first) for s in states]
    x = x.flip(0) if way == "reverse" else x
    fused = peep is None and _is_plain(c, directions)
    out, last = _fused(c, x, weights, start) if fused else _stepwise(c, x, weights, start, peep)
    out = out.flip(0) if way == "reverse" else out
    if batch_first:
        return (out.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in last))
    return (out, *last)


def _state(value: Any, x: Tensor, shape: tuple[int, ...], batch_first: bool) -> Tensor:
    if value is None or (isinstance(value, np.ndarray) and not value.any()):
        return x.new_zeros(shape)
    value = to_torch(value).to(x) if isinstance(value, np.ndarray) else value
    return (value.transpose(0, 1) if batch_first else value).expand(shape)


def _is_plain(c: Call, directions: int) -> bool:
    """Whether PyTorch has this layer."""
    named = [a.lower() for a in c.attr("activations", _PLAIN[c.node.op] * directions)]
    known = [_PLAIN[c.node.op] * directions] + ([["relu"] * directions] if c.node.op == "RNN" else [])
    gru = c.node.op != "GRU" or bool(c.attr("linear_before_reset", 0))
    return named in known and gru and not c.attr("clip") and not c.attr("input_forget", 0)


def _fused(c: Call, x: Tensor, weights: Weights, start: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    w, r, b = weights
    op, directions = c.node.op, r.shape[0]
    params = []
    for d in range(directions):
        params += [_reordered(op, w.select(0, d)), _reordered(op, r.select(0, d))]
        if b is not None:
            params += [_reordered(op, half) for half in b.select(0, d).chunk(2)]
    relu = op == "RNN" and c.attr("activations", ["tanh"])[0].lower() == "relu"
    function: Any = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN": torch.rnn_relu if relu else torch.rnn_tanh}[op]
    first = start if op == "LSTM" else start[0]
    out, *last = function(x, first, params, b is not None, 1, 0.0, False, directions == 2, False)
    return out.reshape(*out.shape[:2], directions, -1).transpose(1, 2), last


def _reordered(op: str, rows: Tensor) -> Tensor:
    order = _ORDER[op]
    gates = rows.chunk(len(order))
    return torch.cat([gates[k] for k in order]) if len(order) > 1 else rows


def _stepwise(
    c: Call, x: Tensor, weights: Weights, start: list[Tensor], peep: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Step after step, for layers that PyTorch does not have."""
    w, r, b = weights
    directions = r.shape[0]
    named = activations(c, _PLAIN[c.node.op] * directions)
    each = len(named) // directions
    outs, lasts = [], []
    for d in range(directions):
        halves = [None, None] if b is None else list(b.select(0, d).chunk(2))
        step = cell_of(c, w.select(0, d), r.select(0, d), (halves[0], halves[1]), named[d * each : (d + 1) * each],
                       None if peep is None else peep.select(0, d))  # fmt: skip
        states = [s.select(0, d) for s in start]
        made = []
        for t in range(x.shape[0])[:: -1 if d else 1]:
            states = step(x.select(0, t), states)
            made.append(states[0])
        outs.append(torch.stack(made[::-1] if d else made))
        lasts.append(states)
    return torch.stack(outs, 1), [torch.stack(s) for s in zip(*lasts, strict=True)]
