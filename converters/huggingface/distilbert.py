"""DistilBERT (Sanh et al., arXiv 1910.01108) under the names of its Hugging Face checkpoints."""

from __future__ import annotations

import re
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.huggingface.bert import labels
from converters.huggingface.config import Config
from converters.huggingface.family import Family
from converters.huggingface.layers import activation, merge_heads, positions, split_heads

_EPS = 1e-12


class Embeddings(nn.Module):
    """Tokens and positions, added and normalised."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.size("dim")
        self.word_embeddings = nn.Embedding(config.size("vocab_size"), width)
        self.position_embeddings = nn.Embedding(config.size("max_position_embeddings", 512), width)
        self.LayerNorm = nn.LayerNorm(width, _EPS)

    def forward(self, ids: Tensor) -> Tensor:
        return self.LayerNorm(self.word_embeddings(ids) + self.position_embeddings(positions(ids)))


class Attention(nn.Module):
    """``softmax(q k^T / sqrt(d)) v`` per head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.size("dim")
        self.heads = config.heads(width, "n_heads")
        self.q_lin, self.k_lin, self.v_lin, self.out_lin = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(part(x), self.heads) for part in (self.q_lin, self.k_lin, self.v_lin))
        return self.out_lin(merge_heads(F.scaled_dot_product_attention(q, k, v)))


class Perceptron(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner = config.size("dim"), config.size("hidden_dim")
        self.lin1, self.lin2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation = activation(config, "activation", "gelu")

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.activation(self.lin1(x)))


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.size("dim")
        self.attention, self.ffn = Attention(config), Perceptron(config)
        self.sa_layer_norm, self.output_layer_norm = nn.LayerNorm(width, _EPS), nn.LayerNorm(width, _EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.sa_layer_norm(self.attention(x) + x)
        return self.output_layer_norm(self.ffn(x) + x)


class Stack(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.size("n_layers")))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class Body(nn.Module):
    """ids [batch, n] -> hidden [batch, n, width]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embeddings, self.transformer = Embeddings(config), Stack(config)

    def forward(self, ids: Tensor) -> Tensor:
        return self.transformer(self.embeddings(ids))


class Projector(nn.Module):
    """The bias of all tokens, and a weight where it is not the embedding's."""

    def __init__(self, config: Config, untied: bool) -> None:
        super().__init__()
        vocabulary = config.size("vocab_size")
        self.weight = nn.Parameter(torch.empty(vocabulary, config.size("dim"))) if untied else None
        self.bias = nn.Parameter(torch.empty(vocabulary))


class LanguageModel(nn.Module):
    """Scores of masked tokens [batch, n, vocabulary]."""

    def __init__(self, config: Config, untied: bool) -> None:
        super().__init__()
        width = config.size("dim")
        self.distilbert = Body(config)
        self.vocab_transform, self.vocab_layer_norm = nn.Linear(width, width), nn.LayerNorm(width, _EPS)
        self.vocab_projector = Projector(config, untied)
        self.activation = activation(config, "activation", "gelu")

    def forward(self, ids: Tensor) -> Tensor:
        x = self.vocab_layer_norm(self.activation(self.vocab_transform(self.distilbert(ids))))
        own = self.vocab_projector.weight
        weight = self.distilbert.embeddings.word_embeddings.weight if own is None else own
        return F.linear(x, weight, self.vocab_projector.bias)


class Sequences(nn.Module):
    """Scores of classes from the first token."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.size("dim")
        self.distilbert = Body(config)
        self.pre_classifier, self.classifier = nn.Linear(width, width), nn.Linear(width, labels(config))

    def forward(self, ids: Tensor) -> Tensor:
        return self.classifier(F.relu(self.pre_classifier(self.distilbert(ids)[:, 0])))


class Tokens(nn.Module):
    """A linear layer on every token.

    Args:
        config: of the checkpoint.
        head: its name.
        out: its outputs.
    """

    def __init__(self, config: Config, head: str, out: int) -> None:
        super().__init__()
        self.distilbert = Body(config)
        self.add_module(head, nn.Linear(config.size("dim"), out))
        self.head = head

    def forward(self, ids: Tensor) -> Tensor:
        return self.get_submodule(self.head)(self.distilbert(ids))


def build(config: Config, names: Collection[str]) -> nn.Module:
    """The model that was saved, as far as its head is in the files."""
    if FAMILY.has(names, "pre_classifier."):
        return Sequences(config)
    if FAMILY.has(names, "classifier."):
        return Tokens(config, "classifier", labels(config))
    if FAMILY.has(names, "qa_outputs."):
        return Tokens(config, "qa_outputs", 2)
    if FAMILY.has(names, "vocab_transform.") and not config.architecture.endswith("Model"):
        return LanguageModel(config, "vocab_projector.weight" in names)
    return Body(config)


FAMILY = Family(
    build=build,
    base="distilbert.",
    blocks="transformer.",
    unused=re.compile(r"position_ids$"),
    tied=(("vocab_projector.weight", "embeddings.word_embeddings.weight"),),
)
