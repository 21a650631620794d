"""Features on neurons and weights (Kofinas et al. 2024, arXiv 2403.12143)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.errors import BaselineError
from baselines.standardize import Standardize
from baselines.weight_space import ChainForm, WeightSpace
from graphnfn.spec import NetSpec


def common_grid(forms: Sequence[ChainForm]) -> tuple[int, ...]:
    """The smallest grid of taps that holds every kernel; empty for networks of dense layers.

    Raises:
        BaselineError: a flattened map stands before a dense layer, or kernels differ in rank.
    """
    taps = [t for form in forms for t in form.taps if t]
    if len({len(t) for t in taps}) > 1 or any(len(t) == 1 for form in forms for t in form.taps):
        raise BaselineError(
            "expected dense layers and convolutions of one rank >= 2 with a global pooling before the dense layers; "
            f"got taps {taps}: use gmn_lim or graphnfn.GraphMetaNet for flattened maps"
        )
    return tuple(max(axis) for axis in zip(*taps, strict=True))


def centred(weights: Tensor, grid: tuple[int, ...]) -> Tensor:
    """``[B, 1, o, i, *taps] -> [B, o, i, prod(grid)]``: kernels in the middle of the grid, dense weights at its centre.

    Example:
        >>> centred(torch.ones(1, 1, 1, 1), (3, 3)).flatten().tolist()
        [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    weights = weights[:, 0]
    taps = tuple(weights.shape[3:]) or (1,) * len(grid)
    weights = weights.reshape(*weights.shape[:3], *taps)
    pads = [((big - small) // 2, big - small - (big - small) // 2) for big, small in zip(grid, taps, strict=True)]
    weights = F.pad(weights, [side for pair in reversed(pads) for side in pair])
    return weights.reshape(*weights.shape[:3], math.prod(grid))


class Encoding(nn.Module):
    """``A [cos 2 pi B v, sin 2 pi B v] + a`` with fixed Gaussian B; ``A v + a`` where ``frequencies`` is 0.

    Shape: ``[..., size] -> [..., width]``.
    """

    waves: Tensor | None

    def __init__(self, size: int, width: int, frequencies: int, sigma: float) -> None:
        super().__init__()
        self.register_buffer("waves", sigma * torch.randn(frequencies, size) if frequencies else None)
        self.linear = nn.Linear(2 * frequencies or size, width)

    def forward(self, values: Tensor) -> Tensor:
        if self.waves is not None:
            phase = 2 * math.pi * F.linear(values, self.waves)
            values = torch.cat([phase.cos(), phase.sin()], -1)
        return self.linear(values)


class Probes(nn.Module):
    """What every neuron answers to learned inputs, ``LN(A z_l + a)`` with z_l of shape ``[B, n_l, inputs]``."""

    def __init__(self, form: ChainForm, width: int, inputs: int) -> None:
        super().__init__()
        if any(form.taps):
            raise BaselineError(f"probe features need dense layers; got {form}: build the model with probes=0")
        self.inputs = nn.Parameter(2 * torch.rand(form.widths[0], inputs) - 1)
        self.project = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width)) for _ in range(form.depth + 1)
        )

    def forward(self, space: WeightSpace, spec: NetSpec) -> Tensor:
        values = self.inputs.expand(len(space.biases[0]), -1, -1)
        answers = [values]
        for group, w, b in zip(spec.groups[1:], space.weights, space.biases, strict=True):
            values = torch.baddbmm(b[:, 0, :, None], w[:, 0], values)
            values = group.activations[0](values) if group.uniform else _mixed(spec, group.id, values)
            answers.append(values)
        return torch.cat([f(a) for f, a in zip(self.project, answers, strict=True)], 1)


def _mixed(spec: NetSpec, group: str, values: Tensor) -> Tensor:
    pairs = spec.groups[spec.position[group]].per_neuron()
    return torch.stack([act(values[:, i]) for i, (act, _) in enumerate(pairs)], 1)


@dataclass(frozen=True)
class Inputs:
    """How numbers become features.

    Args:
        frequencies: Fourier features per number, 0 for none.
        sigma: deviation of their frequencies.
        reverse: whether there are edges that lead back.
        dense_apart: encode dense weights by their own map, not as kernels with one entry at the centre.
        normalize: standardise the weights, and the biases, of each layer by one mean and one deviation.
        probes: learned inputs, on which the neurons' answers are features; 0 for none.
    """

    frequencies: int = 128
    sigma: float = 3.0
    reverse: bool = False
    dense_apart: bool = False
    normalize: bool = True
    probes: int = 0


