"""Rules of LSTM, GRU and plain recurrent layers: one neuron has a row in every gate."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.gauge import algebra, shapes
from converters.gauge.calls import Call, rule
from converters.gauge.system import Ints
from converters.gauge.values import Factor, Value, freeze, freeze_all

_GATES = {"lstm": (4, 2), "gru": (3, 2), "rnn_tanh": (1, 0), "rnn_relu": (1, 0)}
"""Number of gates, and which of them is the candidate: its sign is the neuron's sign."""


@rule("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def recurrent(c: Call) -> Any:
    """Per unit one permutation; a sign flip of candidate row and output for tanh, a positive scale for relu."""
    x, state, params, biases, layers = c.args[:5]
    both = c.args[7]
    gates, _ = _GATES[c.why]
    directions = 2 if both else 1
    per = len(params) // (layers * directions)  # one more where states are projected
    starts = list(state) if isinstance(state, (list, tuple)) else [state]
    value, ends, cells = x, [], []
    for layer in range(layers):
        for d in range(directions):
            at = per * (layer * directions + d)
            inner = _neurons(c, gates, params[at : at + per])
            tail = params[at + per - 1] if per > (4 if biases else 2) else None
            ends.append(inner if tail is None else _projected(c, inner, tail))
            cells.append(inner)
            _tie(c, value, params[at : at + per - (tail is not None)], gates, (inner, ends[-1]))
            for start, neurons in zip(starts, (ends[-1], inner), strict=False):
                _begin(c, start, layer * directions + d, neurons)
        shape = (*value.shape[:-1], ends[-1].atoms.shape[0])
        parts = [Value(shape, (f.on(len(shape) - 1),)) for f in ends[-directions:]]
        value = shapes.cat(c.system, parts, -1)
    finals = zip((ends, cells), c.shape[1:], strict=False)
    return [Value(c.shape[0], value.factors), *(_final(neurons, shape) for neurons, shape in finals)]


def _begin(c: Call, start: Value, row: int, neurons: Factor) -> None:
    """The first state or cell of one direction has its neurons and their scales; one from outside stays as it is."""
    if start.zero:
        return
    state = shapes.take(start, 0, lambda entries: entries[row], None)
    last = len(state.shape) - 1
    inner = state.factor(last)
    for f in state.without(inner):
        freeze(c.system, f, "a recurrent layer starts there")
    if inner is not None and inner.axes == (last,):
        c.system.same(inner.atoms, neurons.atoms)
        c.system.balance((inner.cells, 1.0), (neurons.cells, -1.0), why=f"{c.why} starts there")
        return
    freeze(c.system, inner, "a recurrent layer starts there")
    why = "the first state is not its own"
    c.system.hold(neurons.cells, why)
    if inner is not None or state.varies(last):
        c.system.fix(neurons.atoms, why)


def _final(ends: list[Factor], shape: tuple[int, ...]) -> Value:
    """The last states of all layers and directions, stacked: other neurons in every row."""
    if shape[0] == 1:
        return Value(shape, (ends[0].on(len(shape) - 1),))
    atoms, cells = np.stack([f.atoms for f in ends]), np.stack([f.cells for f in ends])
    return Value(shape, (Factor((0, len(shape) - 1), atoms, cells),))


def _neurons(c: Call, gates: int, params: list[Value]) -> Factor:
    """New neurons of one direction of one layer."""
    atoms = c.system.atoms(params[0].shape[0] // gates)
    cells = c.system.cells(atoms)
    relu = c.why == "rnn_relu"
    c.system.bend(atoms, c.why)
    c.system.note(atoms, c.why)
    c.system.hold(cells, f"{c.why} gates allow signs only" if not relu else "relu allows positive scales only",
                  scale=not relu, sign=relu)  # fmt: skip
    return Factor((0,), atoms, cells)


def _projected(c: Call, neurons: Factor, weight: Value) -> Factor:
    """The state is a linear map of the neurons: any basis of it will do."""
    algebra.contract(c.system, _vector(neurons), weight, 0, 1, [], c.why)
    c.role(weight, dst=0, src=1)
    rows = weight.factor(0)
    if rows is None:  # a state of one number
        atoms = c.system.atoms(1)
        rows = Factor((0,), atoms, c.system.cells(atoms))
        freeze(c.system, rows, "a state of one number")
    return rows


def _vector(neurons: Factor) -> Value:
    size = neurons.atoms.shape[0]
    return Value((size,), (neurons.on(0),) if size > 1 else ())


def _tie(c: Call, x: Value, params: list[Value], gates: int, ends: tuple[Factor, Factor]) -> None:
    """Tie one direction of one layer to its input, its neurons and the state that leads back."""
    inner, state = ends
    size = inner.atoms.shape[0]
    for value in params:
        rows = value.factor(0)
        if rows is None:
            freeze_all(c.system, value, "a recurrent layer of one unit")
            continue
        _rows(c, rows.atoms.reshape(gates, size), rows.cells.reshape(gates, size), inner.atoms, inner.cells)
        c.role(value, dst=0, src=1 if len(value.shape) > 1 else None)
    algebra.contract(c.system, x, params[0], -1, 1, [], c.why)
    algebra.contract(c.system, _vector(state), params[1], 0, 1, [], c.why)


def _rows(c: Call, rows: Ints, row_cells: Ints, atoms: Ints, cells: Ints) -> None:
    candidate = _GATES[c.why][1]
    c.system.same(rows, atoms[None])
    for gate in range(len(rows)):
        if gate == candidate:
            c.system.balance((row_cells[gate], 1.0), (cells, -1.0), why=c.why)
        else:
            c.system.hold(row_cells[gate], "a sigmoid gate allows no scale")
