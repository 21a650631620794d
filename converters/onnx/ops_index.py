"""Operators that pick or place entries by number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx.calls import Call, axis_of, operator
from converters.onnx.tensors import to_torch
from graphnfn.errors import ConversionError


def _positive(index: Tensor, size: int) -> Tensor:
    """Numbers that count from the end, counted from the front."""
    return torch.where(index < 0, index + size, index)


@operator("Gather", known=(1,))
def gather(c: Call, x: Tensor, index: Tensor | np.ndarray) -> Tensor:
    """``x[..., index, ...]``; rows of a matrix are an embedding."""
    axis = axis_of(c.attr("axis", 0), x.dim())
    if isinstance(index, np.ndarray):
        return _gather_known(x, index, axis)
    index = _positive(index.long(), x.shape[axis])
    if axis == 0 and x.dim() == 2:
        return F.embedding(index, x)
    out = x.index_select(axis, index.reshape(-1))
    return out.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_known(x: Tensor, index: np.ndarray, axis: int) -> Tensor:
    size = x.shape[axis]
    index = np.where(index < 0, index + size, index).astype(np.int64)
    if index.size and (index.min() < 0 or index.max() >= size):
        raise ConversionError(f"picks entries {index.min()} to {index.max()} of an axis with {size}")
    if index.ndim == 0:
        return x.select(axis, int(index))
    if axis == 0 and x.dim() == 2:  # rows of a table belong to their numbers, also those that are not read here
        return F.embedding(to_torch(index).to(x.device), x)
    flat = index.reshape(-1)
    if flat.size and (flat == np.arange(flat[0], flat[0] + flat.size)).all():
        out = x.narrow(axis, int(flat[0]), flat.size)
    else:
        out = x.index_select(axis, torch.from_numpy(flat).to(x.device))
    return out if index.ndim == 1 else out.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(c: Call, x: Tensor, index: Tensor) -> Tensor:
    axis = axis_of(c.attr("axis", 0), x.dim())
    return x.gather(axis, _positive(index.long(), x.shape[axis]))


@operator("GatherND")
def gather_nd(c: Call, x: Tensor, index: Tensor) -> Tensor:
    if c.attr("batch_dims", 0):
        raise ConversionError("batch_dims is not supported")
    return x[tuple(_positive(i, n) for i, n in zip(index.long().unbind(-1), x.shape, strict=False))]


_REDUCTION = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("ScatterElements", "Scatter")
def scatter(c: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    axis = axis_of(c.attr("axis", 0), x.dim())
    index = _positive(index.long(), x.shape[axis])
    how = c.attr("reduction", "none")
    return x.scatter(axis, index, updates) if how == "none" else x.scatter_reduce(axis, index, updates, _REDUCTION[how])


@operator("ScatterND")
def scatter_nd(c: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    how = c.attr("reduction", "none")
    if how not in ("none", "add"):
        raise ConversionError(f"reduction {how!r} is not supported")
    places = tuple(_positive(i, n) for i, n in zip(index.long().unbind(-1), x.shape, strict=False))
    return x.index_put(places, updates, accumulate=how == "add")


@operator("OneHot", static=(1, 2))
def one_hot(c: Call, index: Tensor, depth: np.ndarray, values: np.ndarray) -> Tensor:
    count, rank = int(depth.reshape(-1)[0]), index.dim() + 1
    axis = axis_of(c.attr("axis", -1), rank)
    off, on = values.reshape(-1).tolist()
    kind = to_torch(values).dtype
    kind = c.floating if kind.is_floating_point and c.floating is not None else kind
    shape = [1] * rank
    shape[axis] = count
    hot = torch.arange(count, device=index.device).reshape(shape) == _positive(index.long(), count).unsqueeze(axis)
    return hot.to(kind) * (on - off) + off
