"""Llama, Mistral, Qwen2, Qwen3 (arXiv 2302.13971, 2310.06825, 2407.10671, 2505.09388) under Hugging Face's names."""

from __future__ import annotations

import re
from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor, nn

from converters.huggingface.config import Config
from converters.huggingface.family import Family
from converters.huggingface.layers import (
    RMSNorm,
    Rotary,
    activation,
    merge_heads,
    rotary_frequencies,
    rotate,
    split_heads,
)

Angles = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Causal attention in which several query heads share a key and value head (Ainslie et al., arXiv 2305.13245)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, each = config.size("hidden_size"), head_width(config)
        self.heads = config.size("num_attention_heads")
        self.shared = config.size("num_key_value_heads", self.heads)
        if self.heads % self.shared:
            raise config.fail("num_key_value_heads", self.shared, f"a divisor of the {self.heads} heads")
        kind = config.text("model_type", "llama")
        bias = config.flag("attention_bias", False) if kind != "qwen2" else True
        self.q_proj = nn.Linear(width, self.heads * each, bias)
        self.k_proj = nn.Linear(width, self.shared * each, bias)
        self.v_proj = nn.Linear(width, self.shared * each, bias)
        self.o_proj = nn.Linear(self.heads * each, width, bias and kind != "qwen2")
        eps = config.number("rms_norm_eps", 1e-6)
        self.q_norm = RMSNorm(each, eps) if kind == "qwen3" else None
        self.k_norm = RMSNorm(each, eps) if kind == "qwen3" else None

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        q = split_heads(self.q_proj(x), self.heads)
        k, v = split_heads(self.k_proj(x), self.shared), split_heads(self.v_proj(x), self.shared)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, angles), rotate(k, angles)
        grouped = self.shared != self.heads
        return self.o_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)))


def head_width(config: Config) -> int:
    """The width of a head, if not told the stream's width divided by their number."""
    if config.values.get("head_dim") is not None:
        return config.size("head_dim")
    width = config.size("hidden_size")
    return width // config.heads(width, "num_attention_heads")


class Perceptron(nn.Module):
    """``down(act(gate(x)) up(x))`` (Shazeer, arXiv 2002.05202, eq. 6)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner, bias = (
            config.size("hidden_size"),
            config.size("intermediate_size"),
            config.flag("mlp_bias", False),
        )
        self.gate_proj, self.up_proj = nn.Linear(width, inner, bias), nn.Linear(width, inner, bias)
        self.down_proj = nn.Linear(inner, width, bias)
        self.activation = activation(config, "hidden_act", "silu")

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, eps = config.size("hidden_size"), config.number("rms_norm_eps", 1e-6)
        self.self_attn, self.mlp = Attention(config), Perceptron(config)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(width, eps), RMSNorm(width, eps)

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), angles)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """ids [batch, n] -> hidden [batch, n, width]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.size("hidden_size")
        self.embed_tokens = nn.Embedding(config.size("vocab_size"), width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.size("num_hidden_layers")))
        self.norm = RMSNorm(width, config.number("rms_norm_eps", 1e-6))
        self.rotary = Rotary(rotary_frequencies(config, head_width(config)))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        angles = self.rotary.angles(x)
        for layer in self.layers:
            x = layer(x, angles)
        return self.norm(x)


class LanguageModel(nn.Module):
    """Scores of the next token [batch, n, vocabulary], with the embedding's weights or ``lm_head``."""

    def __init__(self, config: Config, untied: bool) -> None:
        super().__init__()
        self.model = Body(config)
        width, vocabulary = config.size("hidden_size"), config.size("vocab_size")
        self.lm_head = nn.Linear(width, vocabulary, bias=False) if untied else None

    def forward(self, ids: Tensor) -> Tensor:
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return F.linear(self.model(ids), head.weight)


def build(config: Config, names: Collection[str]) -> nn.Module:
    """A language model, unless it was saved as a body."""
    kind = config.architecture
    if kind.endswith("Model"):
        return Body(config)
    if kind and not kind.endswith("ForCausalLM"):
        raise config.fail("architectures", kind, "a ...Model or ...ForCausalLM")
    return LanguageModel(config, "lm_head.weight" in names)


FAMILY = Family(
    build=build,
    base="model.",
    blocks="layers.",
    unused=re.compile(r"rotary_emb\.inv_freq$"),
    tied=(("lm_head.weight", "embed_tokens.weight"),),
)
