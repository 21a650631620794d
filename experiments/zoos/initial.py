"""Initial weights of one network."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from graphnfn.errors import ZooError
from graphnfn.spec import NetSpec

INITS = ("normal", "uniform", "orthogonal")


def initial_weights(
    spec: NetSpec, kind: str, scale: float, bias_std: float, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Weights of deviation ``scale / fan_in^(1/2)``, normal, uniform or orthogonal, and normal biases.

    Args:
        spec: the architecture; its blocks become weights, its biases biases.
        kind: one of :data:`INITS`.
        scale: factor on the weights.
        bias_std: deviation of the biases.
        rng: the source of chance.

    Raises:
        ZooError: the kind is unknown.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> weights = initial_weights(mlp_spec([9, 4], "relu"), "orthogonal", 3.0, 0.0, np.random.default_rng(0))
        >>> w = weights["layers.0.weight"]
        >>> torch.allclose(w @ w.T, 9 * torch.eye(4), atol=1e-5)
        True
    """
    if kind not in INITS:
        raise ZooError(f"unknown init {kind!r}; known: {', '.join(INITS)}")
    out = {}
    matrices = {block.param for block in spec.blocks}
    for name, shape in spec.params.items():
        if name not in matrices:
            values = bias_std * rng.standard_normal(shape)
        else:
            rows, columns = shape[0], math.prod(shape[1:])
            values = scale * _matrix(kind, rows, columns, rng).reshape(shape)
        out[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return out


def _matrix(kind: str, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """A matrix of deviation ``1 / columns^(1/2)``."""
    deviation = columns**-0.5
    if kind == "uniform":
        return rng.uniform(-1, 1, (rows, columns)) * deviation * 3**0.5
    normal = rng.standard_normal((rows, columns))
    if kind == "normal":
        return normal * deviation
    tall = normal if rows >= columns else normal.T
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))
    return (q if rows >= columns else q.T) * max(1.0, rows / columns) ** 0.5
