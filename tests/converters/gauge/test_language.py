"""Language models and vision transformers: streams, norms, position codes, gates, tied embeddings."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

WORDS = (torch.tensor([[1, 4, 2, 7, 3], [0, 5, 10, 2, 2]]),)
IMAGE = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def heads(n, size, extra=()):
    return [f"{2 * n} x {size} permutation GL", f"family of {n} bundles {sorted([size, size, *extra])}"]


class Conv1D(nn.Module):
    """The layer of GPT-2: x W + b."""

    def __init__(self, out, size):
        super().__init__()
        self.weight, self.bias = nn.Parameter(0.3 * torch.randn(size, out)), nn.Parameter(torch.zeros(out))

    def forward(self, x):
        y = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return y.view(*x.shape[:-1], y.shape[-1])


class Gpt2Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.heads, self.n1, self.n2 = h, nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj, self.fc, self.down = Conv1D(3 * d, d), Conv1D(d, d), Conv1D(4 * d, d), Conv1D(d, 4 * d)

    def forward(self, x):
        b, t, d = x.shape
        parts = self.qkv(self.n1(x)).split(d, dim=2)
        q, k, v = (p.view(b, t, self.heads, d // self.heads).permute(0, 2, 1, 3) for p in parts)
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(d // self.heads)
        mask = torch.tril(torch.ones(t, t, dtype=torch.bool)).view(1, 1, t, t)
        scores = torch.where(mask, scores, torch.full([], torch.finfo(scores.dtype).min, dtype=scores.dtype))
        y = torch.matmul(F.softmax(scores, dim=-1), v).permute(0, 2, 1, 3).contiguous().view(b, t, d)
        x = x + self.proj(y)
        y = self.fc(self.n2(x))
        y = 0.5 * y * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (y + 0.044715 * torch.pow(y, 3.0))))
        return x + self.down(y)


class Gpt2(nn.Module):
    def __init__(self, d=8, h=2):
        super().__init__()
        self.wte, self.wpe, self.block = nn.Embedding(11, d), nn.Embedding(5, d), Gpt2Block(d, h)
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 11, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(5).unsqueeze(0))
        return self.head(self.norm(self.block(x)))


def test_gpt2_with_tied_embedding(assert_law):
    """The two inner norms have scales of their own; the last one is read by the tied embedding."""
    assert_law(Gpt2(), WORDS, [*heads(2, 4), "32 permutation", "8 permutation nonzero nonzero"])


class T5(nn.Module):
    """Relative position bias: one learned number per bucket and head."""

    def __init__(self, d=8, h=2):
        super().__init__()
        self.heads = h
        self.embed, self.norm, self.bias = nn.Embedding(11, d), nn.Parameter(torch.ones(d)), nn.Embedding(4, h)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.wi, self.wo, self.head = nn.Linear(d, 12, bias=False), nn.Linear(12, d, bias=False), nn.Linear(d, 11)

    def forward(self, tokens):
        x = self.embed(tokens)
        y = self.norm * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        q, k, v = (f(y).view(2, 5, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        places = torch.arange(5)
        buckets = (places[:, None] - places[None]).clamp(-2, 1) + 2
        scores = torch.matmul(q, k.transpose(3, 2)) + self.bias(buckets).permute(2, 0, 1).unsqueeze(0)
        x = x + self.o(torch.matmul(F.softmax(scores.float(), -1).type_as(scores), v).transpose(1, 2).reshape(2, 5, -1))
        return self.head(x + self.wo(F.relu(self.wi(x))))


def test_t5_heads_move_with_their_bias(assert_law):
    assert_law(T5(), WORDS, [*heads(2, 4, [1]), "12 permutation positive", "8 permutation nonzero sign"])


def rotary(t, d):
    angle = torch.outer(torch.arange(float(t)), 1 / 100 ** (torch.arange(0, d, 2) / d))
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


class Llama(nn.Module):
    def __init__(self, d=16, h=4, kv=2, qk_norm=False, turns=True):
        super().__init__()
        self.h, self.kv, self.d, self.turns = h, kv, d // h, turns
        self.embed, self.n1, self.n2 = nn.Embedding(11, d), nn.RMSNorm(d), nn.RMSNorm(d)
        self.q, self.k, self.v, self.o = (nn.Linear(d, n * self.d, bias=False) for n in (h, kv, kv, h))
        self.qn, self.kn = (nn.RMSNorm(self.d), nn.RMSNorm(self.d)) if qk_norm else (nn.Identity(), nn.Identity())
        self.gate, self.up, self.down = nn.Linear(d, 12), nn.Linear(d, 12), nn.Linear(12, d)
        self.head = nn.Linear(d, 11, bias=False)
        for name, value in zip(("cos", "sin"), rotary(5, self.d), strict=True):
            self.register_buffer(name, value, persistent=False)

    def turn(self, x):
        a, b = x[..., : self.d // 2], x[..., self.d // 2 :]
        return x * self.cos + torch.cat((-b, a), dim=-1) * self.sin if self.turns else x

    def forward(self, tokens):
        x = self.embed(tokens)
        y = self.n1(x)
        q = self.turn(self.qn(self.q(y).view(2, 5, self.h, self.d)).transpose(1, 2))
        k = self.turn(self.kn(self.k(y).view(2, 5, self.kv, self.d)).transpose(1, 2))
        v = self.v(y).view(2, 5, self.kv, self.d).transpose(1, 2)
        times = self.h // self.kv
        k, v = (
            z[:, :, None].expand(2, self.kv, times, 5, self.d).reshape(2, self.h, 5, self.d) if times > 1 else z
            for z in (k, v)
        )
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 5, -1)
        x = x + self.o(z)
        y = self.n2(x)
        return self.head(x + self.down(F.silu(self.gate(y)) * self.up(y)))


STREAM = ["16 permutation nonzero nonzero sign", "12 permutation nonzero"]


def test_llama(assert_law):
    """Queries and keys have a factor per frequency of the rotation, which keeps its place."""
    assert_law(Llama(), WORDS, [
        *STREAM, "2 x 2 nonzero", "2 x 4 permutation GL", "family of 2 bundles [2, 4]",
        "2 x exchange of 2 parts in 2 pieces",  # the queries of one key
    ])  # fmt: skip


def test_llama_with_one_key(assert_law):
    """All queries share one head of keys and values."""
    assert_law(Llama(kv=1), WORDS, [*STREAM, "2 nonzero", "4 permutation GL", "exchange of 4 parts in 2 pieces"])


def test_qwen(assert_law):
    """Norms of queries and keys for all heads, and groups of queries: keys with their queries, queries of one key."""
    assert_law(
        Llama(d=32, h=8, qk_norm=True),
        WORDS,
        [
            "32 permutation nonzero nonzero sign",
            "12 permutation nonzero",
            "2 nonzero" + 5 * " sign",
            "2 x 4 permutation GL",
            "exchange of 2 parts in 4 pieces",
            "2 x exchange of 4 parts in 2 pieces",
        ],
    )


def test_llama_without_groups(assert_law):
    assert_law(Llama(kv=4), WORDS, [*STREAM, "4 x 2 nonzero", "4 x 4 permutation GL", "family of 4 bundles [2, 4]"])


def test_norms_of_queries_and_keys(assert_law):
    """One weight for all heads ties their channels; values keep their own gauges. Of queries and keys a sign per head
    and channel is left, and a factor between the two norms' weights."""
    assert_law(
        Llama(kv=4, qk_norm=True),
        WORDS,
        [*STREAM, "2 nonzero" + 7 * " sign", "4 x 4 permutation GL", "exchange of 4 parts in 4 pieces"],
    )
    plain = Llama(kv=4, qk_norm=True, turns=False)
    assert_law(
        plain,
        WORDS,
        [*STREAM, "4 permutation nonzero" + 5 * " sign", "4 x 4 permutation GL", "exchange of 4 parts in 4 pieces"],
    )


