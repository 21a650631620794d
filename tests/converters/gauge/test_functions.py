"""Functions of single neurons and of pairs: which of their scales and signs are free."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

ROWS = (torch.randn(3, 6, generator=torch.Generator().manual_seed(0)),)


class Formula(nn.Module):
    """Two layers with any function between."""

    def __init__(self, function, narrow=8):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(6, 8), nn.Linear(narrow, 2), function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


SINGLE = {
    "sine": (lambda z: torch.sin(30 * z), "sign"),
    "cosine": (torch.cos, "sign"),
    "squared relu": (lambda z: F.relu(z) ** 2, "positive"),
    "square": (lambda z: z * z, "nonzero"),
    "cube": (lambda z: z.pow(3), "nonzero"),
    "odd root": (lambda z: z.abs().sqrt() * z.sign(), "nonzero"),
    "root": (lambda z: z.abs().sqrt(), "nonzero"),
    "inverse": (lambda z: 1 / z, "nonzero"),
    "reciprocal": (lambda z: z.reciprocal(), "nonzero"),
    "softsign": (lambda z: z / (1 + z.abs()), "sign"),
    "modulus": (torch.abs, "nonzero"),
    "clamped": (lambda z: z.clamp(-1, 1), "sign"),
    "clamped below": (lambda z: z.clamp(min=0), "positive"),
    "clamped above": (lambda z: z.clamp(max=0), "positive"),
    "clamped by keyword": (lambda z: torch.clamp(z, max=0.0, min=None), "positive"),
    "clamped unevenly": (lambda z: z.clamp(-1, 2), ""),
    "hardtanh": (F.hardtanh, "sign"),
    "hardtanh from -2 to 2": (lambda z: F.hardtanh(z, -2.0, 2.0), "sign"),
    "hardtanh from 0": (lambda z: F.hardtanh(z, 0.0, 6.0), ""),
    "relu6": (F.relu6, ""),
    "elu": (F.elu, ""),
    "threshold": (lambda z: F.threshold(z, 0.1, 20.0), ""),
    "shifted": (lambda z: torch.relu(z + 1.0), ""),
    "from one": (lambda z: torch.rsub(z, 1.0), ""),
    "swish": (lambda z: z * torch.sigmoid(z), ""),
    "softmax": (lambda z: z.softmax(-1), ""),
    "softmax over the batch": (lambda z: z.softmax(0), ""),
    "maximum with zero": (lambda z: torch.maximum(z, torch.zeros(8)), "positive"),
    "maximum with one": (lambda z: torch.maximum(z, torch.ones(8)), ""),
    "scaled by size": (lambda z: z / z.norm(dim=-1, keepdim=True), "sign"),
    "scaled by sum": (lambda z: z / z.abs().sum(1, keepdim=True), "sign"),
    "scaled by maximum": (lambda z: z / z.abs().amax(-1, keepdim=True), "sign"),
    "masked": (lambda z: z.masked_fill(z < 0, 0.0), "positive"),
    "masked above one": (lambda z: z.masked_fill(z > 1, 0.0), ""),
    "gated by its sign": (lambda z: z * (z > 0), "positive"),
    "chosen": (lambda z: torch.where(z > 0, z, 0.1 * z), "positive"),
    "to another type": (lambda z: torch.relu(z).to(torch.float32).double(), "positive"),
    "rounded": (lambda z: z.to(torch.int64).to(z.dtype), ""),
    "in place": (lambda z: z.relu_().mul_(2), "positive"),
    "by a number per neuron": (lambda z: torch.relu(z) * torch.arange(1.0, 9.0, dtype=z.dtype), "fixed positive"),
    "by one number": (lambda z: torch.relu(z) * torch.full((8,), 2.0, dtype=z.dtype), "positive"),
    "plus a number per neuron": (lambda z: torch.relu(z + torch.arange(8.0)), "fixed"),
    "cumulated": (lambda z: z.cumsum(-1), "fixed"),
    "weighted by rank": (lambda z: z.sort(-1).values, "fixed"),
    "mixed by a constant": (lambda z: z @ torch.ones(8, 8, dtype=z.dtype), "fixed"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_functions_of_one_neuron(name, find_law):
    function, kind = SINGLE[name]
    found = find_law(Formula(function), *ROWS)
    worst = max(found.errors().values())
    assert worst <= 1e-6 if "type" in name else worst <= 1e-9
    permuted = [] if kind.startswith("fixed") else ["permutation"]
    kinds = kind.removeprefix("fixed").split()
    assert found.summary() == ([" ".join(["8", *permuted, *kinds])] if permuted or kinds else [])


SIDES = "exchange of 2 parts in 2 pieces"  # of all neurons at once
TURN = "exchange of 2 parts in 3 pieces"  # places k and k + 4 for every k

PAIRED = {
    "glu": (lambda z: F.glu(z, -1), ["4 permutation nonzero"]),
    "geglu": (lambda z: F.gelu(z[:, :4]) * z[:, 4:], ["4 permutation nonzero"]),
    "reglu": (lambda z: F.relu(z[:, :4]) * z[:, 4:], ["4 permutation nonzero positive"]),
    "bilinear": (lambda z: z[:, :4] * z[:, 4:], ["4 permutation nonzero nonzero", SIDES]),
    "ratio": (lambda z: z[:, :4] / z[:, 4:], ["4 permutation nonzero nonzero"]),
    "difference": (lambda z: F.relu(z[:, :4]) - F.relu(z[:, 4:]), ["4 permutation positive"]),
    "larger": (lambda z: torch.max(z[:, :4], z[:, 4:]), ["4 permutation positive", SIDES]),
    "smaller": (lambda z: torch.minimum(*z.chunk(2, 1)), ["4 permutation positive", SIDES]),
    "even and odd places": (lambda z: F.relu(z[:, ::2]) * z[:, 1::2], ["4 permutation nonzero positive"]),
    "comparison": (lambda z: F.relu(z[:, :4]) * (z[:, 4:] > 0), ["4 permutation positive positive"]),
    "mixed halves": (lambda z: torch.lerp(z[:, :4], z[:, 4:], 0.3), ["4 permutation GL"]),
    "picked by number": (lambda z: z[:, [0, 3]] * F.relu(z[:, [2, 1]]), []),
    "reversed": (lambda z: z[:, :4] * F.relu(z[:, 4:].flip(-1)), ["4 permutation nonzero positive"]),
    "rolled": (lambda z: z[:, :4] * F.relu(z[:, 4:].roll(-1, 1)), ["4 permutation nonzero positive"]),
    "added to its neighbour": (lambda z: F.relu(z + z.roll(1, 1)), ["1 positive", TURN]),
    "maxout over pieces": (lambda z: z.view(3, 4, 2).amax(-1), ["4 x 2 permutation", "family of 4 bundles [1, 2]"]),
    "maxout over units": (lambda z: z.view(3, 2, 4).amax(1), ["4 permutation positive", SIDES]),
    "outer product": (
        lambda z: torch.einsum("bi,bj->bij", torch.tanh(z[:, :2]), torch.tanh(z[:, 2:4])).sum(2),
        ["2 permutation", "2 permutation sign", "4 permutation GL"],  # four neurons are never read
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRED)
def test_functions_of_two_neurons(name, assert_law):
    function, expected = PAIRED[name]
    narrow = function(torch.zeros(3, 8)).shape[1]
    assert_law(Formula(function, narrow), ROWS, expected)
