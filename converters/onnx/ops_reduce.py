"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.onnx.calls import Call, axes_of, axis_of, operator
from graphnfn.errors import ConversionError


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCE: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
}


@operator(*_REDUCE, static=(1,))
def reduce(c: Call, x: Tensor, axes: np.ndarray | None = None) -> Tensor:
    """Over some axes, or all of them."""
    found = axes_of(c, axes, x.dim())
    if not found:
        if c.attr("noop_with_empty_axes", 0):
            return x
        found = list(range(x.dim()))
    return _REDUCE[c.node.op](x, found, bool(c.attr("keepdims", 1)))


@operator("ArgMax", "ArgMin")
def arg(c: Call, x: Tensor) -> Tensor:
    if c.attr("select_last_index", 0):
        raise ConversionError("select_last_index is not supported")
    axis, keep = axis_of(c.attr("axis", 0), x.dim()), bool(c.attr("keepdims", 1))
    return x.argmax(axis, keepdim=keep) if c.node.op == "ArgMax" else x.argmin(axis, keepdim=keep)


@operator("CumSum", static=(1,))
def cumulate(c: Call, x: Tensor, axis: Any) -> Tensor:
    axis = axis_of(int(axis), x.dim())
    x = x.flip(axis) if c.attr("reverse", 0) else x
    out = x.cumsum(axis, dtype=x.dtype)
    out = out - x if c.attr("exclusive", 0) else out
    return out.flip(axis) if c.attr("reverse", 0) else out


@operator("TopK", static=(1,))
def top(c: Call, x: Tensor, k: np.ndarray) -> tuple[Tensor, Tensor]:
    axis = axis_of(c.attr("axis", -1), x.dim())
    values, places = torch.topk(x, int(k.reshape(-1)[0]), axis, bool(c.attr("largest", 1)), bool(c.attr("sorted", 1)))
    return values, places
