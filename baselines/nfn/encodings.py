"""What the NFN paper's models put around their NF-layers: encodings of values and
places, normalisation, and factors on edits.

Zhou et al., "Permutation Equivariant Neural Functionals" (2023), arXiv 2302.14040. Features have their channels last,
see :mod:`baselines.nfn.layers`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.errors import BaselineError
from baselines.weight_space import ChainForm, WeightSpace


class FourierFeatures(nn.Module):
    """``x -> (sin(2 pi x B), cos(2 pi x B))`` of one channel, with frequencies B drawn once from ``N(0, scale^2)``.

    Args:
        size: frequencies; twice as many channels come out.
        scale: their standard deviation.
    """

    frequencies: Tensor

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(size))

    def forward(self, space: WeightSpace) -> WeightSpace:
        return space.map(self._encode)

    def _encode(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * (x[..., None, :] * self.frequencies[:, None])
        return torch.cat([angle.sin(), angle.cos()], -2).flatten(-2)


class PositionEncoding(nn.Module):
    """Sines and cosines of the places of inputs, outputs and layers as further channels.

    A place p in [-1, 1] becomes ``(sin(pi s p), cos(pi s p), p)`` with ``bands`` factors s from 1 to max_freq / 2.

    Args:
        form: sizes of the networks.
        bands: factors; ``2 bands + 1`` channels are added.
        max_freq: twice the largest factor.
        layers: whether the numbers of layers are encoded as well.
    """

    def __init__(self, form: ChainForm, bands: int, max_freq: float, *, layers: bool) -> None:
        super().__init__()
        self.form, self.bands, self.max_freq, self.layers = form, bands, max_freq, layers

    def forward(self, space: WeightSpace) -> WeightSpace:
        like, last = space.biases[0], self.form.depth - 1
        layers = self._waves(self.form.depth, like) * float(self.layers)
        inputs, outputs = self._waves(self.form.widths[0], like), self._waves(self.form.widths[-1], like)
        weights, biases = [], []
        for i, (w, b, taps) in enumerate(zip(space.weights, space.biases, self.form.tap_counts, strict=True)):
            code = layers[i] + (inputs if i == 0 else 0) + (outputs[:, None] if i == last else 0)
            code = code.repeat_interleave(taps, -1)
            weights.append(torch.cat([w, code.expand(*w.shape[:3], -1)], 3))
            code = layers[i] + (outputs if i == last else 0)
            biases.append(torch.cat([b, code.expand(*b.shape[:2], -1)], 2))
        return WeightSpace(tuple(weights), tuple(biases))

    def _waves(self, count: int, like: Tensor) -> Tensor:
        place = torch.linspace(-1, 1, count, dtype=like.dtype, device=like.device)[:, None]
        factors = torch.linspace(1, self.max_freq / 2, self.bands, dtype=like.dtype, device=like.device)
        angle = math.pi * place * factors
        return torch.cat([angle.sin(), angle.cos(), place], 1)


class NormalizeEntries(nn.Module):
    """The published normalisation: a mean and a deviation per entry, so that neurons stop being exchangeable.

    The statistics are set once, from the networks of the training set, by :meth:`fit` or with official weights.

    Args:
        form: sizes of the networks, hidden widths included.
    """

    def __init__(self, form: ChainForm) -> None:
        super().__init__()
        for i, taps in enumerate(form.tap_counts):
            for name, start in (("mean", torch.zeros), ("std", torch.ones)):
                self.register_buffer(f"weight_{name}_{i}", start(form.widths[i + 1], form.widths[i], taps))
                self.register_buffer(f"bias_{name}_{i}", start(form.widths[i + 1], 1))

    def fit(self, space: WeightSpace, smallest: float = 1e-5) -> None:
        """Take the statistics of these networks; deviations below ``smallest`` become 1."""
        for kind, tensors in (("weight", space.weights), ("bias", space.biases)):
            for i, values in enumerate(tensors):
                std = values.std(0)
                self.get_buffer(f"{kind}_mean_{i}").copy_(values.mean(0))
                self.get_buffer(f"{kind}_std_{i}").copy_(torch.where(std < smallest, 1.0, std))

    def forward(self, space: WeightSpace) -> WeightSpace:
        got = [tuple(b.shape[1:]) for b in space.biases]
        want = [tuple(b.shape) for name, b in self.named_buffers() if name.startswith("bias_mean")]
        if got != want:
            raise BaselineError(
                f"statistics per entry are those of biases {want}; got {got}: give networks of one form"
            )

        def scaled(kind: str, i: int, values: Tensor) -> Tensor:
            return (values - self.get_buffer(f"{kind}_mean_{i}")) / self.get_buffer(f"{kind}_std_{i}")

        weights = tuple(scaled("weight", i, w) for i, w in enumerate(space.weights))
        return WeightSpace(weights, tuple(scaled("bias", i, b) for i, b in enumerate(space.biases)))


class TensorScale(nn.Module):
    """One learned factor per weight tensor and per bias, so that edits start small.

    Args:
        layers: how many.
        start: the first value of all factors.
    """

    def __init__(self, layers: int, start: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((layers,), start))
        self.biases = nn.Parameter(torch.full((layers,), start))

    def forward(self, space: WeightSpace) -> WeightSpace:
        weights = tuple(w * s for w, s in zip(space.weights, self.weights, strict=True))
        return WeightSpace(weights, tuple(b * s for b, s in zip(space.biases, self.biases, strict=True)))


@dataclass(frozen=True)
class Encoding:
    """What the first NF-layer reads beside or in place of raw weights; 0 leaves an encoding out.

    Args:
        fourier: Gaussian frequencies per weight.
        fourier_scale: their standard deviation.
        bands: frequencies of the encoding of input and output neurons.
        max_freq: twice the largest of them.
        layers: encode the numbers of layers too.
    """

    fourier: int = 0
    fourier_scale: float = 10.0
    bands: int = 0
    max_freq: float = 10.0
    layers: bool = False

    @property
    def channels(self) -> int:
        """Channels behind the encodings."""
        return (2 * self.fourier or 1) + (2 * self.bands + 1 if self.bands else 0)

    def build(self, form: ChainForm) -> nn.Sequential:
        """The encodings as modules."""
        out: list[nn.Module] = []
        if self.fourier:
            out.append(FourierFeatures(self.fourier, self.fourier_scale))
        if self.bands:
            out.append(PositionEncoding(form, self.bands, self.max_freq, layers=self.layers))
        return nn.Sequential(*out)
