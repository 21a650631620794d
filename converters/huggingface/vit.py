"""Vision transformers (Dosovitskiy et al., arXiv 2010.11929) under the names of their Hugging Face checkpoints."""

from __future__ import annotations

import re
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.huggingface.bert import Dense, labels
from converters.huggingface.config import Config
from converters.huggingface.family import Family
from converters.huggingface.layers import merge_heads, split_heads


class Patches(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        patch = config.size("patch_size", 16)
        self.projection = nn.Conv2d(config.size("num_channels", 3), config.size("hidden_size"), patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(images).flatten(2).transpose(1, 2)


class Embeddings(nn.Module):
    """Patches behind the class token, with learned positions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, side, patch = config.size("hidden_size"), config.size("image_size", 224), config.size("patch_size", 16)
        if side % patch:
            raise config.fail("patch_size", patch, f"a divisor of the image's side {side}")
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.empty(1, (side // patch) ** 2 + 1, width))
        self.patch_embeddings = Patches(config)

    def forward(self, images: Tensor) -> Tensor:
        first = self.cls_token.expand(images.shape[0], -1, -1)
        return torch.cat((first, self.patch_embeddings(images)), 1) + self.position_embeddings


class SelfAttention(nn.Module):
    """``softmax(q k^T / sqrt(d)) v`` per head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, bias = config.size("hidden_size"), config.flag("qkv_bias", True)
        self.heads = config.heads(width, "num_attention_heads")
        self.query, self.key, self.value = (nn.Linear(width, width, bias) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        return merge_heads(F.scaled_dot_product_attention(q, k, v))


class Output(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.size("hidden_size")
        self.attention, self.output = SelfAttention(config), Output(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.attention(x))


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner = config.size("hidden_size"), config.size("intermediate_size")
        eps = config.number("layer_norm_eps", 1e-12)
        self.attention = Attention(config)
        self.intermediate = Dense(config, inner, "hidden_act", "gelu")
        self.output = Output(inner, width)
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.layernorm_before(x))
        return x + self.output(self.intermediate(self.layernorm_after(x)))


class Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.size("num_hidden_layers")))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class Body(nn.Module):
    """images [batch, channels, side, side] -> tokens [batch, 1 + patches, width], and the first pooled.

    Args:
        config: of the checkpoint.
        pooler: whether there is one.
    """

    def __init__(self, config: Config, pooler: bool) -> None:
        super().__init__()
        width = config.size("hidden_size")
        self.embeddings, self.encoder = Embeddings(config), Encoder(config)
        self.layernorm = nn.LayerNorm(width, config.number("layer_norm_eps", 1e-12))
        out = config.size("pooler_output_size", width)
        self.pooler = Dense(config, out, "pooler_act", "tanh") if pooler else None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.layernorm(self.encoder(self.embeddings(images)))
        return (x,) if self.pooler is None else (x, self.pooler(x[:, 0]))


class Classifier(nn.Module):
    """Scores of classes from the class token."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.vit = Body(config, pooler=False)
        self.classifier = nn.Linear(config.size("hidden_size"), labels(config))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.vit(images)[0][:, 0])


def build(config: Config, names: Collection[str]) -> nn.Module:
    """A classifier where the files have one, else the body."""
    if FAMILY.has(names, "classifier."):
        return Classifier(config)
    return Body(config, FAMILY.has(names, "pooler."))


FAMILY = Family(build=build, base="vit.", blocks="encoder.", unused=re.compile(r"mask_token$"), images=True)
