"""Norms."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx.calls import Call, axis_of, operator
from converters.onnx.tensors import to_torch
from graphnfn.errors import ConversionError


@operator("BatchNormalization", statistics=(3, 4))
def batch_norm(c: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    c.only(1)
    if c.attr("training_mode", 0) or not c.attr("spatial", 1):
        raise ConversionError("batch norm in training mode or per position; export the model in eval mode")
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, c.attr("epsilon", 1e-5))


@operator("InstanceNormalization", known=(1, 2), ones=(1,), absent=(2,))
def instance_norm(c: Call, x: Tensor, scale: Tensor | np.ndarray, bias: Tensor | np.ndarray) -> Tensor:
    """Exporters write norms without weights as ones and zeros."""
    scale, bias = (to_torch(v).to(x) if isinstance(v, np.ndarray) else v for v in (scale, bias))
    return F.instance_norm(x, None, None, scale, bias, True, 0.0, c.attr("epsilon", 1e-5))


@operator("LayerNormalization")
def layer_norm(c: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    c.only(1)
    shape = list(x.shape[axis_of(c.attr("axis", -1), x.dim()) :])
    eps = c.attr("epsilon", 1e-5)
    if list(scale.shape) == shape and (bias is None or list(bias.shape) == shape):
        return F.layer_norm(x, shape, scale, bias, eps)
    out = F.layer_norm(x, shape, None, None, eps) * scale
    return out if bias is None else out + bias


@operator("RMSNormalization")
def rms_norm(c: Call, x: Tensor, scale: Tensor) -> Tensor:
    shape = list(x.shape[axis_of(c.attr("axis", -1), x.dim()) :])
    eps = c.attr("epsilon", 1e-5)
    return F.rms_norm(x, shape, scale, eps) if list(scale.shape) == shape else F.rms_norm(x, shape, None, eps) * scale


@operator("GroupNormalization")
def group_norm(c: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Until version 20 with one scale per group, since then with one per channel."""
    groups = c.attr("num_groups")
    if scale.shape[0] != x.shape[1]:
        times = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(times), bias.repeat_interleave(times)
    return F.group_norm(x, groups, scale, bias, c.attr("epsilon", 1e-5))


@operator("LpNormalization")
def lp_norm(c: Call, x: Tensor) -> Tensor:
    axis = axis_of(c.attr("axis", -1), x.dim())
    norm = torch.linalg.vector_norm(x, c.attr("p", 2), axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@operator("MeanVarianceNormalization")
def mean_variance(c: Call, x: Tensor) -> Tensor:
    axes = c.attr("axes", [0, 2, 3])
    return (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True).sqrt() + 1e-9)


@operator("LRN")
def local_response(c: Call, x: Tensor) -> Tensor:
    """``x / (bias + alpha / size sum_(near channels) x^2)^beta``."""
    size = c.attr("size")
    before, after = (size - 1) // 2, size // 2
    squares = F.pad(x.square().transpose(1, -1), (before, after)).unfold(-1, size, 1).sum(-1).transpose(1, -1)
    return x / (c.attr("bias", 1.0) + c.attr("alpha", 1e-4) / size * squares) ** c.attr("beta", 0.75)
