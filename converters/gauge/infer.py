"""Walk over a program and collect the constraints of all its operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converters.gauge import rules_layout, rules_linear, rules_pointwise, rules_recurrent
from converters.gauge.calls import Call, rule_for
from converters.gauge.system import System
from converters.gauge.values import Factor, Value, freeze_all, fresh
from graphnfn.program import Op, Program, Ref

_ = (rules_layout, rules_linear, rules_pointwise, rules_recurrent)  # imported for the rules that they register

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Inference:
    """All constraints of a program, and where its parameters and values have their neurons.

    Args:
        params: the tensors of the state dict that may be transformed.
        values: every value of the program.
        roles: (parameter, axis) -> "dst" or "src".
        joint: axes of parameters that mean other neurons in other rows.
        opaque: operators without a rule; the axes around them are fixed.
        order: the parameters in order of first use.
    """

    system: System
    params: dict[str, Value]
    values: dict[str, Value]
    roles: dict[tuple[str, int], str]
    joint: dict[tuple[str, int], Factor]
    opaque: tuple[Op, ...]
    order: tuple[str, ...]


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
    system = System()
    params = {name: fresh(system, tensors[name], name) for name in movable}
    values: dict[str, Any] = {}
    for value, name in program.tensors:
        values[value] = params[name] if name in movable else Value(tuple(tensors[name]))
    for name in (*program.inputs, *program.constants):
        values[name] = Value(shapes[name]) if shapes[name] is not None else None
    roles: dict[tuple[str, int], str] = {}
    joint: dict[tuple[str, int], Factor] = {}
    opaque = []
    for op in program.ops:
        shape = shapes[op.name]
        if op.target == "getitem":
            values[op.name] = values[op.args[0].name][op.args[1]]
            continue
        args, kwargs = _resolve(op.args, values), {k: _resolve(v, values) for k, v in op.kwargs}
        call = Call(system, op.name, op.target, args, kwargs, shape, roles, joint)
        found = rule_for(op.target)
        result = None if found is None else found(call)
        if found is None:
            opaque.append(op)
        values[op.name] = _checked(system, op, result, shape, values, known=found is not None)
    for name in program.outputs:
        if isinstance(values.get(name), Value):
            freeze_all(system, values[name], "it is the output")
    named = dict(program.tensors)
    used = [named[r] for op in program.ops for r in op.refs() if r in named]
    order = tuple(dict.fromkeys(n for n in used if n in params))
    return Inference(system, params, {k: v for k, v in values.items() if isinstance(v, Value)}, roles, joint,
                     tuple(opaque), order)  # fmt: skip


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
