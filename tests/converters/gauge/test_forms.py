"""Recurrent networks, mixtures, tied weights, autoencoders and other forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

SERIES = (torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)),)
ROWS = (torch.randn(3, 6, generator=torch.Generator().manual_seed(0)),)


class Reader(nn.Module):
    def __init__(self, core, width):
        super().__init__()
        self.core, self.out = core, nn.Linear(width, 3)

    def forward(self, x):
        return self.out(self.core(x)[0])


RECURRENT: dict[str, tuple] = {
    "lstm": (nn.LSTM, {}, ["8 permutation sign"]),
    "lstm stacked": (nn.LSTM, {"num_layers": 2, "bias": False}, ["2 x 8 permutation sign"]),
    "gru both ways": (nn.GRU, {"num_layers": 2, "bidirectional": True}, ["4 x 8 permutation sign"]),
    "rnn": (nn.RNN, {}, ["8 permutation sign"]),
    "rnn relu": (nn.RNN, {"nonlinearity": "relu"}, ["8 permutation positive"]),
    "lstm with projection": (nn.LSTM, {"proj_size": 3}, ["8 permutation sign", "3 permutation GL"]),
    "stacked with projection": (
        nn.LSTM,
        {"proj_size": 3, "num_layers": 2, "bias": False, "bidirectional": True},
        ["4 x 8 permutation sign", "4 x 3 permutation GL"],
    ),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(name, assert_law):
    core, options, expected = RECURRENT[name]
    wide = options.get("proj_size", 8) * (2 if options.get("bidirectional") else 1)
    assert_law(Reader(core(5, 8, batch_first=True, **options), wide), SERIES, expected)


class Final(nn.Module):
    """Last states of both directions of the upper layer, and the cell of the lower one."""

    def __init__(self):
        super().__init__()
        self.embed, self.core = nn.Linear(5, 6), nn.LSTM(6, 7, 2, batch_first=True, bidirectional=True)
        self.out, self.cell = nn.Linear(14, 3), nn.Linear(7, 3)

    def forward(self, x):
        _, (h, c) = self.core(self.embed(x))
        return self.out(torch.cat([h[-2], h[-1]], -1)) + self.cell(c[0])


def test_final_states(assert_law):
    """A cell is a sum of signed candidates: it has the sign of its neuron, too."""
    assert_law(Final(), SERIES, ["6 permutation GL", "4 x 7 permutation sign"])


class Started(nn.Module):
    """First states that are learned, computed by a layer, or given."""

    def __init__(self, begin):
        super().__init__()
        self.begin, self.core, self.out = begin, nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 3)
        self.h, self.c, self.read = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(8)), nn.Linear(4, 8)

    def forward(self, x, given):
        learned = self.h.expand(1, 2, 8), self.c.expand(1, 2, 8)
        states = {"learned": learned, "read": (torch.tanh(self.read(given))[None], learned[1])}
        return self.out(self.core(x, states.get(self.begin, (learned[0], given.repeat(1, 2)[None])))[0])


@pytest.mark.parametrize(
    ("begin", "expected"),
    [("learned", ["8 permutation sign"]), ("read", ["8 permutation sign"]), ("given", [])],
)
def test_first_states(begin, expected, assert_law):
    given = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    assert_law(Started(begin), (*SERIES, given), expected)


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.gru, self.out = nn.LSTMCell(5, 6), nn.GRUCell(6, 7), nn.Linear(7, 2)

    def forward(self, x):
        h, c, g = (torch.zeros(2, n, dtype=x.dtype) for n in (6, 6, 7))
        for t in range(3):
            h, c = self.cell(x[:, t], (h, c))
            g = self.gru(h, g)
        return self.out(g)


def test_cells_in_a_loop(assert_law):
    assert_law(Cells(), SERIES, ["6 permutation sign", "7 permutation sign"])


def test_normed_mlp(assert_law):
    net = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5), nn.BatchNorm1d(5, affine=False), nn.Tanh(),
        nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.Dropout(), nn.Linear(3, 2),
    )  # fmt: skip
    assert_law(net, ROWS, [
        "8 permutation nonzero positive", "5 permutation sign", "4 permutation nonzero", "3 permutation GL",
    ])  # fmt: skip


class Tied(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.weight, self.act = nn.Parameter(torch.randn(8, 6)), act
        self.b, self.c = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        return F.linear(self.act(F.linear(x, self.weight, self.b)), self.weight.t(), self.c)


def test_tied_autoencoder_keeps_signs_at_most(assert_law):
    assert_law(Tied(torch.tanh), ROWS, ["8 permutation sign"])
    assert_law(Tied(torch.relu), ROWS, ["8 permutation"])


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.mean, self.logvar = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 6)

    def forward(self, x):
        h = F.relu(self.a(x))
        mean, logvar = self.mean(h), self.logvar(h)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
        return self.c(F.relu(self.b(z))), mean, logvar


def test_variational_autoencoder(assert_law):
    assert_law(Vae(), ROWS, ["2 x 8 permutation positive"])


class Experts(nn.Module):
    """A dense mixture of modules."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)) for _ in range(3)])

    def forward(self, x):
        w = F.softmax(self.gate(x), -1)
        y = torch.stack([e(x) for e in self.experts], 1)
        return (w[:, :, None] * y).sum(1)


def test_mixture_of_modules(assert_law):
    """Experts in tensors of their own may be exchanged, with the router's rows."""
    assert_law(Experts(), ROWS, ["3 x 8 permutation positive", "exchange of 3 parts in 6 pieces"])


