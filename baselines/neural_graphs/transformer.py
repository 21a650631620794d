"""The relational transformer with modulated values (Kofinas et al. 2024; Diao and Loynd 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Channels of nodes, edges, attention and of the MLPs on nodes and edges; heads of attention."""

    node: int = 64
    edge: int = 32
    attention: int = 128
    node_hidden: int = 128
    edge_hidden: int = 64
    heads: int = 8


def _linear(into: int, out: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(into, out, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """``q = Q x_i + Q' e_ij``, ``k = K x_j + K' e_ij``, ``v = (V x_j) * (M e_ij) + V' e_ij``; softmax over all j.

    The scale is ``1 / sqrt(hidden)`` for all heads together, as published.
    """

    def __init__(self, node: int, edge: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, hidden**-0.5
        self.of_node, self.of_edge = _linear(node, 3 * hidden, bias=False), _linear(edge, 4 * hidden, bias=False)
        self.out = _linear(hidden, node)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        q, k, v = self.of_node(x).unflatten(-1, (self.heads, -1)).chunk(3, -1)
        q_edge, k_edge, add, times = self.of_edge(e).unflatten(-1, (self.heads, -1)).chunk(4, -1)
        dots = ((q[:, :, None] + q_edge) * (k[:, None] + k_edge)).sum(-1)
        weights = (self.scale * dots).softmax(2)[..., None]
        values = v[:, None] * times + add
        return self.out((weights * values).sum(2).flatten(2))


class EdgeLayer(nn.Module):
    """``e <- LN(e + D gelu(A e_ij + A' e_ji + B x_i + C x_j))``, ``e <- LN(e + MLP(e))``."""

    def __init__(self, node: int, edge: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.own, self.source, self.target = _linear(2 * edge, hidden), _linear(node, hidden), _linear(node, hidden)
        self.out = _linear(hidden, edge)
        self.mlp = nn.Sequential(_linear(edge, hidden, bias=False), nn.GELU(), _linear(hidden, edge))
        self.first_norm, self.second_norm, self.drop = nn.LayerNorm(edge), nn.LayerNorm(edge), nn.Dropout(dropout)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        own, other = self.own.weight.chunk(2, 1)
        ends = self.source(x)[:, :, None] + self.target(x)[:, None]
        new = F.linear(e, own, self.own.bias) + F.linear(e, other).transpose(1, 2) + ends
        e = self.first_norm(e + self.drop(self.out(F.gelu(new))))
        return self.second_norm(e + self.drop(self.mlp(e)))


class RTLayer(nn.Module):
    """``x <- LN(x + A attention(x, e))``, ``x <- LN(x + MLP(x))``, then the edges, unless this is a last layer."""

    def __init__(self, sizes: Sizes, dropout: float, *, edges: bool) -> None:
        super().__init__()
        node, hidden = sizes.node, sizes.node_hidden
        self.attention = Attention(node, sizes.edge, sizes.attention, sizes.heads)
        self.mix = _linear(node, node)
        self.mlp = nn.Sequential(_linear(node, hidden, bias=False), nn.GELU(), _linear(hidden, node))
        self.first_norm, self.second_norm, self.drop = nn.LayerNorm(node), nn.LayerNorm(node), nn.Dropout(dropout)
        self.edges = EdgeLayer(node, sizes.edge, sizes.edge_hidden, dropout) if edges else None

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first_norm(x + self.drop(self.mix(self.attention(x, e))))
        x = self.second_norm(x + self.drop(self.mlp(x)))
        return x, e if self.edges is None else self.edges(x, e)