class ViT(nn.Module):
    def __init__(self, d=8, registers=0):
        super().__init__()
        self.patch = nn.Conv2d(3, d, 4, 4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, d)), nn.Parameter(torch.randn(1, 5, d))
        self.extra = nn.Parameter(torch.randn(1, registers, d)) if registers else None
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d) for _ in range(3))
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.fc1, self.fc2, self.head = nn.Linear(d, 10), nn.Linear(10, d), nn.Linear(d, 3)

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1) + self.place
        if self.extra is not None:
            x = torch.cat((x, self.extra.expand(x.shape[0], -1, -1)), 1)
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, 2, d // 2).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q * (d // 2) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, d))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(self.norm3(x)[:, 0])


def test_vision_transformer(assert_law):
    expected = [*heads(2, 4), "8 permutation nonzero nonzero nonzero", "10 permutation"]
    assert_law(ViT(), IMAGE, expected)
    assert_law(ViT(registers=3), IMAGE, [*expected, "3 permutation"])


class Swin(nn.Module):
    """Attention in windows with a relative bias table, shifted."""

    def __init__(self, d=8, h=2):
        super().__init__()
        self.h, self.patch, self.norm = h, nn.Conv2d(3, d, 2, 2), nn.LayerNorm(d)
        self.qkv, self.proj, self.head = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, 3)
        self.table = nn.Parameter(torch.randn(9, h))
        self.register_buffer("index", torch.randint(9, (4, 4)))

    def forward(self, image):
        x = torch.roll(self.patch(image).permute(0, 2, 3, 1), (-1, -1), (1, 2))
        b, hh, ww, d = x.shape
        w = self.norm(x).view(b, hh // 2, 2, ww // 2, 2, d).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, d)
        q, k, v = self.qkv(w).reshape(-1, 4, 3, self.h, d // self.h).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(4, 4, -1).permute(2, 0, 1).contiguous()
        y = torch.softmax(q @ k.transpose(-2, -1) + bias.unsqueeze(0), -1) @ v
        y = self.proj(y.transpose(1, 2).reshape(-1, 4, d))
        y = y.view(b, hh // 2, ww // 2, 2, 2, d).permute(0, 1, 3, 2, 4, 5).reshape(b, hh, ww, d)
        return self.head((x + torch.roll(y, (1, 1), (1, 2))).mean((1, 2)))


def test_window_attention(assert_law):
    assert_law(Swin(), IMAGE, [*heads(2, 4, [1]), "8 permutation nonzero"])


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.n1, self.n2 = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.LayerNorm(8)
        self.t1, self.t2, self.c1, self.c2 = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(8, 10), nn.Linear(10, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = x + self.t2(F.gelu(self.t1(self.n1(x).transpose(1, 2)))).transpose(1, 2)
        return self.head((x + self.c2(F.gelu(self.c1(self.n2(x))))).mean(1))


def test_mlp_mixer(assert_law):
    assert_law(Mixer(), IMAGE, ["8 permutation nonzero", "6 permutation", "10 permutation"])
