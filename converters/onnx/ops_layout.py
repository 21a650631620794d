"""Operators that move, repeat or regroup entries."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from converters.onnx.calls import Call, axes_of, axis_of, ints, operator
from converters.onnx.host import reshape_to, slices_of, split_sizes
from graphnfn.errors import ConversionError


@operator("Reshape", static=(1,))
def reshape(c: Call, x: Tensor, shape: np.ndarray | None = None) -> Tensor:
    return x.reshape(reshape_to(c, x.shape, c.attr("shape") if shape is None else shape))


@operator("Flatten")
def flatten(c: Call, x: Tensor) -> Tensor:
    axis = c.attr("axis", 1)
    axis = axis if axis == x.dim() else axis_of(axis, x.dim())
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose")
def transpose(c: Call, x: Tensor) -> Tensor:
    return x.permute(c.attr("perm", list(range(x.dim()))[::-1]))


@operator("Squeeze", static=(1,))
def squeeze(c: Call, x: Tensor, axes: np.ndarray | None = None) -> Tensor:
    found = axes_of(c, axes, x.dim())
    found = [k for k, n in enumerate(x.shape) if n == 1] if found is None else found
    if any(x.shape[a] != 1 for a in found):
        raise ConversionError(f"cannot squeeze axes {found} of shape {list(x.shape)}")
    return x.reshape([n for k, n in enumerate(x.shape) if k not in found])


@operator("Unsqueeze", static=(1,))
def unsqueeze(c: Call, x: Tensor, axes: np.ndarray | None = None) -> Tensor:
    rank = x.dim() + len(ints(c.attr("axes") if axes is None else axes))
    for axis in sorted(axes_of(c, axes, rank) or []):
        x = x.unsqueeze(axis)
    return x


@operator("Expand", static=(1,))
def expand(c: Call, x: Tensor, shape: np.ndarray) -> Tensor:
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(ints(shape))))


@operator("Tile", static=(1,))
def tile(c: Call, x: Tensor, repeats: np.ndarray) -> Tensor:
    return x.repeat(ints(repeats))


@operator("Concat")
def concat(c: Call, *parts: Tensor) -> Tensor:
    return torch.cat(parts, axis_of(c.attr("axis"), parts[0].dim()))


@operator("Split", static=(1,))
def split(c: Call, x: Tensor, sizes: np.ndarray | None = None) -> list[Tensor]:
    axis = axis_of(c.attr("axis", 0), x.dim())
    return list(torch.split(x, split_sizes(c, x.shape[axis], sizes), axis))


@operator("Slice", static=(1, 2, 3, 4))
def slices(c: Call, x: Tensor, *given: np.ndarray) -> Tensor:
    for axis, part in enumerate(slices_of(c, tuple(x.shape), given)):
        if part == slice(None):
            continue
        n = x.shape[axis]
        start, stop, step = part.indices(n)
        if step < 0:
            x, start, stop, step = x.flip(axis), n - 1 - start, n - 1 - stop, -step
        if (start, stop, step) != (0, n, 1):
            x = x[(slice(None),) * axis + (slice(start, max(start, stop), step),)]
    return x


@operator("Pad", static=(1, 2, 3))
def pad(c: Call, x: Tensor, pads: np.ndarray | None = None, value: np.ndarray | None = None,
        axes: np.ndarray | None = None) -> Tensor:  # fmt: skip
    """Constant, or entries of the tensor itself picked along each axis."""
    amounts = ints(c.attr("pads") if pads is None else pads)
    where = list(range(x.dim())) if axes is None else [axis_of(a, x.dim()) for a in ints(axes)]
    if len(amounts) != 2 * len(where):
        raise ConversionError(f"pads {amounts}; expected {2 * len(where)} numbers")
    sides = {axis: (amounts[k], amounts[k + len(where)]) for k, axis in enumerate(where)}
    mode = c.attr("mode", "constant")
    if mode == "constant":
        number = c.attr("value", 0.0) if value is None else value.item()
        first = min((a for a, s in sides.items() if any(s)), default=x.dim())
        flat = [v for axis in range(x.dim() - 1, first - 1, -1) for v in sides.get(axis, (0, 0))]
        return torch.nn.functional.pad(x, flat, value=number) if flat else x
    for axis, (before, after) in sides.items():
        if before or after:
            x = x.index_select(axis, torch.from_numpy(_picked(x.shape[axis], before, after, mode)).to(x.device))
    return x


def _picked(size: int, before: int, after: int, mode: str) -> np.ndarray:
    if mode not in ("reflect", "edge", "wrap"):
        raise ConversionError(f"padding mode {mode!r} is unknown; expected constant, reflect, edge or wrap")
    if size < 1 or max(before, after) > 1 << 24:
        raise ConversionError(f"cannot pad an axis of {size} entries by {before} and {after}")
    index = np.pad(np.arange(size), (max(before, 0), max(after, 0)), mode=mode)
    return index[max(-before, 0) : len(index) - max(-after, 0)].copy()


@operator("DepthToSpace")
def depth_to_space(c: Call, x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    b = c.attr("blocksize")
    if c.attr("mode", "DCR") == "DCR":
        parts = x.reshape(n, b, b, channels // (b * b), height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, channels // (b * b), b, b, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, channels // (b * b), height * b, width * b)


@operator("SpaceToDepth")
def space_to_depth(c: Call, x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    b = c.attr("blocksize")
    order = (0, 3, 5, 1, 2, 4) if c.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    parts = x.reshape(n, channels, height // b, b, width // b, b).permute(order)
    return parts.reshape(n, channels * b * b, height // b, width // b)


@operator("Trilu", static=(1,))
def triangle(c: Call, x: Tensor, k: np.ndarray | None = None) -> Tensor:
    function = torch.triu if c.attr("upper", 1) else torch.tril
    return function(x, 0 if k is None else int(k))


@operator("EyeLike")
def eye(c: Call, x: Tensor) -> Tensor:
    kind = x.dtype if c.attr("dtype") is None else c.dtype(c.attr("dtype"))
    ones = torch.ones(x.shape, dtype=kind, device=x.device)
    k = c.attr("k", 0)
    return torch.tril(torch.triu(ones, k), k)


@operator("ReverseSequence", static=(1,))
def reverse_sequence(c: Call, x: Tensor, lengths: np.ndarray) -> Tensor:
    axis, batch = c.attr("time_axis", 0), c.attr("batch_axis", 1)
    if any(n != x.shape[axis] for n in ints(lengths)) or {axis, batch} != {0, 1}:
        raise ConversionError("only whole sequences can be reversed")
    return x.flip(axis)