class GraphFeatures(nn.Module):
    """Features of nodes (bias, probes, position) and of edges (kernel entries).

    A position is an input, a hidden layer, or an output. With ``reverse`` an edge carries ``(w, 0, w)`` and the edge
    that leads back ``(0, w, w)``.

    Args:
        forms: of the networks that are read; equal inputs and outputs.
        node_width: channels of nodes.
        edge_width: channels of edges.
        inputs: how numbers become features.

    Raises:
        BaselineError: flattened maps, or probes of convolutions.
    """

    def __init__(
        self,
        forms: Sequence[ChainForm],
        *,
        node_width: int,
        edge_width: int,
        inputs: Inputs,
    ) -> None:
        super().__init__()
        self.grid, self.reverse = common_grid(forms), inputs.reverse
        self.ends = forms[0].widths[0], forms[0].widths[-1]
        if any((f.widths[0], f.widths[-1]) != self.ends for f in forms):
            raise BaselineError(f"expected networks with equal inputs and outputs; got {forms}: one model for each")
        if inputs.probes and len({f.depth for f in forms}) > 1:
            raise BaselineError("probe features need networks of one depth: build the model with probes=0")
        depth, sets = max(f.depth for f in forms), 3 if inputs.reverse else 1
        waves = inputs.frequencies, inputs.sigma
        self.node = Encoding(1, node_width, *waves)
        self.edge = Encoding(sets * math.prod(self.grid), edge_width, *waves)
        self.dense = Encoding(sets, edge_width, *waves) if inputs.dense_apart else None
        self.mix_nodes, self.mix_edges = nn.Linear(node_width, node_width), nn.Linear(edge_width, edge_width)
        self.positions = nn.Parameter(torch.randn(sum(self.ends) + depth - 1, node_width))
        self.weight_scales = nn.ModuleList(Standardize(1) for _ in range(depth if inputs.normalize else 0))
        self.bias_scales = nn.ModuleList(Standardize(1) for _ in range(depth if inputs.normalize else 0))
        self.probes = Probes(forms[0], node_width, inputs.probes) if inputs.probes else None

    def forward(self, space: WeightSpace, spec: NetSpec) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Neurons ``[B, neurons, node_width]``, inputs first; edges per layer ``[B, n_out, n_in, edge_width]``, and the
        same for edges that lead back, where there are any."""
        weights, biases = list(space.weights), [b[:, 0, :, None] for b in space.biases]
        if self.weight_scales:
            weights = [f(w[..., None])[..., 0] for f, w in zip(self.weight_scales, weights, strict=False)]
            biases = [f(b) for f, b in zip(self.bias_scales, biases, strict=False)]
        none = biases[0].new_zeros(len(biases[0]), self.ends[0], 1)
        nodes = self.node(torch.cat([none, *biases], 1))
        if self.probes is not None:
            nodes = nodes + self.probes(space, spec)
        nodes = self.mix_nodes(nodes) + self._position([b.shape[1] for b in biases[:-1]])
        forth = [self._edge(w, back=False) for w in weights]
        return nodes, forth, [self._edge(w, back=True) for w in weights] if self.reverse else []

    def _edge(self, weights: Tensor, *, back: bool) -> Tensor:
        encode = self.edge if self.dense is None or weights.ndim > 4 else self.dense
        values = weights.movedim(1, -1) if encode is self.dense else centred(weights, self.grid)
        if self.reverse:
            none = torch.zeros_like(values)
            values = torch.cat([none, values, values] if back else [values, none, values], -1)
        return self.mix_edges(encode(values))

    def absent(self) -> Tensor:
        """Features of two neurons without an edge, ``[edge_width]``: those of a weight of zeros."""
        size = (3 if self.reverse else 1) * math.prod(self.grid)
        return self.mix_edges(self.edge(self.positions.new_zeros(size)))

    def _position(self, hidden: list[int]) -> Tensor:
        inputs, outputs = self.ends
        rows = [self.positions[:inputs]]
        rows += [self.positions[inputs + i].expand(n, -1) for i, n in enumerate(hidden)]
        return torch.cat([*rows, self.positions[-outputs:]])
