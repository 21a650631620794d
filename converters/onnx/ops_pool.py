"""Pooling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx.calls import Call, ints, operator
from converters.onnx.ops_linear import padding
from graphnfn.errors import ConversionError

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class _Window:
    """Where the windows of a pooling layer lie."""

    def __init__(self, c: Call, x: Tensor) -> None:
        self.size = list(x.shape[2:])
        self.kernel = ints(c.attr("kernel_shape"))
        rank = len(self.kernel)
        if rank not in _MAX or len(self.size) != rank:
            raise ConversionError(f"a kernel {self.kernel} on an input of shape {tuple(x.shape)}; expected 1 to 3 axes")
        self.stride = ints(c.attr("strides", [1] * rank))
        self.dilation = ints(c.attr("dilations", [1] * rank))
        self.before, self.after = padding(c, self.size, self.kernel, self.stride, self.dilation)
        self.reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        facts = zip(self.size, self.before, self.after, self.reach, self.stride, strict=True)
        self.out = [_count(n, b, a, r, s, c.attr("ceil_mode", 0) == 1) for n, b, a, r, s in facts]

    def plain(self) -> bool:
        """Whether PyTorch's padding, the same on both sides, gives these windows."""
        small = all(2 * b <= k for b, k in zip(self.before, self.kernel, strict=True))
        return small and self.out == self.counted(ceil=False)

    def counted(self, *, ceil: bool) -> list[int]:
        """Windows that PyTorch makes with the padding in front on both sides."""
        facts = zip(self.size, self.before, self.reach, self.stride, strict=True)
        return [_count(n, b, b, r, s, ceil) for n, b, r, s in facts]

    def pads(self) -> list[int]:
        """Padding in front, and behind up to the end of the last window, as ``F.pad`` takes it; may be negative."""
        facts = zip(self.out, self.stride, self.reach, self.size, self.before, strict=True)
        behind = [(o - 1) * s + r - n - b for o, s, r, n, b in facts]
        return [v for pair in zip(self.before[::-1], behind[::-1], strict=True) for v in pair]


def _count(size: int, before: int, after: int, reach: int, stride: int, ceil: bool) -> int:
    """Windows along one axis; a last one that would start in the padding behind is left out."""
    room = (size + before + after - reach) / stride
    count = (math.ceil(room) if ceil else math.floor(room)) + 1
    if count < 1:
        raise ConversionError(f"a window of {reach} entries does not fit an axis of {size}")
    return count - 1 if ceil and (count - 1) * stride >= size + before else count


@operator("MaxPool")
def max_pool(c: Call, x: Tensor) -> Tensor:
    c.only(1)
    w = _Window(c, x)
    pool = _MAX[len(w.kernel)]
    if w.plain():
        return pool(x, w.kernel, w.stride, w.before, w.dilation)
    small = all(2 * b <= k for b, k in zip(w.before, w.kernel, strict=True))
    made = w.counted(ceil=True)
    if small and all(m >= o for m, o in zip(made, w.out, strict=True)):  # the windows behind end in implicit -inf
        out = pool(x, w.kernel, w.stride, w.before, w.dilation, True)
        return out[(..., *(slice(0, n) for n in w.out))] if made != w.out else out
    return pool(F.pad(x, w.pads(), value=-math.inf), w.kernel, w.stride, 0, w.dilation)


def _undilated(c: Call, x: Tensor) -> _Window:
    w = _Window(c, x)
    if any(d != 1 for d in w.dilation):
        raise ConversionError("sums over windows with dilations are not supported")
    return w


@operator("AveragePool")
def average_pool(c: Call, x: Tensor) -> Tensor:
    w = _undilated(c, x)
    pool, with_pads = _AVG[len(w.kernel)], bool(c.attr("count_include_pad", 0))
    if w.plain() and w.before == w.after:
        return pool(x, w.kernel, w.stride, w.before, False, with_pads)
    sums = pool(F.pad(x, w.pads()), w.kernel, w.stride) * math.prod(w.kernel)
    counts = np.ones(())
    for axis in range(len(w.kernel)):
        low, high = (-w.before[axis], w.size[axis] + w.after[axis]) if with_pads else (0, w.size[axis])
        start = np.arange(w.out[axis]) * w.stride[axis] - w.before[axis]
        here = np.minimum(start + w.kernel[axis], high) - np.maximum(start, low)
        counts = counts[..., None] * np.maximum(here, 1)
    return sums / torch.from_numpy(counts).to(sums)


@operator("LpPool")
def lp_pool(c: Call, x: Tensor) -> Tensor:
    w, p = _undilated(c, x), c.attr("p", 2)
    sums = _AVG[len(w.kernel)](F.pad(x.abs() ** p, w.pads()), w.kernel, w.stride) * math.prod(w.kernel)
    return sums ** (1.0 / p)


@operator("GlobalAveragePool")
def global_average(c: Call, x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max(c: Call, x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)
