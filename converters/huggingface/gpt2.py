"""GPT-2 (Radford et al., 2019) under the names of its Hugging Face checkpoints."""

from __future__ import annotations

import re
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.huggingface.config import Config
from converters.huggingface.family import Family
from converters.huggingface.layers import activation, merge_heads, positions, split_heads


class Dense(nn.Module):
    """``x W + b`` with W stored as [in, out]."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(into, out))
        self.bias = nn.Parameter(torch.empty(out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Attention(nn.Module):
    """Causal attention; queries, keys and values come from one layer.

    Args:
        config: of the checkpoint.
        number: of the block, from 0.
    """

    def __init__(self, config: Config, number: int) -> None:
        super().__init__()
        self.width = config.size("n_embd")
        self.heads = config.heads(self.width, "n_head")
        self.c_attn, self.c_proj = Dense(self.width, 3 * self.width), Dense(self.width, self.width)
        self.scale = (self.width // self.heads) ** -0.5 if config.flag("scale_attn_weights", True) else 1.0
        if config.flag("scale_attn_by_inverse_layer_idx", False):
            self.scale /= number + 1

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in self.c_attn(x).split(self.width, -1))
        return self.c_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)))


class Perceptron(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.size("n_embd")
        inner = config.size("n_inner", 4 * width)
        self.c_fc, self.c_proj = Dense(width, inner), Dense(inner, width)
        self.activation = activation(config, "activation_function", "gelu_new")

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, config: Config, number: int) -> None:
        super().__init__()
        width, eps = config.size("n_embd"), config.number("layer_norm_epsilon", 1e-5)
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn = Attention(config, number)
        self.mlp = Perceptron(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Body(nn.Module):
    """ids [batch, n] -> hidden [batch, n, width]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.size("n_embd")
        self.wte = nn.Embedding(config.size("vocab_size"), width)
        self.wpe = nn.Embedding(config.size("n_positions", 1024), width)
        self.h = nn.ModuleList(Block(config, i) for i in range(config.size("n_layer")))
        self.ln_f = nn.LayerNorm(width, config.number("layer_norm_epsilon", 1e-5))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(positions(ids))
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class LanguageModel(nn.Module):
    """Scores of the next token [batch, n, vocabulary], with the embedding's weights or ``lm_head``."""

    def __init__(self, config: Config, untied: bool) -> None:
        super().__init__()
        self.transformer = Body(config)
        width, vocabulary = config.size("n_embd"), config.size("vocab_size")
        self.lm_head = nn.Linear(width, vocabulary, bias=False) if untied else None

    def forward(self, ids: Tensor) -> Tensor:
        head = self.transformer.wte if self.lm_head is None else self.lm_head
        return F.linear(self.transformer(ids), head.weight)


def build(config: Config, names: Collection[str]) -> nn.Module:
    """A language model, unless it was saved as a body."""
    if config.architecture.endswith("Model") and not config.architecture.endswith("LMHeadModel"):
        return Body(config)
    if config.architecture not in ("", "GPT2LMHeadModel"):
        raise config.fail("architectures", config.architecture, "GPT2Model or GPT2LMHeadModel")
    return LanguageModel(config, "lm_head.weight" in names)


FAMILY = Family(
    build=build,
    base="transformer.",
    blocks="h.",
    unused=re.compile(r"attn\.(bias|masked_bias)$"),
    tied=(("lm_head.weight", "wte.weight"),),
)
