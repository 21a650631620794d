"""BERT (Devlin et al., arXiv 1810.04805) under the names of its Hugging Face checkpoints."""

from __future__ import annotations

import re
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.huggingface.config import Config
from converters.huggingface.family import Family
from converters.huggingface.layers import activation, merge_heads, positions, split_heads


class Embeddings(nn.Module):
    """Tokens, positions and segments (all in the first), added and normalised.

    Args:
        config: of the checkpoint.
        first: position of the first token.
    """

    def __init__(self, config: Config, first: int = 0) -> None:
        super().__init__()
        self.first = first
        width = config.size("hidden_size")
        self.word_embeddings = nn.Embedding(config.size("vocab_size"), width)
        self.position_embeddings = nn.Embedding(config.size("max_position_embeddings"), width)
        self.token_type_embeddings = nn.Embedding(config.size("type_vocab_size", 2), width)
        self.LayerNorm = nn.LayerNorm(width, config.number("layer_norm_eps", 1e-12))

    def forward(self, ids: Tensor) -> Tensor:
        segments = self.token_type_embeddings(torch.zeros_like(ids))
        return self.LayerNorm(
            self.word_embeddings(ids) + segments + self.position_embeddings(positions(ids, self.first))
        )


class SelfAttention(nn.Module):
    """``softmax(q k^T / sqrt(d)) v`` per head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.size("hidden_size")
        self.heads = config.heads(width, "num_attention_heads")
        self.causal = config.flag("is_decoder", False)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        return merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal))


class Output(nn.Module):
    """Back to the width of the stream, added to it and normalised."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        hidden = config.size("hidden_size")
        self.dense = nn.Linear(width, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, config.number("layer_norm_eps", 1e-12))

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + stream)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Output(config, config.size("hidden_size"))

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.self(x), x)


class Dense(nn.Module):
    """A dense layer with an activation, under the name ``dense``."""

    def __init__(self, config: Config, width: int, name: str, default: str) -> None:
        super().__init__()
        self.dense = nn.Linear(config.size("hidden_size"), width)
        self.activation = activation(config, name, default)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.size("intermediate_size")
        self.attention = Attention(config)
        self.intermediate = Dense(config, width, "hidden_act", "gelu")
        self.output = Output(config, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.size("num_hidden_layers")))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class Body(nn.Module):
    """ids [batch, n] -> hidden [batch, n, width], and the pooled first token where there is a pooler.

    Args:
        config: of the checkpoint.
        pooler: whether there is one.
        first: position of the first token.
    """

    def __init__(self, config: Config, pooler: bool, first: int = 0) -> None:
        super().__init__()
        if config.text("position_embedding_type", "absolute") != "absolute":
            raise config.fail("position_embedding_type", "another kind", "'absolute'")
        self.embeddings = Embeddings(config, first)
        self.encoder = Encoder(config)
        width = config.size("hidden_size")
        self.pooler = Dense(config, width, "pooler_act", "tanh") if pooler else None

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        x = self.encoder(self.embeddings(ids))
        return (x,) if self.pooler is None else (x, self.pooler(x[:, 0]))


class Transform(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.size("hidden_size")
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, config.number("layer_norm_eps", 1e-12))
        self.activation = activation(config, "hidden_act", "gelu")

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class Decoder(nn.Module):
    """What the head holds of its own, rather than share it with the embedding and with ``predictions.bias``."""

    def __init__(self, config: Config, weight: bool, bias: bool) -> None:
        super().__init__()
        vocabulary = config.size("vocab_size")
        self.weight = nn.Parameter(torch.empty(vocabulary, config.size("hidden_size"))) if weight else None
        self.bias = nn.Parameter(torch.empty(vocabulary)) if bias else None


class Predictions(nn.Module):
    """Scores of all tokens."""

    def __init__(self, config: Config, weight: bool, bias: bool) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.decoder = Decoder(config, weight, bias)
        self.bias = None if bias else nn.Parameter(torch.empty(config.size("vocab_size")))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        weight = embedding if self.decoder.weight is None else self.decoder.weight
        return F.linear(self.transform(x), weight, self.decoder.bias if self.bias is None else self.bias)


class LanguageModel(nn.Module):
    """Scores of masked tokens [batch, n, vocabulary]."""

    def __init__(self, config: Config, weight: bool, bias: bool) -> None:
        super().__init__()
        self.bert = Body(config, pooler=False)
        self.cls = nn.ModuleDict({"predictions": Predictions(config, weight, bias)})

    def forward(self, ids: Tensor) -> Tensor:
        return self.cls["predictions"](self.bert(ids)[0], self.bert.embeddings.word_embeddings.weight)


class Classifier(nn.Module):
    """A linear layer on every token, or on the pooled first one.

    Args:
        config: of the checkpoint.
        head: its name.
        labels: its outputs.
        pooled: on the pooled token.
    """

    def __init__(self, config: Config, head: str, labels: int, pooled: bool) -> None:
        super().__init__()
        self.bert = Body(config, pooled)
        self.add_module(head, nn.Linear(config.size("hidden_size"), labels))
        self.head, self.pooled = head, pooled

    def forward(self, ids: Tensor) -> Tensor:
        return self.get_submodule(self.head)(self.bert(ids)[-1 if self.pooled else 0])


def labels(config: Config) -> int:
    """The number of classes, two by custom."""
    named = config.part("id2label").values
    return len(named) or config.size("num_labels", 2)


def build(config: Config, names: Collection[str]) -> nn.Module:
    """The model that was saved, as far as its head is in the files."""
    kind = config.architecture
    if FAMILY.has(names, "cls.predictions") and not kind.endswith(("Model", "Classification", "Answering")):
        own = (f"cls.predictions.decoder.{part}" in names for part in ("weight", "bias"))
        return LanguageModel(config, *own)
    if FAMILY.has(names, "classifier."):
        return Classifier(config, "classifier", labels(config), pooled="Token" not in kind)
    if FAMILY.has(names, "qa_outputs."):
        return Classifier(config, "qa_outputs", 2, pooled=False)
    return Body(config, FAMILY.has(names, "pooler."))


FAMILY = Family(
    build=build,
    base="bert.",
    blocks="encoder.",
    unused=re.compile(r"position_ids$"),
    tied=(("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"),
          ("cls.predictions.decoder.bias", "cls.predictions.bias")),
)  # fmt: skip
