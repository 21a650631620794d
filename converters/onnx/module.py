"""The network in an ONNX file as a module: its nodes, computed in order with PyTorch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# the modules below register their operators
from converters.onnx import (  # noqa: F401
    host,
    ops_index,
    ops_layout,
    ops_linear,
    ops_norm,
    ops_pointwise,
    ops_pool,
    ops_recurrent,
    ops_reduce,
    ops_resize,
)
from converters.onnx.calls import HOST, OPERATORS, SHAPES, Call, Node
from converters.onnx.plan import Plan
from converters.onnx.tensors import to_torch
from graphnfn.errors import ConversionError

MAX_ENTRIES = 1 << 28
"""No intermediate result may have more entries."""


class OnnxModule(nn.Module):
    """Computes the nodes of a plan; weights have the names that they have in the file where PyTorch allows them.

    What is known from the file and the shapes of the inputs alone (shapes, indices, masks) is computed on arrays, so
    that ``torch.export`` sees numbers there.

    Args:
        plan: what to compute.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.places: dict[str, str] = {}
        for name, array in plan.weights.items():
            value = to_torch(array)
            learned = value.is_floating_point() and name not in plan.statistics
            self.places[name] = _place(self, name, nn.Parameter(value) if learned else value)
        self._first = next((n for n in plan.weights if self._weight(n).is_floating_point()), None)
        self._stored = None if self._first is None else self._weight(self._first).dtype

    def _weight(self, name: str) -> Tensor:
        holder, _, last = self.places[name].rpartition(".")
        return getattr(self.get_submodule(holder), last)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        plan = self.plan
        if len(inputs) != len(plan.inputs):
            raise ConversionError(f"got {len(inputs)} inputs, expected {len(plan.inputs)}: {', '.join(plan.inputs)}")
        now = None if self._first is None else self._weight(self._first).dtype
        run = _Run(None if now == self._stored else now, inputs[0].device if inputs else torch.device("cpu"))
        values: dict[str, Any] = {"": None, **plan.literals, **dict(zip(plan.inputs, inputs, strict=True))}
        values.update((name, self._weight(name)) for name in self.places)
        for node in plan.nodes:
            results = run.node(node, [values[name] for name in node.inputs])
            values.update(zip(node.outputs, results, strict=False))
            values[""] = None
        results = tuple(run.tensor(values[name]) for name in plan.outputs)
        return results[0] if len(results) == 1 else results


class _Run:
    """One pass: in which type of numbers, and where."""

    def __init__(self, floating: torch.dtype | None, device: torch.device) -> None:
        self.floating, self.device = floating, device

    def node(self, node: Node, values: list[Any]) -> Sequence[Any]:
        """The results of one node.

        Raises:
            ConversionError: they cannot be computed; the message names the node.
        """
        call = Call(node, self.floating)
        try:
            result = self._results(call, values)
        except ConversionError as error:
            raise ConversionError(f"{node.name}: {error}") from error
        except Exception as error:  # a wrong attribute or shape ends in any of Python's errors
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            shapes = [tuple(v.shape) for v in values if v is not None]
            raise ConversionError(f"{node.name} cannot be computed on shapes {shapes}: {first}") from error
        results = result if isinstance(result, (tuple, list)) else [result]
        for value in results:
            if isinstance(value, Tensor) and value.numel() > MAX_ENTRIES:
                raise ConversionError(f"{node.name} makes {value.numel()} entries; the limit is {MAX_ENTRIES}")
        if len(results) < len(node.outputs):
            raise ConversionError(f"{node.name} has {len(node.outputs)} outputs; expected {len(results)} at most")
        return results

    def _results(self, call: Call, values: list[Any]) -> Any:
        op = call.node.op
        if op in SHAPES:
            return _shape(call, values[0])
        known = all(v is None or isinstance(v, np.ndarray) for v in values)
        if known and op in HOST:
            with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                found = HOST[op](call, *values)
            return [np.asarray(v) for v in found] if isinstance(found, list) else np.asarray(found)
        operator = OPERATORS.get(op)
        if operator is None:
            raise ConversionError(f"{op} is supported only where its inputs follow from the file and the shapes")
        rank = max((v.dim() for v in values if isinstance(v, Tensor)), default=-1)
        args = []
        for place, value in enumerate(values):
            if place in operator.static and isinstance(value, Tensor):
                raise ConversionError(f"its input {place} must be a constant or follow from shapes; it is computed")
            as_number = operator.numbers or place in operator.scalar
            if place in operator.static | operator.known or value is None or isinstance(value, Tensor):
                args.append(value)
            elif as_number and value.size == 1 and value.ndim <= rank:
                args.append(value.item())
            else:
                args.append(self.tensor(value))
        return operator.run(call, *args)

    def tensor(self, value: Any) -> Tensor:
        """A known array as a tensor."""
        if isinstance(value, Tensor):
            return value
        value = np.asarray(value)
        made = to_torch(value)
        kind = self.floating if made.is_floating_point() and self.floating is not None else made.dtype
        if made.is_floating_point() and value.size > 1 and not value.any():
            return torch.zeros(value.shape, dtype=kind, device=self.device)
        return made.to(device=self.device, dtype=kind)


def _shape(call: Call, value: Any) -> np.ndarray:
    shape = np.asarray(tuple(value.shape), np.int64)
    if call.node.op == "Size":
        return np.asarray(shape.prod(), np.int64)
    return shape[slice(call.attr("start", 0), call.attr("end"))]


def _place(root: nn.Module, name: str, value: Tensor) -> str:
    """Store a tensor under its own name, changed as little as PyTorch asks for; gives the name that it got."""
    *path, last = [re.sub(r"\W", "_", part) or "_" for part in name.split(".")]
    holder, taken = root, []
    for part in path:
        while part in holder._parameters or part in holder._buffers or (
            part not in holder._modules and hasattr(holder, part)
        ):  # fmt: skip
            part += "_"
        if part not in holder._modules:
            holder.add_module(part, nn.Module())
        holder = holder.get_submodule(part)
        taken.append(part)
    while hasattr(holder, last):
        last += "_"
    if isinstance(value, nn.Parameter):
        holder.register_parameter(last, value)
    else:
        holder.register_buffer(last, value)
    return ".".join([*taken, last])
