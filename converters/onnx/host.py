"""Operators on arrays that are known from the file and the shapes of the inputs alone."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from converters.onnx.calls import Call, axes_of, axis_of, host, ints
from graphnfn.errors import ConversionError

MAX_KNOWN = 1 << 24
"""No known array may have more entries."""


def bounded(shape: Any) -> list[int]:
    """A shape from the file, refused where it is negative or absurdly large."""
    out = ints(shape)
    if any(n < 0 for n in out) or math.prod(out) > MAX_KNOWN:
        raise ConversionError(f"asks for a known array of shape {out}; the limit is {MAX_KNOWN} entries")
    return out


def _elementwise(function: Any) -> Any:
    def run(c: Call, first: np.ndarray, *more: np.ndarray) -> Any:
        bounded(np.broadcast_shapes(first.shape, *(a.shape for a in more)))
        return functools.reduce(function, more, first) if more else function(first)

    return run


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return a / b
    if not b.all():
        raise ConversionError("divides an integer by zero")
    return np.trunc(a / b).astype(a.dtype) if abs(a).max(initial=0) < 1 << 52 else a // b


for _name, _function in {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide, "Max": np.maximum, "Min": np.minimum,
    "Sum": np.add, "Equal": np.equal, "Less": np.less, "LessOrEqual": np.less_equal, "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal, "And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor,
}.items():  # fmt: skip
    host(_name)(_elementwise(_function))
for _name, _function in {
    "Not": np.logical_not, "Neg": np.negative, "Abs": np.abs, "Floor": np.floor, "Ceil": np.ceil, "Sqrt": np.sqrt,
    "Exp": np.exp, "Log": np.log, "Sign": np.sign, "Round": np.round, "Reciprocal": np.reciprocal, "Sin": np.sin,
    "Cos": np.cos, "Identity": np.asarray,
}.items():  # fmt: skip
    host(_name)(_elementwise(_function))


@host("Pow")
def power(c: Call, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    bounded(np.broadcast_shapes(a.shape, b.shape))
    return np.power(a, b.astype(np.float64)).astype(a.dtype)


@host("Mod")
def modulo(c: Call, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    bounded(np.broadcast_shapes(a.shape, b.shape))
    return np.fmod(a, b) if c.attr("fmod", 0) else np.mod(a, b)


@host("Where")
def where(c: Call, mask: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    bounded(np.broadcast_shapes(mask.shape, a.shape, b.shape))
    return np.where(mask, a, b)


@host("Cast")
def cast(c: Call, a: np.ndarray) -> np.ndarray:
    kind = c.dtype(c.attr("to"))
    name = "float32" if kind.is_floating_point and kind.itemsize < 4 else str(kind).removeprefix("torch.")
    return a.astype(name)


@host("ConstantOfShape")
def constant_of_shape(c: Call, shape: np.ndarray) -> np.ndarray:
    value = np.asarray(c.attr("value", np.zeros(1, np.float32))).reshape(-1)
    return np.full(bounded(shape), value[0], value.dtype)


@host("Range")
def arange(c: Call, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray:
    if not delta.all():
        raise ConversionError("a range with steps of 0 does not end")
    bounded([max(0, math.ceil((limit.item() - start.item()) / delta.item()))])
    return np.arange(start.item(), limit.item(), delta.item()).astype(start.dtype)


@host("Concat")
def concat(c: Call, *arrays: np.ndarray) -> np.ndarray:
    bounded([sum(a.size for a in arrays)])
    return np.concatenate(arrays, axis_of(c.attr("axis"), arrays[0].ndim))


@host("Gather")
def gather(c: Call, a: np.ndarray, index: np.ndarray) -> np.ndarray:
    axis = axis_of(c.attr("axis", 0), a.ndim)
    bounded([index.size, math.prod(a.shape[:axis] + a.shape[axis + 1 :])])
    return np.take(a, index, axis)


@host("GatherND")
def gather_nd(c: Call, a: np.ndarray, index: np.ndarray) -> np.ndarray:
    if c.attr("batch_dims", 0):
        raise ConversionError("batch_dims is not supported on known arrays")
    bounded([index.size, math.prod(a.shape[index.shape[-1] :])])
    return a[tuple(np.moveaxis(index, -1, 0))]


@host("Slice")
def slices(c: Call, a: np.ndarray, *given: np.ndarray) -> np.ndarray:
    return a[tuple(slices_of(c, a.shape, given))]


def slices_of(c: Call, shape: Any, given: tuple[Any, ...]) -> list[slice]:
    """One slice per axis of a tensor, from attributes (version 9 and older) or inputs; entries are in range."""
    rank = len(shape)
    if given:
        starts, ends = ints(given[0]), ints(given[1])
        axes = given[2] if len(given) > 2 else None
        steps = ints(given[3]) if len(given) > 3 and given[3] is not None else [1] * len(starts)
    else:
        starts, ends, axes = c.attr("starts"), c.attr("ends"), c.attr("axes")
        steps = [1] * len(starts)
    where = axes_of(c, np.asarray(axes), rank) if axes is not None else list(range(len(starts)))
    out = [slice(None)] * rank
    for axis, start, end, step in zip(where or [], starts, ends, steps, strict=True):
        if not step:
            raise ConversionError("a slice with steps of 0")
        n = shape[axis]
        start, end = (v + n if v < 0 else v for v in (start, end))
        if step > 0:
            out[axis] = slice(min(max(start, 0), n), min(max(end, 0), n), step)
        else:
            stop = max(min(end, n - 1), -1)
            out[axis] = slice(min(max(start, 0), n - 1), stop if stop >= 0 else None, step)
    return out


def reshape_to(c: Call, shape: Any, wanted: Any) -> list[int]:
    """The target of a reshape: 0 copies a size (unless ``allowzero``), one -1 is worked out."""
    out = ints(wanted)
    if not c.attr("allowzero", 0):
        out = [shape[k] if n == 0 else n for k, n in enumerate(out)]
    if -1 in out:
        known = -math.prod(out)
        if out.count(-1) > 1 or known <= 0 or math.prod(shape) % known:
            raise ConversionError(f"cannot reshape {list(shape)} to {ints(wanted)}")
        out[out.index(-1)] = math.prod(shape) // known
    if any(n < 0 for n in out) or math.prod(out) != math.prod(shape):
        raise ConversionError(f"cannot reshape {list(shape)} to {ints(wanted)}")
    return out


@host("Reshape")
def reshape(c: Call, a: np.ndarray, shape: np.ndarray | None = None) -> np.ndarray:
    return a.reshape(reshape_to(c, a.shape, c.attr("shape") if shape is None else shape))


@host("Flatten")
def flatten(c: Call, a: np.ndarray) -> np.ndarray:
    axis = c.attr("axis", 1)
    return a.reshape(math.prod(a.shape[: axis if axis >= 0 else axis + a.ndim]), -1)


@host("Transpose")
def transpose(c: Call, a: np.ndarray) -> np.ndarray:
    return a.transpose(c.attr("perm"))


@host("Squeeze")
def squeeze(c: Call, a: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    found = axes_of(c, axes, a.ndim)
    return a.squeeze(None if found is None else tuple(found))


@host("Unsqueeze")
def unsqueeze(c: Call, a: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    count = len(ints(c.attr("axes") if axes is None else axes))
    return np.expand_dims(a, tuple(axes_of(c, axes, a.ndim + count) or ()))


@host("Expand")
def expand(c: Call, a: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.broadcast_to(a, bounded(np.broadcast_shapes(a.shape, bounded(shape))))


@host("Tile")
def tile(c: Call, a: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    bounded([n * r for n, r in zip(a.shape, ints(repeats), strict=True)])
    return np.tile(a, ints(repeats))


@host("Split")
def split(c: Call, a: np.ndarray, sizes: np.ndarray | None = None) -> list[np.ndarray]:
    axis = axis_of(c.attr("axis", 0), a.ndim)
    return np.split(a, np.cumsum(split_sizes(c, a.shape[axis], sizes))[:-1], axis)


def split_sizes(c: Call, n: int, sizes: Any) -> list[int]:
    """How a split divides an axis."""
    given = c.attr("split") if sizes is None else sizes
    if given is not None:
        out = ints(given)
    else:
        parts = c.attr("num_outputs", len(c.node.outputs))
        each = -(-n // parts)
        out = [min(each, max(0, n - k * each)) for k in range(parts)]
    if any(v < 0 for v in out) or sum(out) != n or len(out) < len(c.node.outputs):
        raise ConversionError(f"cannot split an axis of {n} entries into {out}")
    return out


@host("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def reduce(c: Call, a: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    function = getattr(np, c.node.op.removeprefix("Reduce").lower())
    found = axes_of(c, axes, a.ndim)
    if not found and c.attr("noop_with_empty_axes", 0):
        return a
    out = function(a, axis=tuple(found) if found else None, keepdims=bool(c.attr("keepdims", 1)))
    return out.astype(a.dtype)


@host("CumSum")
def cumulate(c: Call, a: np.ndarray, axis: np.ndarray) -> np.ndarray:
    if c.attr("exclusive", 0) or c.attr("reverse", 0):
        raise ConversionError("an exclusive or reversed sum of known arrays is not supported")
    return np.cumsum(a, int(axis), dtype=a.dtype)


@host("NonZero")
def nonzero(c: Call, a: np.ndarray) -> np.ndarray:
    return np.stack(np.nonzero(a)).astype(np.int64)


@host("Trilu")
def triangle(c: Call, a: np.ndarray, k: np.ndarray | None = None) -> np.ndarray:
    function = np.triu if c.attr("upper", 1) else np.tril
    return function(a, 0 if k is None else int(k))


@host("EyeLike")
def eye(c: Call, a: np.ndarray) -> np.ndarray:
    return np.eye(*a.shape, k=c.attr("k", 0), dtype=a.dtype)


@host("ScatterND")
def scatter_nd(c: Call, a: np.ndarray, index: np.ndarray, updates: np.ndarray) -> np.ndarray:
    if c.attr("reduction", "none") != "none":
        raise ConversionError("a reduction while scattering known arrays is not supported")
    out = a.copy()
    out[tuple(np.moveaxis(index, -1, 0))] = updates
    return out
