"""What happens on the edges of one block: messages between its neurons, and updates of its features.

Features of a group's neurons are ``[B, n, d]``, of a block's edges ``[B, targets, sources, d]``; nothing is gathered.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.scalegmn.layers import Equivariant, Features, Kinds, MLPs, Place, linear, value

End = tuple[Tensor, Place]
"""Features of the neurons at one end of a block, and what they are."""


def along(x: Tensor, axis: int) -> Tensor:
    """Neurons ``[..., n, d]`` on axis 1 (targets) or 2 (sources) of edges ``[B, targets, sources, d]``."""
    return x.unsqueeze(-2 if axis == 1 else -3)


class Messages(nn.Module):
    """``m_i = sum_j MSG((W_e e_ij) * (W_v h_j))`` over the senders j of one block."""

    def __init__(self, net: Equivariant, width: int) -> None:
        super().__init__()
        self.send = nn.Linear(width, width, bias=False)
        self.lift = nn.Linear(width, width, bias=False)
        self.net = net

    def forward(self, edges: Features, sender: Tensor, axis: int, place: Place) -> Tensor:
        """Messages to the neurons of the other axis; the senders are on ``axis`` (2: forward, 1: back)."""
        return self.net(linear(edges, self.lift.weight) * along(self.send(sender), axis), place).sum(axis)


class PlainMessages(nn.Module):
    """``m_i = sum_j MLP(e_ij, h_j)``."""

    def __init__(self, width: int, mlps: MLPs) -> None:
        super().__init__()
        self.mlp = mlps.make(2 * width, width)

    def forward(self, edges: Features, sender: Tensor, axis: int, place: Place) -> Tensor:
        edge, node = self.mlp.first.weight.chunk(2, 1)
        z = value(linear(edges, edge)) + along(F.linear(sender, node, self.mlp.first.bias), axis)
        return self.mlp.rest(z).sum(axis)


class EdgeUpdate(nn.Module):
    """``e_ij <- (W e_ij) * phi(c(h_sender), c(h_receiver))``; the first layer of phi acts on neurons."""

    def __init__(self, kinds: Kinds, width: int, out: int, mlps: MLPs) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out, bias=False)
        self.form = kinds.forms(width, mlps)
        self.phi = mlps.make(2 * width, out)

    def forward(self, edges: Features, axis: int, sender: End, receiver: End) -> Tensor:
        left, right = self.phi.first.weight.chunk(2, 1)
        z = along(self.form(*sender, left, self.phi.first.bias), axis)
        z = z + along(self.form(*receiver, right, torch.zeros_like(self.phi.first.bias)), 3 - axis)
        return value(linear(edges, self.linear.weight)) * self.phi.rest(z)


class PlainEdgeUpdate(nn.Module):
    """``e_ij <- MLP(e_ij, h_sender, h_receiver)``."""

    def __init__(self, width: int, out: int, mlps: MLPs) -> None:
        super().__init__()
        self.phi = mlps.make(3 * width, out)

    def forward(self, edges: Features, axis: int, sender: End, receiver: End) -> Tensor:
        edge, left, right = self.phi.first.weight.chunk(3, 1)
        z = value(linear(edges, edge)) + along(F.linear(sender[0], left, self.phi.first.bias), axis)
        return self.phi.rest(z + along(F.linear(receiver[0], right), 3 - axis))
