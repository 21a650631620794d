"""Attention between sequences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.keras.config import Config
from converters.keras.layer import Layer, Slot, layer
from graphnfn.errors import ConversionError


@layer("MultiHeadAttention")
class MultiHeadAttention(Layer):
    """softmax(Q K^T / sqrt(key_dim)) V per head; kernels [in, heads, size], the output's [heads, size, out]."""

    output_kernel: Tensor

    uses_mask = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("attention_axes", None, [1], 1)
        config.refuse("output_shape", None)
        self.heads, self.key_dim = config.size("num_heads"), config.size("key_dim")
        biased = config.flag("use_bias", True)
        for part in ("query", "key", "value", "output"):
            inner = f"{part}_dense"
            self.slots += [Slot(f"{part}_kernel", inner)] + ([Slot(f"{part}_bias", inner)] if biased else [])

    def _heads(self, x: Tensor, part: str) -> Tensor:
        """[batch, time, in] -> [batch, heads, time, size]."""
        kernel, bias = self.get(f"{part}_kernel"), self.get(f"{part}_bias")
        assert kernel is not None
        flat = F.linear(x, kernel.flatten(1).t(), None if bias is None else bias.flatten())
        return flat.unflatten(-1, kernel.shape[1:]).transpose(1, 2)

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        *,
        causal: bool = False,
        mask: Tensor | None = None,
    ) -> Tensor:
        if mask is not None:
            raise ConversionError(f"layer {self.config.name!r}: attention behind a mask is not supported")
        q, v = self._heads(query, "query"), self._heads(value, "value")
        k = self._heads(value if key is None else key, "key")
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=self.key_dim**-0.5)
        kernel = self.output_kernel.flatten(0, 1)
        return F.linear(mixed.transpose(1, 2).flatten(2), kernel.t(), self.get("output_bias"))


@layer("Attention")
class Attention(Layer):
    """softmax(scale Q K^T) V without kernels; ``scale`` is a trained number where the layer has one."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("score_mode", "dot")
        self.slots = [Slot("scale")] if config.flag("use_scale", False) else []

    def forward(self, query: Tensor, value: Tensor, key: Tensor | None = None, *, causal: bool = False) -> Tensor:
        scale = self.get("scale")
        scores = torch.matmul(query, (value if key is None else key).transpose(1, 2))
        scores = scores if scale is None else scores * scale
        if causal:
            later = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        return torch.matmul(torch.softmax(scores, -1), value)
