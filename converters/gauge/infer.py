"""Walk over a program and collect the constraints of all its operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.gauge import rules_contract, rules_layout, rules_linear, rules_pointwise, rules_recurrent
from converters.gauge.calls import Call, rule_for
from converters.gauge.flow import in_place, live, stale
from converters.gauge.system import Ints, System
from converters.gauge.values import Factor, Value, freeze_all, fresh, leads
from graphnfn.program import Op, Program, Ref

_ = (
    rules_contract,
    rules_layout,
    rules_linear,
    rules_pointwise,
    rules_recurrent,
)  # imported for the rules that they register

Shape = tuple[int, ...]
Joint = tuple[str, int, int]
OUTPUT = "it is the output"
UNREAD = "this trace does not read it"


@dataclass(frozen=True)
class Inference:
    """All constraints of a program, and where its parameters and values have their neurons.

    Args:
        places: where the neurons sit in the tensors of the state dict that may be transformed.
        values: every value of the program.
        sources: per cell, 1 at the source end of a weight, 0 at its target end, -1 where neither is known.
        opaque: operators without a rule; the axes around them are fixed.
        order: the parameters in order of first use.
        useless: what was told apart in vain.
    """

    system: System
    places: dict[str, tuple[Factor, ...]]
    values: dict[str, Value]
    sources: Ints
    opaque: tuple[Op, ...]
    order: tuple[str, ...]
    useless: frozenset[Joint]


def infer(
    program: Program, shapes: Mapping[str, Any], tensors: Mapping[str, Shape], movable: frozenset[str]
) -> Inference:
    """Collect what every operator asks of the axes around it.

    Args:
        program: the traced network.
        shapes: of every result; a list of shapes where there are several, None where it is no tensor.
        tensors: shapes of the state dict's tensors.
        movable: the tensors that may be transformed (floating point, in the state dict).
    """
    apart: frozenset[Joint] = frozenset()
    found, wishes = _walk(program, shapes, tensors, movable, apart)
    while not wishes <= apart:
        apart |= wishes
        found, wishes = _walk(program, shapes, tensors, movable, apart)
    while found.useless:
        apart -= found.useless
        found, _ = _walk(program, shapes, tensors, movable, apart)
    return found


def _walk(
    program: Program, shapes: Mapping[str, Any], tensors: Mapping[str, Shape], movable: frozenset[str],
    apart: frozenset[Joint],
) -> tuple[Inference, set[Joint]]:  # fmt: skip
    """One pass; ``apart`` are axes of parameters that have other neurons for every entry of another axis."""
    system = System()
    params = {n: fresh(system, tensors[n], n, [(i, j) for p, i, j in apart if p == n]) for n in sorted(movable)}
    values: dict[str, Any] = {}
    for value, name in program.tensors:
        values[value] = params[name] if name in movable else Value(tuple(tensors[name]))
    for name in (*program.inputs, *program.constants):
        values[name] = Value(shapes[name]) if shapes[name] is not None else None
    joint: dict[str, Factor] = {}
    opaque = []
    for op in live(program):
        shape = shapes[op.name]
        if op.target == "getitem":
            values[op.name] = values[op.args[0].name][op.args[1]]
            continue
        args, kwargs = _resolve(op.args, values), {k: _resolve(v, values) for k, v in op.kwargs}
        call = Call(system, op.name, op.target, args, kwargs, shape, joint)
        found = rule_for(op.target)
        result = None if found is None else found(call)
        if found is None:
            opaque.append(op)
        values[op.name] = _checked(system, op, result, shape, values, known=found is not None)
        if in_place(op):
            _overwrite(system, op, values, stale(program, op))
    for name in program.outputs:
        if isinstance(values.get(name), Value):
            freeze_all(system, values[name], OUTPUT)
    _fix_unread(system, params, values)
    named = dict(program.tensors)
    used = [named[r] for op in live(program) for r in op.refs() if r in named]
    order = tuple(dict.fromkeys(n for n in used if n in params))
    places = {n: _places(system, v, joint.get(n)) for n, v in params.items()}
    kept = {k: v for k, v in values.items() if isinstance(v, Value)}
    return Inference(system, places, kept, system.sources(), tuple(opaque), order, _useless(system, params)), _wishes(
        system, params
    )


def _fix_unread(system: System, params: Mapping[str, Value], values: Mapping[str, Any]) -> None:
    """Entries that this trace never reads, such as later positions of a table, are free in any way: claim nothing."""
    read = np.zeros(system.num_atoms, dtype=bool)
    for pair in system.unions:
        for atoms in pair:
            read[atoms] = True
    for atoms, _, _ in system.fixed:
        read[atoms] = True
    own = {id(v) for v in params.values()}
    for value in values.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Value) and id(part) not in own:
                for f in part.factors:
                    read[f.atoms] = True
    for value in params.values():
        for f in value.factors:
            if not read[f.atoms].all():
                lost = ~read[f.atoms]
                system.fix(f.atoms[lost], UNREAD)
                system.hold(f.cells[lost], UNREAD)


def _places(system: System, value: Value, columns: Factor | None) -> tuple[Factor, ...]:
    if columns is None:
        return (*value.factors, *leads(system, value).values())
    return (*(f for f in value.factors if f.axes != columns.axes[1:]), columns)


def _wishes(system: System, params: Mapping[str, Value]) -> set[Joint]:
    """Axes of parameters that were wished to be joint, directly or by parameters that are tied to these."""
    if not system.wishes:
        return set()
    roots = system.roots()
    pairs = {tuple(frozenset(roots[x].reshape(-1).tolist()) for x in pair) for pair in system.wishes}
    out = set()
    for name, value in params.items():
        single = [(f.axes[0], frozenset(roots[f.atoms].tolist())) for f in value.factors if len(f.axes) == 1]
        out |= {(name, i, j) for i, a in single for j, b in single if i < j and ((a, b) in pairs or (b, a) in pairs)}
    return out


def _useless(system: System, params: Mapping[str, Value]) -> frozenset[Joint]:
    """Axes of parameters whose neurons turned out to be the same in all rows, or the same along a row."""
    joint = [(n, f) for n, value in params.items() for f in value.factors if len(f.axes) > 1]
    if not joint:
        return frozenset()
    roots = system.roots()
    return frozenset(
        (n, f.axes[0], f.axes[1]) for n, f in joint
        if any((roots[f.atoms] == roots[first]).all() for first in (f.atoms[:1], f.atoms[:, :1]))
    )  # fmt: skip


def _overwrite(system: System, op: Op, values: dict[str, Any], others: set[str]) -> None:
    """The first argument is the result from now on; what shares its memory is not followed."""
    first = op.args[0].name
    for name in others:
        for value in (values[name], values[first], values[op.name]):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, Value):
                    freeze_all(system, part, "its memory is written to in place")
        values[name] = _plain(values[name])
    values[first] = values[op.name]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return Value(value.shape) if isinstance(value, Value) else value


def _resolve(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, Ref):
        return values[value.name]
    return tuple(_resolve(v, values) for v in value) if isinstance(value, (tuple, list)) else value


def _checked(system: System, op: Op, result: Any, shape: Any, values: Mapping[str, Any], *, known: bool) -> Any:
    """The result of a rule where its shapes are the traced ones; else everything around the operator is fixed."""
    wanted = shape if isinstance(shape, list) else [shape]
    got = result if isinstance(result, list) else [result]
    good = len(got) == len(wanted) and all(
        w is None or (isinstance(v, Value) and v.shape == tuple(w)) for v, w in zip(got, wanted, strict=True)
    )
    if good:
        return result
    why = f"{op.target.split('.')[1]} is not supported" if not known else f"{op.target} in this form is not followed"
    for name in op.refs():
        for value in values[name] if isinstance(values[name], list) else [values[name]]:
            if isinstance(value, Value):
                freeze_all(system, value, why)
    for value in got:
        if isinstance(value, Value):
            freeze_all(system, value, why)
    plain = [None if w is None else Value(tuple(w)) for w in wanted]
    return plain if isinstance(shape, list) else plain[0]
