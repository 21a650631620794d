"""Principal neighbourhood aggregation with modulated messages and edge updates (Kofinas et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TINY_VARIANCE, _NORM_EPS = 1e-5, 1e-5


@dataclass(frozen=True)
class Edges:
    """Features of the edges of a chain.

    Args:
        forth: per layer ``[B, n_out, n_in, width]``.
        back: the same for edges from outputs to inputs of the layer; empty where there are none.
    """

    forth: list[Tensor]
    back: list[Tensor]


def mean_log_degree(widths: Sequence[Sequence[int]]) -> float:
    """The mean of log(d + 1) over all neurons, d inputs each (edges that lead back are not counted, as published)."""
    degrees = [(n, d) for sizes in widths for d, n in zip((0, *sizes[:-1]), sizes, strict=True)]
    return sum(n * math.log(d + 1) for n, d in degrees) / sum(n for n, _ in degrees)


class PNALayer(nn.Module):
    """``m = s(e) * (A x_t + B x_s + a) + t(e)``; ``x' = D (C [x, agg m, log(d + 1) / delta * agg m])``.

    ``agg`` is mean, min, max and deviation over the edges that reach a neuron; zeros where there is none.
    """

    mean_log_degree: Tensor

    def __init__(self, width: int, mean_log: float) -> None:
        super().__init__()
        self.modulate = nn.Linear(width, 2 * width)
        self.message = nn.Linear(2 * width, width)
        self.combine, self.out = nn.Linear(9 * width, width), nn.Linear(width, width)
        self.register_buffer("mean_log_degree", torch.tensor([mean_log]))

    def forward(self, x: Tensor, edges: Edges, sizes: list[int]) -> Tensor:
        to_target, to_source = self.message.weight.chunk(2, 1)
        targets = F.linear(x, to_target, self.message.bias).split(sizes, 1)
        sources = F.linear(x, to_source).split(sizes, 1)
        rows = []
        for i, size in enumerate(sizes):
            heard = []
            if i > 0:
                heard.append(self._messages(targets[i], sources[i - 1], edges.forth[i - 1]))
            if edges.back and i + 1 < len(sizes):
                heard.append(self._messages(targets[i], sources[i + 1], edges.back[i].transpose(1, 2)))
            rows.append(self._aggregate(heard) if heard else x.new_zeros(len(x), size, 8 * x.shape[-1]))
        return self.out(self.combine(torch.cat([x, torch.cat(rows, 1)], -1)))

    def _messages(self, target: Tensor, source: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulate(e).chunk(2, -1)
        return torch.addcmul(shift, scale, target[:, :, None] + source[:, None])

    def _aggregate(self, heard: list[Tensor]) -> Tensor:
        m = heard[0] if len(heard) == 1 else torch.cat(heard, 2)
        mean = m.mean(2)
        variance = (m * m).mean(2) - mean * mean
        spread = torch.where(variance > _TINY_VARIANCE, variance.clamp(min=_TINY_VARIANCE).sqrt(), 0.0)
        found = torch.cat([mean, m.amin(2), m.amax(2), spread], -1)
        return torch.cat([found, found * (math.log(m.shape[2] + 1) / self.mean_log_degree)], -1)


class EdgeUpdate(nn.Module):
    """``e' = C silu(A e + B x_s + D x_t)``, for edges of both directions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.source = nn.Linear(width, width), nn.Linear(width, width)
        self.target, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, edges: Edges, sizes: list[int]) -> Edges:
        source, target = self.source(x).split(sizes, 1), self.target(x).split(sizes, 1)
        forth = [
            self.out(F.silu(self.own(e) + (target[i + 1][:, :, None] + source[i][:, None])))
            for i, e in enumerate(edges.forth)
        ]
        back = [
            self.out(F.silu(self.own(e) + (source[i + 1][:, :, None] + target[i][:, None])))
            for i, e in enumerate(edges.back)
        ]
        return Edges(forth, back)


class NetworkNorm(nn.Module):
    """``(x - mean) / (std + eps) * w + b`` with mean and deviation over all neurons and channels of one network."""

    over: tuple[int, ...] = (1, 2)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(self.over, keepdim=True)
        return x / (x.std(self.over, correction=0, keepdim=True) + _NORM_EPS) * self.weight + self.bias


class BatchWideNorm(NetworkNorm):
    """The published norm: mean and deviation over the whole batch, so networks depend on those beside them."""

    over = (0, 1, 2)


class GNN(nn.Module):
    """Rounds of PNA with edge updates between them.

    Args:
        width: channels of nodes and edges.
        layers: rounds.
        mean_log: see :func:`mean_log_degree`.
        norm: between rounds.
    """

    def __init__(self, width: int, layers: int, mean_log: float, norm: type[NetworkNorm]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PNALayer(width, mean_log) for _ in range(layers))
        self.norms = nn.ModuleList(norm(width) for _ in range(layers - 1))
        self.updates = nn.ModuleList(EdgeUpdate(width) for _ in range(layers - 1))

    def forward(self, x: Tensor, edges: Edges, sizes: list[int]) -> tuple[Tensor, Edges]:
        """Features of all neurons ``[B, sum(sizes), width]`` and of edges; sizes of the layers."""
        for i, layer in enumerate(self.layers):
            x = layer(x, edges, sizes)
            if i < len(self.norms):
                x = F.silu(self.norms[i](x))
                edges = self.updates[i](x, edges, sizes)
        return x, edges
