"""RoBERTa (Liu et al., arXiv 1907.11692), XLM-RoBERTa and CamemBERT: BERT with other heads and shifted positions."""

from __future__ import annotations

import re
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.huggingface.bert import Body, labels
from converters.huggingface.config import Config
from converters.huggingface.family import TOKENS, Family


def body(config: Config, pooler: bool = False) -> Body:
    """BERT's body; positions count on from the padding token's number, as no token of an example is padding."""
    first = config.size("pad_token_id", 1) + 1
    if first + TOKENS > config.size("max_position_embeddings"):
        raise config.fail(
            "max_position_embeddings", config.size("max_position_embeddings"), f"{first + TOKENS} or more"
        )
    return Body(config, pooler, first)


class Head(nn.Module):
    """Scores of all tokens; the last map is the embedding's, unless ``decoder`` is stored."""

    def __init__(self, config: Config, untied: bool) -> None:
        super().__init__()
        width, vocabulary = config.size("hidden_size"), config.size("vocab_size")
        self.dense = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width, config.number("layer_norm_eps", 1e-12))
        self.decoder = nn.Linear(width, vocabulary, bias=False) if untied else None
        self.bias = nn.Parameter(torch.empty(vocabulary))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        weight = embedding if self.decoder is None else self.decoder.weight
        return F.linear(self.layer_norm(F.gelu(self.dense(x))), weight, self.bias)


class LanguageModel(nn.Module):
    """Scores of masked tokens [batch, n, vocabulary]."""

    def __init__(self, config: Config, untied: bool) -> None:
        super().__init__()
        self.roberta = body(config)
        self.lm_head = Head(config, untied)

    def forward(self, ids: Tensor) -> Tensor:
        return self.lm_head(self.roberta(ids)[0], self.roberta.embeddings.word_embeddings.weight)


class SequenceHead(nn.Module):
    """Two layers on the first token."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.size("hidden_size")
        self.dense, self.out_proj = nn.Linear(width, width), nn.Linear(width, labels(config))

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(torch.tanh(self.dense(x[:, 0])))


class Classifier(nn.Module):
    """A head on what the body gives.

    Args:
        config: of the checkpoint.
        name: of the head.
        head: takes hidden [batch, n, width].
    """

    def __init__(self, config: Config, name: str, head: nn.Module) -> None:
        super().__init__()
        self.roberta = body(config)
        self.add_module(name, head)
        self.name = name

    def forward(self, ids: Tensor) -> Tensor:
        return self.get_submodule(self.name)(self.roberta(ids)[0])


def build(config: Config, names: Collection[str]) -> nn.Module:
    """The model that was saved, as far as its head is in the files."""
    width = config.size("hidden_size")
    if FAMILY.has(names, "lm_head.") and not config.architecture.endswith(("Model", "Classification", "Answering")):
        return LanguageModel(config, "lm_head.decoder.weight" in names)
    if FAMILY.has(names, "classifier.out_proj."):
        return Classifier(config, "classifier", SequenceHead(config))
    if FAMILY.has(names, "classifier."):
        return Classifier(config, "classifier", nn.Linear(width, labels(config)))
    if FAMILY.has(names, "qa_outputs."):
        return Classifier(config, "qa_outputs", nn.Linear(width, 2))
    return body(config, FAMILY.has(names, "pooler."))


FAMILY = Family(
    build=build,
    base="roberta.",
    blocks="encoder.",
    unused=re.compile(r"position_ids$"),
    tied=(("lm_head.decoder.weight", "embeddings.word_embeddings.weight"), ("lm_head.decoder.bias", "lm_head.bias")),
)
