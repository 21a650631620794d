"""Attention in its usual forms: heads, their linear gauges, tied and grouped heads, masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

PATHS = (torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)),)
WORDS = (torch.tensor([[1, 4, 2, 7, 3], [0, 5, 10, 2, 2]]),)


def heads(n, size, extra=()):
    """n heads with linear gauges between queries and keys and between values and outputs."""
    return [f"{2 * n} x {size} permutation GL", f"family of {n} bundles {sorted([size, size, *extra])}"]


def test_encoder_layer_has_fixed_streams(assert_law):
    net = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    assert_law(net, PATHS, [*heads(2, 4), "12 permutation positive"])


def test_encoder(assert_law):
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu")
    net = nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3))
    assert_law(net, PATHS, [
        "8 x 4 permutation GL", "2 x family of 2 bundles [4, 4]", "2 x 12 permutation",
        "8 permutation nonzero",  # the last norm's weight is read by the output layer alone
    ])  # fmt: skip


class Decoding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place, self.read = nn.Embedding(11, 8), nn.Parameter(torch.randn(1, 5, 8)), nn.Linear(8, 8)
        layer = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True, norm_first=True)
        self.layers, self.out = nn.TransformerDecoder(layer, 1, nn.LayerNorm(8)), nn.Linear(8, 11)

    def forward(self, tokens, memory):
        mask = nn.Transformer.generate_square_subsequent_mask(5)
        x = self.embed(tokens) + self.place
        return self.out(self.layers(x, self.read(memory), tgt_mask=mask, tgt_is_causal=True))


def test_decoder(assert_law):
    """Queries of the cross attention share one fused matrix with its keys, so the memory moves with the stream."""
    assert_law(Decoding(), (*WORDS, *PATHS), [
        "8 x 4 permutation GL", "2 x family of 2 bundles [4, 4]", "12 permutation positive",
        "8 permutation nonzero nonzero nonzero nonzero",
    ])  # fmt: skip


class Separate(nn.Module):
    """nn.MultiheadAttention with other sizes of keys and values."""

    def __init__(self):
        super().__init__()
        self.q, self.kv = nn.Linear(8, 8), nn.Linear(8, 6)
        self.attend, self.out = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        y = self.kv(x)
        return self.out(self.attend(self.q(x), y, y)[0])


def test_attention_of_separate_sizes(assert_law):
    assert_law(Separate(), PATHS, [*heads(2, 4), "2 x 8 permutation GL", "6 permutation GL"])


class Masked(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.attend, self.bias = nn.MultiheadAttention(8, 2, batch_first=True), bias

    def forward(self, x, mask):
        return self.attend(x, x, x, key_padding_mask=mask, need_weights=self.bias)[0]


def test_padding_mask_keeps_heads_free(assert_law):
    mask = torch.tensor([[False, False, False, True, True], [False, True, False, False, False]])
    assert_law(Masked(False), (*PATHS, mask), heads(2, 4))
    # for weights the mask is repeated in a tensor of batch and heads in one axis: no rule sees heads there, a test does
    assert_law(Masked(True), (*PATHS, mask), ["4 x 4 permutation GL", "exchange of 2 parts in 5 pieces"])


class Heads(nn.Module):
    """Attention with queries, keys and values from one layer, in the way that ``arrange`` says."""

    def __init__(self, arrange, d=8, h=2):
        super().__init__()
        self.h, self.arrange, self.qkv, self.out = h, arrange, nn.Linear(8, 3 * d), nn.Linear(d, 3)

    def forward(self, x):
        q, k, v, back = self.arrange(self.qkv(x), self.h)
        return self.out(back(torch.softmax(q @ k.transpose(-2, -1), -1) @ v))


def back(y):
    return y.transpose(1, 2).flatten(2)


def fused(z, h):
    b, t, d = z.shape
    return (*z.reshape(b, t, 3, h, d // 3 // h).permute(2, 0, 3, 1, 4).unbind(0), back)


def chunked(z, h):
    return (*(p.unflatten(-1, (h, -1)).transpose(1, 2) for p in z.chunk(3, -1)), back)


def per_head(z, h):
    """All three of one head, then the next head (GPT-NeoX)."""
    return (*z.unflatten(-1, (h, -1)).transpose(1, 2).chunk(3, -1), back)


def interleaved(z, h):
    """Channels first: (d h) instead of (h d)."""
    parts = (p.reshape(2, 5, -1, h).permute(0, 3, 1, 2) for p in z.chunk(3, -1))
    return (*parts, lambda y: y.permute(0, 2, 3, 1).reshape(2, 5, -1))


def with_batch(z, h):
    """Heads merged into the batch, as for torch.bmm."""
    parts = (p.reshape(2, 5, h, -1).transpose(1, 2).reshape(2 * h, 5, -1) for p in z.chunk(3, -1))
    return (*parts, lambda y: back(y.view(2, h, 5, -1)))


@pytest.mark.parametrize("arrange", [fused, chunked, per_head, interleaved, with_batch])
def test_arrangements_of_heads(arrange, assert_law):
    assert_law(Heads(arrange), PATHS, heads(2, 4))


class Grouped(nn.Module):
    """Grouped queries with enable_gqa and a mask."""

    def __init__(self, d=16):
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(8, d), nn.Linear(8, d), nn.Linear(d, 3)

    def forward(self, x, mask):
        q = self.q(x).view(2, 5, 4, 4).transpose(1, 2)
        k, v = self.kv(x).view(2, 5, 2, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :], enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Gathered(Grouped):
    """The same by broadcasting over a axis of queries per key, with einsum."""

    def forward(self, x, mask):
        q = self.q(x).view(2, 5, 2, 2, 4)
        k, v = self.kv(x).view(2, 5, 2, 2, 4).unbind(2)
        scores = torch.einsum("btgrd,bsgd->bgrts", q, k).masked_fill(~mask[:, None, None, None, :], -1e9)
        y = torch.einsum("bgrts,bsgd->btgrd", scores.softmax(-1), v)
        return self.out(y.flatten(2))


@pytest.mark.parametrize("form", [Grouped, Gathered])
def test_grouped_queries(form, assert_law):
    mask = torch.tensor([[True, True, True, False, False], [True, False, True, True, True]])
    """Heads of keys may be exchanged with their queries, and the two query heads of one key among each other."""
    assert_law(form(), (*PATHS, mask), [*heads(2, 4), "2 x exchange of 2 parts in 3 pieces"])


class Stacked(nn.Module):
    """Weights per head in tensors of three axes, with einsum."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(8, 2, 4)) for _ in range(3))
        self.b, self.o = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(2, 4, 3))

    def forward(self, x):
        q, k, v = (torch.einsum("btd,dhk->bthk", x, w) for w in (self.q, self.k, self.v))
        scores = torch.einsum("bthk,bshk->bhts", q + self.b, k)
        return torch.einsum("bhts,bshk,hko->bto", scores.softmax(-1), v, self.o)


