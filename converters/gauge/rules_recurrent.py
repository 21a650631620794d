"""Rules of LSTM, GRU and plain recurrent layers: one neuron has a row in every gate."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.gauge import algebra, shapes
from converters.gauge.calls import Call, rule
from converters.gauge.system import Ints
from converters.gauge.values import Factor, Value, freeze_all

_GATES = {"lstm": (4, 2), "gru": (3, 2), "rnn_tanh": (1, 0), "rnn_relu": (1, 0)}
"""Number of gates, and which of them is the candidate: its sign is the neuron's sign."""


@rule("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def recurrent(c: Call) -> Any:
    """Per unit one permutation; a sign flip of candidate row and output for tanh, a positive scale for relu."""
    x, state, params, biases, layers = c.args[:5]
    both = c.args[7]
    gates, _ = _GATES[c.why]
    per = 4 if biases else 2
    directions = 2 if both else 1
    starts = list(state) if isinstance(state, (list, tuple)) else [state]
    if len(params) != per * layers * directions or any(not s.zero for s in starts):
        for v in (x, *starts, *params):
            freeze_all(c.system, v, "a recurrent layer with projections or initial states")
        return None
    value, ends = x, []
    for layer in range(layers):
        for d in range(directions):
            at = per * (layer * directions + d)
            ends.append(_direction(c, value, params[at : at + per], gates))
        shape = (*value.shape[:-1], ends[-1].atoms.shape[0])
        parts = [Value(shape, (f.on(len(shape) - 1),)) for f in ends[-directions:]]
        value = shapes.cat(c.system, parts, -1)
    return [Value(c.shape[0], value.factors), *(_final(ends, s) for s in c.shape[1:])]


def _final(ends: list[Factor], shape: tuple[int, ...]) -> Value:
    """The last states of all layers and directions, stacked: other neurons in every row."""
    if shape[0] == 1:
        return Value(shape, (ends[0].on(len(shape) - 1),))
    atoms, cells = np.stack([f.atoms for f in ends]), np.stack([f.cells for f in ends])
    return Value(shape, (Factor((0, len(shape) - 1), atoms, cells),))


def _direction(c: Call, x: Value, params: list[Value], gates: int) -> Factor:
    """Tie one direction of one layer; gives its output neurons."""
    system = c.system
    into, back = params[0], params[1]
    size = back.shape[1]
    atoms = system.atoms(size)
    cells = system.cells(atoms)
    relu = c.why == "rnn_relu"
    system.bend(atoms, c.why)
    system.note(atoms, c.why)
    system.hold(cells, f"{c.why} gates allow signs only" if not relu else "relu allows positive scales only",
                scale=not relu, sign=relu)  # fmt: skip
    for value in params:
        rows = value.factor(0)
        if rows is None:
            freeze_all(system, value, "a recurrent layer of one unit")
            continue
        _rows(c, rows.atoms.reshape(gates, size), rows.cells.reshape(gates, size), atoms, cells)
        c.role(value, dst=0, src=1 if len(value.shape) > 1 else None)
    algebra.contract(system, x, into, -1, 1, [], c.why)
    neurons = Value((size,), (Factor((0,), atoms, cells),) if size > 1 else ())
    algebra.contract(system, neurons, back, 0, 1, [], c.why)
    return Factor((0,), atoms, cells)


def _rows(c: Call, rows: Ints, row_cells: Ints, atoms: Ints, cells: Ints) -> None:
    candidate = _GATES[c.why][1]
    c.system.same(rows, atoms[None])
    for gate in range(len(rows)):
        if gate == candidate:
            c.system.balance((row_cells[gate], 1.0), (cells, -1.0), why=c.why)
        else:
            c.system.hold(row_cells[gate], "a sigmoid gate allows no scale")
