"""Operators with weights and contractions: products of matrices and convolutions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx.calls import Call, ints, operator
from graphnfn.errors import ConversionError


@operator("MatMul")
def matmul(c: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Gemm")
def gemm(c: Call, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``alpha A B + beta C`` with either matrix transposed."""
    alpha, beta = c.attr("alpha", 1.0), c.attr("beta", 1.0)
    a = a.t() if c.attr("transA", 0) else a
    rows = b if c.attr("transB", 0) else b.t()
    if alpha == 1.0 and (bias is None or (beta == 1.0 and bias.dim() == 1 and bias.shape[0] == rows.shape[0])):
        return F.linear(a, rows, bias)
    out = F.linear(a, rows)
    out = out if alpha == 1.0 else alpha * out
    return out if bias is None else out + (bias if beta == 1.0 else beta * bias)


@operator("Einsum")
def einsum(c: Call, *values: Tensor) -> Tensor:
    return torch.einsum(c.attr("equation"), *values)


_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _spatial(c: Call, x: Tensor, weight: Tensor) -> int:
    rank = x.dim() - 2
    kernel = c.attr("kernel_shape", list(weight.shape[2:]))
    if rank not in _CONV or weight.dim() != rank + 2 or ints(kernel) != list(weight.shape[2:]):
        raise ConversionError(
            f"an input of shape {tuple(x.shape)}, weights of shape {tuple(weight.shape)} and kernel {kernel}; "
            "expected [batch, channels, 1 to 3 positions] and a kernel that fits"
        )
    return rank


@operator("Conv")
def conv(c: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = _spatial(c, x, weight)
    stride, dilation = ints(c.attr("strides", [1] * rank)), ints(c.attr("dilations", [1] * rank))
    before, after = padding(c, list(x.shape[2:]), list(weight.shape[2:]), stride, dilation)
    if before != after:
        x = F.pad(x, [v for pair in zip(before[::-1], after[::-1], strict=True) for v in pair])
        before = [0] * rank
    return _CONV[rank](x, weight, bias, stride, before, dilation, c.attr("group", 1))


def padding(
    c: Call, size: list[int], kernel: list[int], stride: list[int], dilation: list[int]
) -> tuple[list[int], list[int]]:
    """Entries before and after each axis, from ``pads`` or ``auto_pad``."""
    auto = c.attr("auto_pad", "NOTSET")
    rank = len(kernel)
    if any(len(v) != rank for v in (size, stride, dilation)) or min(stride + dilation, default=1) < 1:
        raise ConversionError(f"strides {stride} and dilations {dilation} do not fit {rank} positions")
    if auto == "VALID":
        return [0] * rank, [0] * rank
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        reach = zip(size, kernel, stride, dilation, strict=True)
        sums = [max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n) for n, k, s, d in reach]
        small, large = [v // 2 for v in sums], [v - v // 2 for v in sums]
        return (small, large) if auto == "SAME_UPPER" else (large, small)
    if auto != "NOTSET":
        raise ConversionError(f"auto_pad {auto!r} is unknown; expected NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    pads = ints(c.attr("pads", [0] * (2 * rank)))
    if len(pads) != 2 * rank or min(pads, default=0) < 0:
        raise ConversionError(f"pads {pads}; expected {2 * rank} numbers, none negative")
    return pads[:rank], pads[rank:]


@operator("ConvTranspose")
def conv_transpose(c: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = _spatial(c, x, weight)
    stride, dilation = ints(c.attr("strides", [1] * rank)), ints(c.attr("dilations", [1] * rank))
    extra = ints(c.attr("output_padding", [0] * rank))
    facts = list(zip(x.shape[2:], weight.shape[2:], stride, dilation, extra, strict=True))
    full = [(n - 1) * s + (k - 1) * d + 1 + e for n, k, s, d, e in facts]
    before, after = _crop(c, list(x.shape[2:]), stride, full)
    plain = before == after and min(before) >= 0
    cut = before if plain else [0] * rank
    out = _TRANSPOSED[rank](x, weight, bias, stride, cut, extra, c.attr("group", 1), dilation)
    if plain:
        return out
    return F.pad(out, [-v for pair in zip(before[::-1], after[::-1], strict=True) for v in pair])


def _crop(c: Call, size: list[int], stride: list[int], full: list[int]) -> tuple[list[int], list[int]]:
    """What is cut off the full result before and after each axis."""
    auto = c.attr("auto_pad", "NOTSET")
    wanted: Any = c.attr("output_shape")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(size, stride, strict=True)]
    if wanted is None:
        pads = [0] * (2 * len(full)) if auto == "VALID" else ints(c.attr("pads", [0] * (2 * len(full))))
        return pads[: len(full)], pads[len(full) :]
    sums = [f - w for f, w in zip(full, ints(wanted)[-len(full) :], strict=True)]
    if min(sums) < 0:
        raise ConversionError(f"output_shape {wanted} is larger than the full result {full}")
    small, large = [v // 2 for v in sums], [v - v // 2 for v in sums]
    return (small, large) if auto == "SAME_UPPER" else (large, small)