def test_weights_stacked_by_head(assert_law):
    assert_law(Stacked(), PATHS, heads(2, 4, [1]))


class Alibi(nn.Module):
    """A slope per head: a constant keeps heads at their places, a parameter moves with them."""

    def __init__(self, learned):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        slopes = torch.tensor([0.5, 0.25])
        self.slopes = nn.Parameter(slopes) if learned else slopes

    def forward(self, x):
        q, k, v = (z.view(2, 5, 2, 4).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        far = (torch.arange(5)[:, None] - torch.arange(5)[None]).abs()
        y = torch.softmax(q @ k.mT - far * self.slopes[:, None, None], -1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


def test_slopes_of_heads(assert_law):
    assert_law(Alibi(False), PATHS, ["4 x 4 permutation GL"])
    assert_law(Alibi(True), PATHS, heads(2, 4, [1]))


class Memory(nn.Module):
    """Learned keys and values: attention over slots, whose order is free."""

    def __init__(self):
        super().__init__()
        self.q, self.out = nn.Linear(8, 4), nn.Linear(4, 3)
        self.keys, self.values = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        return self.out((self.q(x) @ self.keys.T).softmax(-1) @ self.values)


def test_learned_slots_may_be_permuted(assert_law):
    assert_law(Memory(), PATHS, ["2 x 4 permutation GL", "6 permutation"])
