"""Layers that move values without changing them, and layers that do nothing once a model is trained."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from converters.keras.config import Config
from converters.keras.conv import flat_margins
from converters.keras.layer import Apply, Layer, channels_back, channels_to_second, layer

TRAINING_ONLY = (
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "AlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "ActivityRegularization",
    "Identity",
    "RandomFlip",
    "RandomRotation",
    "RandomZoom",
    "RandomTranslation",
    "RandomContrast",
    "RandomBrightness",
)


@layer(*TRAINING_ONLY)
def _identity(config: Config) -> Layer:
    return Apply(config, lambda x: x)


@layer("Flatten")
def _flatten(config: Config) -> Layer:
    """Channels vary fastest, whichever layout the values have."""
    first = config.channels_first
    return Apply(config, lambda x: (x.movedim(1, -1) if first and x.dim() > 2 else x).reshape(x.shape[0], -1), False)


@layer("Reshape")
def _reshape(config: Config) -> Layer:
    shape = config.integers("target_shape")
    return Apply(config, lambda x: x.reshape(x.shape[0], *shape), False)


@layer("Permute")
def _permute(config: Config) -> Layer:
    axes = config.integers("dims")
    return Apply(config, lambda x: x.permute(0, *axes), False)


@layer("RepeatVector")
def _repeat(config: Config) -> Layer:
    n = config.size("n")
    return Apply(config, lambda x: x.unsqueeze(1).expand(-1, n, -1), False)


@layer("Rescaling")
def _rescaling(config: Config) -> Layer:
    scale, offset = config.number("scale"), config.number("offset", 0.0)
    return Apply(config, lambda x: x * scale + offset)


@layer("UnitNormalization")
def _unit(config: Config) -> Layer:
    axes = config.integers("axis", [-1])
    return Apply(config, lambda x: x * (x * x).sum(axes, keepdim=True).clamp(min=1e-12).rsqrt())


@layer("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def _padding(config: Config) -> Layer:
    spread = flat_margins(config.margins("padding", config.rank, 1))
    return Apply(config, lambda x: channels_back(F.pad(channels_to_second(x, config), spread), config), False)


@layer("Cropping1D", "Cropping2D", "Cropping3D")
def _cropping(config: Config) -> Layer:
    margins, first = config.margins("cropping", config.rank, 0), config.channels_first

    def crop(x: Tensor) -> Tensor:
        for axis, (before, after) in enumerate(margins, 2 if first else 1):
            x = x.narrow(axis, before, x.shape[axis] - before - after)
        return x

    return Apply(config, crop, False)


@layer("UpSampling1D", "UpSampling2D", "UpSampling3D")
def _upsampling(config: Config) -> Layer:
    """Repeat every cell, or interpolate between the centres of cells."""
    rank = config.rank
    factors = [float(f) for f in config.sizes("size", rank, 2)]
    mode = config.choice("interpolation", "nearest", "nearest", *(["bilinear"] if rank == 2 else []))
    settings = {"scale_factor": factors, "mode": mode, **({} if mode == "nearest" else {"align_corners": False})}

    def enlarge(x: Tensor) -> Tensor:
        return channels_back(F.interpolate(channels_to_second(x, config), **settings), config)

    return Apply(config, enlarge, False)
