"""Small inputs that a network takes, found by trying sizes on shapes alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from onnx import ValueInfoProto
from torch import Tensor

from converters.onnx.module import OnnxModule
from converters.onnx.plan import Plan
from converters.onnx.tensors import TYPES
from graphnfn.errors import ConversionError

MAX_INPUT = 1 << 24
"""No example input may have more entries."""
_SIZES = (16, 32, 48, 64, 224, 1024, 16000)
_TRIES, _NODES = 64, 30_000
"""At most so many sizes are tried, and at most so many nodes computed on the way."""
_SAME = ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten")

Axes = tuple[int | str, ...]


def example_inputs(module: OnnxModule, declared: list[ValueInfoProto]) -> tuple[Tensor, ...]:
    """Fixed random inputs; sizes that the file leaves open are the smallest that run, the batch is 2 where it can be.

    Indices into a table stay in it, masks are ones, numbers without axes are 1, 1000, ... in the order of the inputs.

    Raises:
        ConversionError: an input is no tensor, or no size runs.
    """
    kinds, shapes = [], []
    for k, value in enumerate(declared):
        kinds.append(_kind(value))
        shapes.append(_axes(value, k))
    weights = {name: p.to("meta") for name, p in module.state_dict().items()}
    problem: ConversionError | None = None
    tries = min(_TRIES, max(2, _NODES // max(1, len(module.plan.nodes))))
    for sizes in itertools.islice(_choices(shapes), tries):
        real = [tuple(n if isinstance(n, int) else sizes[n] for n in shape) for shape in shapes]
        if any(math.prod(shape) > MAX_INPUT for shape in real):
            problem = problem or ConversionError(f"inputs of shapes {real} are too large to try")
            continue
        try:
            empty = tuple(torch.empty(s, dtype=k, device="meta") for s, k in zip(real, kinds, strict=True))
            with torch.no_grad():
                torch.func.functional_call(module, weights, empty)
        except ConversionError as error:
            problem = problem or error
            continue
        before = [sum(not s for s in real[:k]) for k in range(len(real))]
        return tuple(_filled(module, k, real[k], kinds[k], before[k]) for k in range(len(real)))
    raise ConversionError(f"no input that was tried runs; give `inputs`. First problem: {problem}") from problem


def _kind(value: ValueInfoProto) -> torch.dtype:
    code = value.type.tensor_type.elem_type
    if not value.type.HasField("tensor_type") or code not in TYPES:
        raise ConversionError(f"input {value.name!r} is no tensor of numbers; only those are supported")
    return TYPES[code]


def _axes(value: ValueInfoProto, place: int) -> Axes:
    """Sizes where they are declared, names of open axes elsewhere; ``batch`` is the first."""
    out: list[int | str] = []
    for axis, d in enumerate(value.type.tensor_type.shape.dim):
        if d.dim_value > 0:
            out.append(d.dim_value)
        elif axis == 0 and len(value.type.tensor_type.shape.dim) > 1:
            out.append("batch")
        else:
            known = d.dim_param and d.dim_param != "?"
            out.append(("batch" if "batch" in d.dim_param.lower() else d.dim_param) if known else f"{place}.{axis}")
    return tuple(out)


def _choices(shapes: list[Axes]) -> Iterator[dict[str, int]]:
    """Sizes of the open axes: all alike first, then mixed; batches of two first."""
    names = list(dict.fromkeys(n for shape in shapes for n in shape if isinstance(n, str)))
    batches = (2, 1) if "batch" in names else (1,)
    names = [n for n in names if n != "batch"]
    alike = [(size,) * len(names) for size in _SIZES] if names else [()]
    mixed = itertools.product(_SIZES[:5], repeat=len(names)) if len(names) > 1 else iter(())
    for sizes in itertools.chain(alike, mixed):
        for batch in batches:
            yield {"batch": batch, **dict(zip(names, sizes, strict=True))}


def _filled(module: OnnxModule, place: int, shape: tuple[int, ...], kind: torch.dtype, numbers: int) -> Tensor:
    """``numbers`` is how many inputs without axes come before this one."""
    generator = torch.Generator().manual_seed(place)
    if kind.is_floating_point:
        return (torch.randn(shape, generator=generator) if shape else torch.tensor(10.0 ** (3 * numbers))).to(kind)
    rows = _rows(module.plan, module.plan.inputs[place])
    if kind == torch.bool or rows is None:
        return torch.ones(shape, dtype=kind)
    return torch.randint(rows, shape, generator=generator).to(kind)


def _rows(plan: Plan, name: str) -> int | None:
    """The length of the shortest table in which an input picks rows."""
    same, rows = {name}, []
    for node in plan.nodes:
        if node.op in _SAME and node.inputs[0] in same:
            same.update(node.outputs)
        if node.op == "Gather" and node.inputs[1] in same and node.inputs[0] in plan.weights:
            rows.append(plan.weights[node.inputs[0]].shape[node.attrs.get("axis", 0)])
    return min(rows, default=None)
