"""Initial weights of one network."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from graphnfn.errors import ZooError
from graphnfn.spec import NEUTRAL_NODE, NODE_FIELDS, NetSpec

INITS = ("normal", "uniform", "orthogonal")
"""Deviation ``scale / fan_in^(1/2)``."""
FIXED_INITS = ("he_normal", "glorot_normal", "unit_orthogonal")
"""Deviation ``(2 / fan_in)^(1/2)``, ``(2 / (fan_in + fan_out))^(1/2)``, both cut off at two sigma; gain 1."""
STD_INITS = ("random_normal", "truncated_normal")
"""Deviation ``scale``; the latter cut off at two sigma of the normal law that is cut."""

_CUT = 0.87962566103423978
"""Deviation of a standard normal law cut off at +-2."""


def initial_weights(
    spec: NetSpec, kind: str, scale: float, bias_std: float, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Weights of an initial law, normal biases, and neutral norms.

    Args:
        spec: the architecture; its blocks become weights.
        kind: one of :data:`INITS`, :data:`FIXED_INITS`, :data:`STD_INITS`.
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
    known = (*INITS, *FIXED_INITS, *STD_INITS)
    if kind not in known:
        raise ZooError(f"unknown init {kind!r}; known: {', '.join(known)}")
    drawn = {}
    fields = {p.param: p.field for p in spec.node_params}
    for name, shape in spec.params.items():
        if name in fields:
            neutral = NEUTRAL_NODE[NODE_FIELDS.index(fields[name])]
            values = bias_std * rng.standard_normal(shape) if fields[name] == "bias" else np.full(shape, neutral)
        else:
            values = scale * _matrix(kind, shape, rng).reshape(shape)
        drawn[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return drawn


def _matrix(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """The flattened kernel of a layer ``[out, in * positions]``."""
    rows, columns = shape[0], math.prod(shape[1:])
    fan_out = rows * math.prod(shape[2:])
    if kind == "he_normal":
        return _truncated(rng, rows, columns) * (2 / columns) ** 0.5 / _CUT
    if kind == "glorot_normal":
        return _truncated(rng, rows, columns) * (2 / (columns + fan_out)) ** 0.5 / _CUT
    if kind == "truncated_normal":
        return _truncated(rng, rows, columns)
    if kind == "random_normal":
        return rng.standard_normal((rows, columns))
    if kind == "uniform":
        return rng.uniform(-1, 1, (rows, columns)) * columns**-0.5 * 3**0.5
    normal = rng.standard_normal((rows, columns))
    if kind == "normal":
        return normal * columns**-0.5
    orthogonal = _orthogonal(normal)
    return orthogonal if kind == "unit_orthogonal" else orthogonal * max(1.0, rows / columns) ** 0.5


def _truncated(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Standard normal values, drawn again where they are beyond +-2."""
    values = rng.standard_normal((rows, columns))
    while (beyond := np.abs(values) > 2).any():
        values[beyond] = rng.standard_normal(int(beyond.sum()))
    return values


def _orthogonal(normal: np.ndarray) -> np.ndarray:
    """Orthonormal rows or columns, whichever are fewer."""
    rows, columns = normal.shape
    q, r = np.linalg.qr(normal if rows >= columns else normal.T)
    q = q * np.sign(np.diag(r))
    return q if rows >= columns else q.T
