"""Resizing of maps: along each axis, a weighted sum of a few entries picked by number."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from converters.onnx.calls import Call, axis_of, ints, operator
from converters.onnx.host import bounded
from graphnfn.errors import ConversionError

Floats = np.ndarray


@operator("Upsample", static=(1,))
def upsample(c: Call, x: Tensor, scales: np.ndarray | None = None) -> Tensor:
    """As version 10 of Resize: positions ``x / scale``, rounded down."""
    factors = c.attr("scales") if scales is None else scales
    return _resized(c, x, [float(f) for f in factors], None, "asymmetric", "floor")


@operator("Resize", static=(1, 2, 3))
def resize(c: Call, x: Tensor, roi: np.ndarray | None = None, scales: np.ndarray | None = None,
           sizes: np.ndarray | None = None) -> Tensor:  # fmt: skip
    if c.opset < 11:  # the second input was the scales
        return upsample(c, x, roi)
    axes = [axis_of(a, x.dim()) for a in c.attr("axes", range(x.dim()))]
    factors: list[float] = [1.0] * x.dim()
    wanted: list[int] | None = None
    if sizes is not None and sizes.size:
        wanted = list(x.shape)
        for axis, size in zip(axes, _sizes(c, x, axes, ints(sizes)), strict=True):
            wanted[axis], factors[axis] = size, size / x.shape[axis]
    elif scales is not None and scales.size:
        for axis, factor in zip(axes, scales.reshape(-1), strict=True):
            factors[axis] = float(factor)
    else:
        raise ConversionError("neither scales nor sizes are given")
    where = c.attr("coordinate_transformation_mode", "half_pixel")
    return _resized(c, x, factors, wanted, where, c.attr("nearest_mode", "round_prefer_floor"))


def _sizes(c: Call, x: Tensor, axes: list[int], sizes: list[int]) -> list[int]:
    policy = c.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return sizes
    ratios = [s / x.shape[a] for s, a in zip(sizes, axes, strict=True)]
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [math.floor(ratio * x.shape[a] + 0.5) for a in axes]


def _resized(c: Call, x: Tensor, factors: list[float], sizes: list[int] | None, where: str, nearest: str) -> Tensor:
    mode = c.attr("mode", "nearest")
    if c.attr("antialias", 0) or mode not in ("nearest", "linear", "cubic"):
        raise ConversionError(f"mode {mode!r} or antialiasing is not supported; expected nearest, linear or cubic")
    if len(factors) != x.dim() or not all(math.isfinite(f) and f > 0 for f in factors):
        raise ConversionError(f"scales {factors} do not fit an input of shape {tuple(x.shape)}")
    wanted = sizes or [math.floor(n * f) for n, f in zip(x.shape, factors, strict=True)]
    bounded(wanted[-1:] + wanted[1:-1])
    for axis, (size, factor) in enumerate(zip(wanted, factors, strict=True)):
        old = x.shape[axis]
        if size != old or factor != 1.0:
            places = _coordinates(where, old, size, factor)
            index, weight = _taps(c, mode, nearest, places, old)
            x = _weighted(x, axis, index, weight)
    return x


@operator("GridSample")
def grid_sample(c: Call, x: Tensor, grid: Tensor) -> Tensor:
    modes = {"linear": "bilinear", "cubic": "bicubic"}  # as they are called since version 20
    mode: str = c.attr("mode", "bilinear")
    edges, corners = c.attr("padding_mode", "zeros"), bool(c.attr("align_corners", 0))
    return torch.nn.functional.grid_sample(x, grid, modes.get(mode, mode), edges, corners)


def _coordinates(where: str, old: int, new: int, factor: float) -> Floats:
    """Where the new positions lie among the old ones, in single precision: ties are rounded as by onnxruntime."""
    at = np.arange(new, dtype=np.float32)
    if where == "half_pixel" or (where == "pytorch_half_pixel" and new > 1):
        return (at + 0.5) / factor - 0.5
    if where == "pytorch_half_pixel":
        return np.zeros(new)
    if where == "asymmetric":
        return at / factor
    if where == "align_corners":
        return at * (old - 1) / (new - 1) if new > 1 else np.zeros(new)
    if where == "half_pixel_symmetric":
        adjusted = new / (factor * old)
        return old / 2 * (1 - adjusted) + (at + 0.5) / factor - 0.5
    raise ConversionError(f"coordinates {where!r} are not supported")


_ROUND: dict[str, Callable[[Floats], Floats]] = {
    "floor": np.floor, "ceil": np.ceil, "round_prefer_floor": lambda p: np.ceil(p - 0.5),
    "round_prefer_ceil": lambda p: np.floor(p + 0.5),
}  # fmt: skip


def _taps(c: Call, mode: str, nearest: str, places: Floats, old: int) -> tuple[Floats, Floats]:
    """Numbers of the entries and their weights, ``[taps, new]``."""
    if mode == "nearest":
        index, weight = _ROUND[nearest](places)[None], np.ones((1, len(places)))
    else:
        low = np.floor(places)
        part = places - low
        if mode == "linear":
            index, weight = np.stack([low, low + 1]), np.stack([1 - part, part])
        else:
            index = low + np.arange(-1, 3)[:, None]
            weight = _cubic(np.abs(places - index), c.attr("cubic_coeff_a", -0.75))
    if c.attr("exclude_outside", 0):
        weight = weight * ((index >= 0) & (index < old))
        weight = weight / weight.sum(0)
    return np.clip(index, 0, old - 1).astype(np.int64), weight


def _cubic(distance: Floats, a: float) -> Floats:
    """Keys' cubic convolution kernel."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * a * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _weighted(x: Tensor, axis: int, index: Floats, weight: Floats) -> Tensor:
    shape = [1] * x.dim()
    shape[axis] = -1
    out = None
    for numbers, factors in zip(index, weight, strict=True):
        if not factors.any():
            continue
        part = x.index_select(axis, torch.from_numpy(np.ascontiguousarray(numbers)).to(x.device))
        if not (factors == 1.0).all():
            part = part * torch.from_numpy(factors).to(x).reshape(shape)
        out = part if out is None else out + part
    return x if out is None else out