class StackedExperts(nn.Module):
    """A dense mixture of experts that are stacked in tensors."""

    def __init__(self, form):
        super().__init__()
        self.form, self.gate = form, nn.Linear(6, 3)
        self.w1, self.b1 = nn.Parameter(torch.randn(3, 6, 8)), nn.Parameter(torch.randn(3, 8))
        self.w2, self.b2 = nn.Parameter(torch.randn(3, 8, 6)), nn.Parameter(torch.randn(3, 6))

    def forward(self, x):
        w = F.softmax(self.gate(x), -1)
        if self.form == "bmm":
            h = F.relu(torch.bmm(x[None].expand(3, -1, -1), self.w1) + self.b1[:, None])
            y = torch.bmm(h, self.w2) + self.b2[:, None]
            return (w.t()[:, :, None] * y).sum(0)
        if self.form == "matmul":
            h = F.relu(torch.matmul(x, self.w1) + self.b1.unsqueeze(1))
            return torch.einsum("ne,end->nd", w, h @ self.w2 + self.b2.unsqueeze(1))
        h = F.relu(torch.einsum("nd,edh->neh", x, self.w1) + self.b1)
        return torch.einsum("ne,neh,ehd->nd", w, h, self.w2) + w @ self.b2


@pytest.mark.parametrize("form", ["bmm", "matmul", "einsum"])
def test_mixture_of_stacked_tensors(form, assert_law):
    assert_law(StackedExperts(form), ROWS, [
        "3 x 8 permutation positive", "family of 3 bundles [1, 8]"])  # fmt: skip


class Routed(StackedExperts):
    """Top-2 routing reads the order of experts; nevertheless they may be exchanged."""

    def forward(self, x):
        scores, index = F.softmax(self.gate(x), -1).topk(2, -1)
        w = torch.zeros(3, 3, dtype=x.dtype).scatter(1, index, scores)
        h = F.relu(torch.einsum("nd,edh->neh", x, self.w1) + self.b1)
        return torch.einsum("ne,ned->nd", w, torch.einsum("neh,ehd->ned", h, self.w2) + self.b2)


def test_routing_to_the_best_experts(assert_law):
    assert_law(Routed(""), ROWS, ["3 x 8 permutation positive", "exchange of 3 parts in 6 pieces"])


class Hyper(nn.Module):
    """One network makes the weights of another."""

    def __init__(self):
        super().__init__()
        self.coder, self.make = nn.Linear(6, 4), nn.Linear(4, 30)
        self.mix, self.out = nn.Bilinear(5, 4, 7), nn.Linear(7, 2)

    def forward(self, x):
        z = torch.tanh(self.coder(x))
        h = F.relu(torch.bmm(self.make(z).view(-1, 5, 6), x[:, :, None]).squeeze(-1))
        return self.out(F.relu(self.mix(h, z)))


def test_hypernetwork(assert_law):
    """The five made neurons are five blocks of rows of the maker."""
    assert_law(Hyper(), ROWS, ["4 permutation sign", "5 permutation positive", "7 permutation positive"])


class Bag(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(11, 8, mode=mode), nn.Linear(8, 3)

    def forward(self, tokens):
        return self.out(torch.tanh(self.bag(tokens)))


def test_embedding_bag(assert_law):
    tokens = (torch.tensor([[1, 2, 3], [4, 5, 6]]),)
    assert_law(Bag("mean"), tokens, ["8 permutation sign"])
    assert_law(Bag("max"), tokens, ["8 permutation"])


class Film(nn.Module):
    """A condition scales and shifts channels."""

    def __init__(self):
        super().__init__()
        self.a, self.gamma, self.beta, self.b = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(F.relu(self.gamma(x) * self.a(x) + self.beta(x)))


def test_feature_modulation(assert_law):
    assert_law(Film(), ROWS, ["8 permutation nonzero positive"])


def test_weight_norm(assert_law):
    """Signs of a direction and of its length go together; scales of directions have no effect at all."""
    layers = [nn.utils.parametrizations.weight_norm(nn.Linear(*s)) for s in ((6, 8), (8, 2))]
    assert_law(nn.Sequential(layers[0], nn.ReLU(), layers[1]), ROWS, ["8 permutation positive sign", "2 positive sign"])


class Lora(nn.Module):
    """A frozen layer with a low-rank correction."""

    def __init__(self):
        super().__init__()
        self.base, self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 2, bias=False), nn.Linear(2, 8, bias=False)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(F.relu(self.base(x) + 0.5 * self.b(self.a(x))))


def test_low_rank_correction(assert_law):
    assert_law(Lora(), ROWS, ["2 permutation GL", "8 permutation positive"])


class Deep(nn.Module):
    """A deep linear network with a skip from a fixed input, and a sum over its outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x):
        return self.c(self.b(x + self.a(x))).sum(-1)


def test_deep_linear(assert_law):
    assert_law(Deep(), ROWS, ["4 permutation GL", "6 permutation"])


class Siamese(nn.Module):
    """One encoder read twice, compared by distance and product."""

    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(6, 8), nn.Linear(16, 2)

    def forward(self, x):
        y, z = torch.tanh(self.a(x)), torch.tanh(self.a(x.flip(-1)))
        return self.out(torch.cat([(y - z).abs(), y * z], -1)), (y @ z.t())


def test_siamese(assert_law):
    """Distance and product forget the sign; the concatenated columns know both."""
    assert_law(Siamese(), ROWS, ["8 permutation sign"])


class Capsule(nn.Module):
    """Vectors of neurons, squashed by their length: each vector could be rotated, signs are what a law can say."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 2)

    def forward(self, x):
        v = self.a(x).view(-1, 4, 3)
        size = v.pow(2).sum(-1, keepdim=True)
        return self.b((v * size / (1 + size)).flatten(1))


def test_capsules(assert_law):
    assert_law(Capsule(), ROWS, ["4 x 3 permutation sign", "family of 4 bundles [3]"])
