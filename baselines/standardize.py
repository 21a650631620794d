"""Standardisation of raw features by the statistics of the networks seen in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SMALLEST = 1e-12


class Standardize(nn.Module):
    """``(v - mean) / std`` per feature, with running statistics of all rows seen in training mode.

    The statistics are also the ones used in training, so a row's result never depends on the rows beside it
    in evaluation. Features that never vary become 0.

    Args:
        size: features, the last axis.

    Shape: ``[..., size] -> [..., size]``.

    Example:
        >>> layer = Standardize(1)
        >>> layer(torch.tensor([[1.0], [3.0]])).flatten().tolist()
        [-1.0, 1.0]
        >>> layer.eval()(torch.tensor([[4.0]])).item()
        2.0
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            self._update(values.detach().reshape(-1, values.shape[-1]).double())
        variance = self.squares / self.count.clamp(min=1)
        scale = torch.where(variance > _SMALLEST, variance.clamp(min=_SMALLEST).rsqrt(), 0.0)
        seen = self.count > 0
        scale = torch.where(seen, scale, 1.0)
        return (values - self.mean.to(values.dtype)) * scale.to(values.dtype)

    def _update(self, rows: Tensor) -> None:
        """Merge the moments of new rows with the running ones (Chan's pairwise formula)."""
        count = self.count + len(rows)
        mean = rows.mean(0)
        shift = mean - self.mean
        self.squares += ((rows - mean) ** 2).sum(0) + shift**2 * self.count * len(rows) / count
        self.mean += shift * len(rows) / count
        self.count.copy_(count)
