"""Trace a module with torch.export into a Program, with the shapes of all its values."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._export.converter import TS2EPConverter
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from converters.gauge.calls import rule_for
from graphnfn.errors import ConversionError
from graphnfn.program import DType, Op, Program, Ref


@dataclass(frozen=True)
class Traced:
    """A traced network.

    Args:
        program: its operators.
        shapes: of every value; lists where an operator has several results, None where it is no tensor.
        tensors: the state dict.
        constants: tensors outside the state dict, in the order of ``program.constants``.
        inputs: what it was traced with.
        aliases: further names of tensors that share their storage: name -> the name that the program uses.
    """

    program: Program
    shapes: dict[str, Any]
    tensors: dict[str, Tensor]
    constants: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    aliases: dict[str, str]

    @property
    def movable(self) -> frozenset[str]:
        """Tensors of the state dict that the program uses and that hold weights."""
        used = {name for _, name in self.program.tensors}
        return frozenset(n for n, t in self.tensors.items() if n in used and t.is_floating_point())


def trace_module(module: nn.Module, inputs: Sequence[Tensor]) -> Traced:
    """Trace a module in eval mode on example inputs; the module's modes are put back.

    Raises:
        ConversionError: it does not run on these inputs, or cannot be traced.
    """
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(value):
            raise ConversionError(f"{name!r} has no shape yet: run the module once before converting it")
    modes = {part: part.training for part in module.modules()}
    try:
        _run_once(module.eval(), inputs)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = _decomposed(_exported(module, tuple(inputs)))
    except ConversionError:
        raise
    except Exception as error:  # tracing runs the user's own forward, which may raise anything
        raise ConversionError(
            f"{type(module).__name__} cannot be traced ({_first_line(error)}): its forward must not branch on values"
        ) from error
    finally:
        for part, training in modes.items():
            part.training = training
    return _collect(module, exported, tuple(inputs))


def _exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    if isinstance(module, torch.jit.ScriptModule):
        return TS2EPConverter(module, inputs).convert()
    return torch.export.export(module, inputs, strict=False)


def _run_once(module: nn.Module, inputs: Sequence[Tensor]) -> None:
    try:
        with torch.no_grad():
            module(*inputs)
    except Exception as error:  # the user's own forward, which may raise anything
        shapes = [tuple(x.shape) for x in inputs]
        raise ConversionError(
            f"example_input of shape {shapes[0] if len(shapes) == 1 else shapes} does not run: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _decomposed(exported: ExportedProgram) -> ExportedProgram:
    """Operators without a rule are replaced by simpler ones where PyTorch knows how."""
    unknown = {n.target for n in exported.graph.nodes if n.op == "call_function" and _unknown(n.target)}
    table = {k: v for k, v in torch.export.default_decompositions().items() if k in unknown}
    writes = any(n.op == "call_function" and _in_place(n.target) for n in exported.graph.nodes)
    return exported.run_decompositions(table) if table or writes else exported  # which also makes writes into copies


def _in_place(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _unknown(target: Any) -> bool:
    return target is not operator.getitem and rule_for(_name(target)) is None


def _name(target: Any) -> str:
    return "getitem" if target is operator.getitem else str(target)


def _collect(module: nn.Module, exported: ExportedProgram, inputs: tuple[Tensor, ...]) -> Traced:
    state = dict(module.state_dict(keep_vars=False))
    by_storage: dict[tuple, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() and key in by_storage:
            aliases[name] = by_storage[key]
        else:
            by_storage[key] = name
    names: list[tuple[str, str]] = []
    given, constants, values = [], [], []
    for spec in exported.graph_signature.input_specs:
        value = getattr(spec.arg, "name", "")
        if spec.kind is InputKind.USER_INPUT:
            given.append(value)
        elif spec.target in state:
            names.append((value, aliases.get(str(spec.target), str(spec.target))))
        else:
            held: dict[str, Any] = {**exported.state_dict, **exported.constants}
            constants.append(value)
            values.append(held[str(spec.target)].detach())
    shapes: dict[str, Any] = {}
    ops = []
    outputs: list[str] = []
    for node in exported.graph.nodes:
        shapes[node.name] = _shape(node.meta.get("val"))
        if node.op == "call_function":
            if not _name(node.target).startswith(("aten.", "getitem")):
                raise ConversionError(
                    f"operator {_name(node.target)} ({node.name}) is none of PyTorch's own: convert the module in a "
                    "form that uses ATen operators only, e.g. without a library's fused kernels"
                )
            kwargs = tuple((k, _plain(v)) for k, v in _typed(node).items() if k not in _SKIPPED)
            ops.append(Op(node.name, _name(node.target), tuple(_plain(a) for a in node.args), kwargs))
        elif node.op == "output":
            outputs = [a.name for a in _flat(node.args[0]) if isinstance(a, fx.Node)]
    read = {ref for op in ops for ref in op.refs()} | set(outputs)
    kept = [(c, v) for c, v in zip(constants, values, strict=True) if c in read]
    names = [(value, name) for value, name in names if value in read]
    program = Program(tuple(given), tuple(names), tuple(c for c, _ in kept), tuple(ops), tuple(outputs))
    used = [g for g, x in zip(given, inputs, strict=False) if isinstance(x, Tensor)]
    if len(used) != len(given):
        raise ConversionError("the module takes inputs that are no tensors: give tensors only")
    return Traced(
        program, shapes, {k: v.detach() for k, v in state.items()}, tuple(v for _, v in kept), inputs, aliases
    )


_SKIPPED = ("device", "pin_memory", "layout", "memory_format", "non_blocking")


def _typed(node: fx.Node) -> dict[str, Any]:
    """The keywords of an operator; one that makes a tensor from nothing says its type, not the default of the day."""
    made, target = node.meta.get("val"), node.target
    if not isinstance(made, Tensor) or node.all_input_nodes or not isinstance(target, torch._ops.OpOverload):
        return dict(node.kwargs)
    untyped = node.kwargs.get("dtype") is None and any(a.name == "dtype" for a in target._schema.arguments)
    return {**node.kwargs, "dtype": made.dtype} if untyped else dict(node.kwargs)


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(int(s) for s in value.shape)
    if isinstance(value, (list, tuple)):
        return [_shape(v) for v in value]
    return None


def _flat(value: Any) -> list[Any]:
    return [x for part in value for x in _flat(part)] if isinstance(value, (list, tuple)) else [value]


def _plain(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return Ref(value.name)
    if isinstance(value, torch.dtype):
        return DType(str(value).removeprefix("torch."))
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v) for v in value)
    if isinstance(value, (torch.device, torch.memory_format, torch.layout)):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConversionError(f"an operator has an argument of type {type(value).__name__}, which cannot be recorded")
