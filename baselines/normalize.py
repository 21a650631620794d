"""Normalisation of weight-space features that leaves neurons exchangeable."""

from __future__ import annotations

from torch import nn

from baselines.standardize import Standardize
from baselines.weight_space import ChainForm, WeightSpace


class NormalizeTensors(nn.Module):
    """Standardise every kernel entry of every layer by its running mean and deviation over networks and neurons.

    Args:
        form: sizes of the networks.
    """

    def __init__(self, form: ChainForm) -> None:
        super().__init__()
        self.weights = nn.ModuleList(Standardize(t) for t in form.tap_counts)
        self.biases = nn.ModuleList(Standardize(1) for _ in form.tap_counts)

    def forward(self, space: WeightSpace) -> WeightSpace:
        weights = tuple(f(w) for f, w in zip(self.weights, space.weights, strict=True))
        return WeightSpace(weights, tuple(f(b) for f, b in zip(self.biases, space.biases, strict=True)))
