"""Pooling, with TensorFlow's padding: cells outside the input never count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.keras.config import Config
from converters.keras.conv import flat_margins, same_margins
from converters.keras.layer import Apply, Layer, channels_back, channels_to_second, layer

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _average(x: Tensor, kernel: list[int], strides: list[int], inside: list[int], ceil: bool) -> Tensor:
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(kernel)]
    return pool(x, kernel, strides, inside, ceil, False)


class _Pool(Layer):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        rank = config.rank
        self.kernel = config.sizes("pool_size", rank, 2)
        given = config.values.get("strides") is not None
        self.strides = config.sizes("strides", rank) if given else self.kernel
        self.same = config.choice("padding", "valid", "valid", "same") == "same"

    def _margins(self, x: Tensor) -> list[tuple[int, int]]:
        settings = zip(x.shape[2:], self.kernel, self.strides, strict=True)
        return [same_margins(*s, 1) if self.same else (0, 0) for s in settings]

    def _ceil(self, margins: list[tuple[int, int]]) -> bool | None:
        """Whether torch's ceil mode is the padding; None if only padding by hand gives it.

        Ceil mode lets a last window hang over the end, which is the odd cell of ``same`` for strides above 1.
        """
        if not self.same:
            return False
        if all(a == b or s > 1 for (a, b), s in zip(margins, self.strides, strict=True)):
            return True
        return None


@layer("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "MaxPool1D", "MaxPool2D", "MaxPool3D")
class MaxPooling(_Pool):
    """The largest value of every window."""

    def forward(self, x: Tensor) -> Tensor:
        moved = channels_to_second(x, self.config)
        margins, pool = self._margins(moved), _MAX[self.config.rank]
        ceil = self._ceil(margins)
        if ceil is None:
            out = pool(F.pad(moved, flat_margins(margins), value=float("-inf")), self.kernel, self.strides)
        else:
            out = pool(moved, self.kernel, self.strides, [a for a, _ in margins], 1, ceil)
        return channels_back(out, self.config)


@layer("AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "AvgPool1D", "AvgPool2D", "AvgPool3D")
class AveragePooling(_Pool):
    """The mean over the cells of every window that lie inside."""

    def forward(self, x: Tensor) -> Tensor:
        moved = channels_to_second(x, self.config)
        margins = self._margins(moved)
        ceil, none = self._ceil(margins), [0] * len(margins)
        if ceil is None:
            spread = flat_margins(margins)
            total = _average(F.pad(moved, spread), self.kernel, self.strides, none, False)
            inside = F.pad(torch.ones_like(moved[:1, :1]), spread)
            out = total / _average(inside, self.kernel, self.strides, none, False)
        else:
            out = _average(moved, self.kernel, self.strides, [a for a, _ in margins], ceil)
        return channels_back(out, self.config)


@layer("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D")
class GlobalAveragePooling(Layer):
    """The mean over all positions, or over the time steps that count."""

    uses_mask = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.keep = config.flag("keepdims", False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        axes = _positions(x, self.config)
        if mask is None or self.config.rank > 1:
            return x.mean(axes, keepdim=self.keep)
        counts = mask.to(x.dtype).unsqueeze(1 if self.config.channels_first else 2)
        return (x * counts).sum(axes, keepdim=self.keep) / counts.sum(axes, keepdim=self.keep)


@layer("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D", "GlobalMaxPool1D", "GlobalMaxPool2D")
def _global_max(config: Config) -> Layer:
    keep = config.flag("keepdims", False)
    return Apply(config, lambda x: x.amax(_positions(x, config), keepdim=keep), keeps_mask=False)


def _positions(x: Tensor, config: Config) -> list[int]:
    return list(range(2, x.dim())) if config.channels_first else list(range(1, x.dim() - 1))
