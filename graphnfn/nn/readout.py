"""Heads: from neuron features to one prediction per network, or to edited weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphnfn.nn.state import State, count_places
from graphnfn.nn.taps import Sizes
from graphnfn.nn.wiring import Wiring


class InvariantReadout(nn.Module):
    """Pool every neuron group, keep the output neurons apart, predict.

    Args:
        width: channels of the even features.
        out: numbers predicted per network.
        sizes: of the table of output neurons.

    Shape: ``[networks, out]``; what else was seen of the networks, ``[networks, hidden]``, is added in front of the
    last layers.
    """

    def __init__(self, width: int, out: int, sizes: Sizes) -> None:
        super().__init__()
        self.hidden = hidden = 4 * width
        self.group = nn.Sequential(nn.LayerNorm(3 * width), nn.Linear(3 * width, hidden))
        self.outputs = nn.Parameter(torch.randn(sizes.outputs, width, hidden) * (sizes.outputs * width) ** -0.5)
        self.predict = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, out))

    def forward(self, state: State, wiring: Wiring, seen: Tensor | None = None) -> Tensor:
        total = seen
        for i, level in enumerate(wiring.levels):
            if level.role == "output":
                count_places(level, len(self.outputs))
                kernel = self.outputs[level.place]  # [n, width, hidden]
                rows = torch.einsum("...d,...dh->...h", state.even[i], kernel)
                part = wiring.collect(i, rows, pooled=False)
            else:
                rows = self.group(wiring.pool(i, state.even[i]))
                part = wiring.collect(i, rows, pooled=True)
            total = part if total is None else total + part
        assert total is not None
        return self.predict(total)
