"""Convolutions with TensorFlow's padding: ``same`` puts the odd cell at the end."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from converters.keras.activations import activation
from converters.keras.config import Config
from converters.keras.dense import bias_slot
from converters.keras.layer import Layer, Slot, channels_back, channels_to_second, layer, weight_axes

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def same_margins(length: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """(before, after) such that ceil(length / stride) outputs come out; before <= after <= before + 1.

    >>> same_margins(64, 3, 2, 1), same_margins(65, 3, 2, 1)
    ((0, 1), (1, 1))
    """
    outputs = -(-length // stride)
    total = max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - length, 0)
    return total // 2, total - total // 2


def flat_margins(margins: list[tuple[int, int]]) -> list[int]:
    """As F.pad takes them: the last axis first."""
    return [v for pair in reversed(margins) for v in pair]


class Window:
    """Kernel size, stride, dilation and padding of a layer."""

    def __init__(self, config: Config) -> None:
        rank = config.rank
        self.rank, self.kernel = rank, config.sizes("kernel_size", rank)
        self.strides, self.dilations = config.sizes("strides", rank, 1), config.sizes("dilation_rate", rank, 1)
        self.padding = config.choice("padding", "valid", "valid", "same", *(["causal"] if rank == 1 else []))

    def margins(self, lengths: list[int]) -> list[tuple[int, int]]:
        """What is added on both sides of every axis."""
        settings = zip(lengths, self.kernel, self.strides, self.dilations, strict=True)
        if self.padding == "same":
            return [same_margins(*s) for s in settings]
        if self.padding == "causal":
            return [((k - 1) * d, 0) for _, k, _, d in settings]
        return [(0, 0)] * self.rank

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """Convolve [batch, channels, ...positions]."""
        margins = self.margins(list(x.shape[2:]))
        if all(before == after for before, after in margins):
            inside = [before for before, _ in margins]
        else:
            x, inside = F.pad(x, flat_margins(margins)), [0] * self.rank
        return _CONV[self.rank](x, weight, bias, self.strides, inside, self.dilations, groups)


@layer("Conv1D", "Conv2D", "Conv3D")
class Conv(Layer):
    """kernel [...positions, in / groups, out]."""

    kernel: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("lora_rank", None)
        self.window, self.groups = Window(config), config.size("groups", 1)
        self.slots = [Slot("kernel"), *bias_slot(config)]
        self.activation = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        moved = channels_to_second(x, self.config)
        out = self.window.convolve(moved, weight_axes(self.kernel, 1, 0), self.get("bias"), self.groups)
        return self.activation(channels_back(out, self.config))


def _per_channel(kernel: Tensor) -> Tensor:
    """[...positions, in, multiplier] -> [in * multiplier, 1, ...positions]."""
    weight = weight_axes(kernel, 0, 1)
    return weight if kernel.shape[-1] == 1 else weight.flatten(0, 1).unsqueeze(1)


@layer("DepthwiseConv1D", "DepthwiseConv2D")
class DepthwiseConv(Layer):
    """One small convolution a channel; kernel [...positions, in, multiplier]."""

    depthwise_kernel: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.window = Window(config)
        # Keras 2 calls it depthwise_kernel, Keras 3 kernel; in the file its place counts
        self.slots = [Slot("depthwise_kernel"), *bias_slot(config)]
        self.activation = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        moved = channels_to_second(x, self.config)
        weight = _per_channel(self.depthwise_kernel)
        out = self.window.convolve(moved, weight, self.get("bias"), moved.shape[1])
        return self.activation(channels_back(out, self.config))


@layer("SeparableConv1D", "SeparableConv2D")
class SeparableConv(Layer):
    """A depthwise convolution, then a dense one over the channels of a position."""

    depthwise_kernel: Tensor
    pointwise_kernel: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.window = Window(config)
        self.slots = [Slot("depthwise_kernel"), Slot("pointwise_kernel"), *bias_slot(config)]
        self.activation = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        moved = channels_to_second(x, self.config)
        spread = self.window.convolve(moved, _per_channel(self.depthwise_kernel), None, moved.shape[1])
        out = _CONV[self.window.rank](spread, weight_axes(self.pointwise_kernel, 1, 0), self.get("bias"))
        return self.activation(channels_back(out, self.config))


@layer("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
class ConvTranspose(Layer):
    """The transposed map of a convolution; kernel [...positions, out, in].

    Of the full result, (n - 1) stride + span cells long, ``same`` keeps n stride cells and leaves out half of the
    rest, rounded down, in front.
    """

    kernel: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.window = Window(config)
        given = config.values.get("output_padding")
        self.extra = None if given is None else config.integers("output_padding")
        self.slots = [Slot("kernel"), *bias_slot(config)]
        self.activation = activation(config)

    def _kept(self, axis: int, length: int) -> tuple[int, int]:
        """(first cell, number of cells) of the full result; the number may exceed it: zeros follow."""
        w = self.window
        stride, span = w.strides[axis], (w.kernel[axis] - 1) * w.dilations[axis] + 1
        full, same = (length - 1) * stride + span, w.padding == "same"
        if self.extra is None:
            count = length * stride if same else length * stride + max(span - stride, 0)
        else:
            count = full - (2 * (span // 2) if same else 0) + self.extra[axis % len(self.extra)]
        return max(full - count, 0) // 2 if same else 0, count

    def forward(self, x: Tensor) -> Tensor:
        moved = channels_to_second(x, self.config)
        w = self.window
        weight = weight_axes(self.kernel, 1, 0)
        out = _TRANSPOSED[w.rank](moved, weight, None, w.strides, dilation=w.dilations)
        for axis, length in enumerate(moved.shape[2:]):
            start, count = self._kept(axis, length)
            full = out.shape[2 + axis]
            out = out.narrow(2 + axis, start, min(count, full - start))
            if start + count > full:
                margins = [(0, 0)] * w.rank
                margins[axis] = (0, start + count - full)
                out = F.pad(out, flat_margins(margins))
        bias = self.get("bias")
        out = channels_back(out, self.config)
        if bias is not None:
            out = out + (bias.view(-1, *[1] * w.rank) if self.config.channels_first else bias)
        return self.activation(out)
