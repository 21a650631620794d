"""What several families share: activations, heads, rotary positions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.huggingface.config import Config

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def activation(config: Config, name: str, default: str) -> Callable[[Tensor], Tensor]:
    """The function that a configuration names."""
    word = config.text(name, default)
    if word not in ACTIVATIONS:
        raise config.fail(name, word, f"one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[word]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, n, heads d] -> [batch, heads, n, d]."""
    batch, n, width = x.shape
    return x.view(batch, n, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[batch, heads, n, d] -> [batch, n, heads d]."""
    batch, heads, n, width = x.shape
    return x.transpose(1, 2).reshape(batch, n, heads * width)


def positions(ids: Tensor, first: int = 0) -> Tensor:
    """first, first + 1, first + 2, ... along the sequence."""
    return torch.arange(first, first + ids.shape[1], device=ids.device)


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) weight`` over the last axis (Zhang and Sennrich, arXiv 1910.07467, eq. 4)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Rotary(nn.Module):
    """Turn pairs of query and key entries by angles that grow with the position (Su et al., arXiv 2104.09864).

    Entry i of the first half is paired with entry i of the second: (a, b) -> (a cos - b sin, b cos + a sin).

    Args:
        frequencies: one per pair.
    """

    frequencies: Tensor

    def __init__(self, frequencies: list[float]) -> None:
        super().__init__()
        made = torch.tensor(frequencies, dtype=torch.float32, device="cpu")
        self.register_buffer("frequencies", made, persistent=False)

    def angles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [n, d] for x of shape [batch, n, width]."""
        n = torch.arange(x.shape[1], dtype=self.frequencies.dtype, device=x.device)
        half = n[:, None] * self.frequencies
        both = torch.cat((half, half), -1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Apply :class:`Rotary` to heads [batch, heads, n, d]."""
    cos, sin = angles
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def rotary_frequencies(config: Config, width: int) -> list[float]:
    """``theta^(-2 i / d)``, stretched as the configuration says (kinds default, linear, dynamic, llama3).

    Dynamic stretching only starts behind the trained length.
    """
    new, old = config.part("rope_parameters"), config.part("rope_scaling")
    scaling = new if new.values else old
    theta = scaling.number("rope_theta", config.number("rope_theta", 10000.0))
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if kind not in ("default", "linear", "dynamic", "llama3"):
        raise scaling.fail("rope_type", kind, "default, linear, dynamic or llama3")
    if width % 2 or theta <= 0:
        raise config.fail("rope_theta", theta, f"a positive number, and heads of even width (got {width})")
    if scaling.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0)) != 1:
        raise config.fail("partial_rotary_factor", "another number", "1")
    plain = [theta ** (-2 * i / width) for i in range(width // 2)]
    if kind in ("default", "dynamic"):
        return plain
    factor = scaling.number("factor")
    if factor < 1:
        raise scaling.fail("factor", factor, "a number from 1")
    return [f / factor for f in plain] if kind == "linear" else _llama3(scaling, plain, factor)


def _llama3(scaling: Config, plain: list[float], factor: float) -> list[float]:
    """Long waves are stretched, short ones are not, those between are blended linearly in turns per context."""
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    context = scaling.size("original_max_position_embeddings")
    if not low < high:
        raise scaling.fail("low_freq_factor", low, f"less than high_freq_factor, {high}")
    out = []
    for f in plain:
        turns = context * f / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        out.append(f * (kept + (1 - kept) / factor))
    return out
