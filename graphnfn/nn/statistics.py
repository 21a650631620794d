"""How a network's weights are spread, layer by layer, which a sweep learns to see from many networks only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphnfn.nn.facts import group_facts
from graphnfn.nn.parity import even_biases
from graphnfn.nn.quantiles import QUANTILES, quantiles
from graphnfn.nn.taps import Sizes, coordinates, waves
from graphnfn.prepared import Prepared
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.symmetry.balanced import balanced_form, relative_widths

MOMENTS = 2 + len(QUANTILES)
"""Mean, deviation and quantiles of one set of numbers."""
SETS = ("sizes", "signed weights", "incoming norms", "outgoing norms", "biases", "singular values")
"""Sets of numbers that a layer has."""
SMALL = 256
"""Numbers of a set up to which sets are read together."""
LARGEST_SIDE = 1024
"""Neurons up to which the singular values of a layer are computed, whose cost grows as their cube."""
SMALLEST = 1e-6
"""Below it singular values are not told apart, nor is their gradient at 0 that of a root."""
LARGEST = 5.0
"""Deviations beyond which a statistic is cut off, for networks unlike any in training."""


class WeightStatistics(nn.Module):
    """A linear map of statistics of balanced weights, what StatNN reads in a form that is invariant.

    Coordinate networks with sin or cos, such as SIRENs, get 0: their weights are frequencies and phases, and of their
    pictures spread tells little. Of other coordinate networks, such as distance fields with ReLU, it tells much.

    Of every layer: mean, deviation and quantiles of ``|w_ij[t]|``, of ``w_ij[t]`` where no sign at either end is free
    (else 0), of the norms of rows ``(sum_jt w_ij[t]^2)^(1/2)`` and columns, of what of the biases is even, and of the
    singular values of the matrix ``w_i,jt`` (of layers with up to :data:`LARGEST_SIDE` on its shorter side).  They
    forget the order of neurons, balanced weights have no scales left and sizes no signs, so predictions are invariant.
    Layers have a place by their distance from the inputs and one by that from the outputs.

    With a reference width, rho being the relative width of a hidden group and 1 at the ends, they are those of
    ``rho_src^(1/2) w``, balanced so that their mean squares do not depend on the width (see
    :func:`~graphnfn.symmetry.balanced.balanced_form`), and the norms are ``rho_src^(-1/2)`` (of rows) and
    ``rho_dst^(-1/2)`` (of columns) times those of these weights; singular values are theirs over the larger of
    ``rho_src^(1/2)`` and ``rho_dst^(1/2)``, as those of a matrix of independent numbers grow.

    Statistics enter in deviations of those of training networks, which :meth:`fit` takes; until then as they are.

    Args:
        out: numbers per network.
        sizes: of the model; ``sizes.depth`` layers have places of their own, deeper ones share the last. Where
            ``sizes.spread`` is false, as in models saved before there was such, no coordinate network is read.
        reference: neurons per hidden group for which statistics are given; None takes weights as they are.

    Shape: list of (canonical) stacks to ``[networks, out]``.

    Source: the statistics of Unterthiner et al., "Predicting Neural Network Accuracy from Weights" (2020, arXiv
    2002.11448), of weights in the form of :func:`~graphnfn.symmetry.balanced.balanced_form`. That spectra of weights
    tell how well a network does is from Martin, Peng, Mahoney, "Predicting trends in the quality of state-of-the-art
    neural networks without access to training or testing data" (2021, arXiv 2002.06716).

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([9, 8, 1], "tanh"), networks=3, dtype=torch.float32)
        >>> WeightStatistics(5, Sizes.of([graph.spec]))(graph.stacks()).shape
        torch.Size([3, 5])
    """

    center: Tensor
    scale: Tensor

    def __init__(self, out: int, sizes: Sizes, reference: int | None = None) -> None:
        super().__init__()
        self.depth, self.reference, self.spread = sizes.depth, reference, sizes.spread
        features = 2 * self.depth * len(SETS) * MOMENTS
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.predict = nn.Linear(features, out)

    def forward(self, canonical: Sequence[Stack]) -> Tensor:
        return torch.cat([self._read(stack) for stack in canonical])

    def _read(self, stack: Stack) -> Tensor:
        if not self.reads(stack.spec):
            return stack.nodes.new_zeros(stack.size, self.predict.out_features)
        rows = (self.seen(stack) - self.center) * self.scale
        return self.predict(rows.clamp(-LARGEST, LARGEST))

    def reads(self, spec: NetSpec) -> bool:
        """Whether a network's weights are read: of coordinate networks, those that ``sizes.spread`` is about."""
        return not coordinates(spec) or (self.spread and not waves(spec))

    def fit(self, canonical: Sequence[Stack]) -> None:
        """Take mean and deviation of each statistic over some networks; statistics that do not vary are left out."""
        found = [self.seen(stack).detach() for stack in canonical if self.reads(stack.spec)]
        if not found:
            return
        rows = torch.cat(found).double()
        deviation, mean = torch.std_mean(rows, 0, correction=0)
        varies = deviation > 1e-6 * mean.abs() + 1e-12
        self.center.copy_(mean)
        self.scale.copy_(torch.where(varies, 1 / torch.where(varies, deviation, 1.0), 0.0))

    def seen(self, canonical: Stack) -> Tensor:
        """The statistics of a canonical stack in balanced form; those of a prepared one are there already."""
        if isinstance(canonical, Prepared) and canonical.statistics is not None:
            return canonical.statistics
        return self.features(balanced_form(canonical, relative_widths(canonical.spec, self.reference)))

    def features(self, stack: Stack) -> Tensor:
        """The statistics, ``[B, 2 depth sets moments]``; 0 for layers that a network lacks."""
        spec, found = stack.spec, stack.nodes.new_zeros(stack.size, 2, self.depth, len(SETS), MOMENTS)
        relative = relative_widths(spec, self.reference) or [1.0] * len(spec.groups)
        layers = [i for i in range(len(spec.groups)) if spec.incoming[i]]
        sets = {(i, s): v for i in layers for s, v in enumerate(_sets(stack, i, relative)) if v is not None}
        rows = _all_moments(list(sets.values()))
        for (i, s), row in zip(sets, rows, strict=True):
            for end, distance in enumerate((spec.levels[i], spec.heights[i] + 1)):
                found[:, end, min(distance, self.depth) - 1, s] += row
        return found.flatten(1)


def _sets(stack: Stack, i: int, relative: Sequence[float]) -> tuple[Tensor | None, ...]:
    """Per name of :data:`SETS`, that set of the layer in front of group i, ``[B, n]``; None: it says nothing."""
    spec, facts = stack.spec, group_facts(stack.spec, stack.nodes.device)
    sources = [spec.position[spec.blocks[b].src] for b in spec.incoming[i]]
    blocks = [_times(stack.blocks[b], relative[j] ** 0.5) for b, j in zip(spec.incoming[i], sources, strict=True)]
    ends = [i, *sources]
    free = any(bool(torch.as_tensor(facts[end].signed).any()) for end in ends)
    weights = torch.cat([block.flatten(1) for block in blocks], 1)
    rows = [
        _times(torch.linalg.vector_norm(w, dim=(2, 3)), relative[j] ** -0.5)
        for w, j in zip(blocks, sources, strict=True)
    ]
    incoming, columns = torch.cat(rows, 1), torch.cat([torch.linalg.vector_norm(w, dim=(1, 3)) for w in blocks], 1)
    outgoing = _times(columns, relative[i] ** -0.5)
    bias = even_biases(facts[i].parts, stack.group(i)[..., :1])[..., 0]
    larger = [max(relative[i], relative[j]) ** -0.5 for j in sources]
    spectrum = _singular_values([_times(w, factor) for w, factor in zip(blocks, larger, strict=True)])
    return weights.abs(), None if free else weights, incoming, outgoing, bias, spectrum


def _singular_values(blocks: Sequence[Tensor]) -> Tensor | None:
    """Of the matrix ``[dst, sources * taps]`` of all blocks side by side, ``[B, shorter side]``.

    NaN where a matrix is not finite, so that a diverged network spoils no other; None above :data:`LARGEST_SIDE`.

    They are roots of eigenvalues in float64, which for many small matrices takes a fraction of the time of ``svdvals``.
    """
    rows = torch.cat([block.flatten(2) for block in blocks], 2).double()
    rows = rows if rows.shape[1] <= rows.shape[2] else rows.transpose(1, 2)
    if rows.shape[1] > LARGEST_SIDE:
        return None
    gram = rows @ rows.transpose(1, 2)
    finite = gram.isfinite().all(2).all(1)[:, None]
    values = torch.linalg.eigvalsh(torch.where(finite[..., None], gram, 0.0))
    roots = (values.clamp_min(0) + SMALLEST**2).sqrt()
    return torch.where(finite, roots, torch.nan).to(blocks[0].dtype)


def _times(values: Tensor, factor: float) -> Tensor:
    return values if factor == 1 else values * factor


def _all_moments(sets: list[Tensor]) -> list[Tensor]:
    """:func:`_moments` of each; small sets of one size at once, since these cost little but the calls."""
    found: list[Tensor] = [torch.empty(0)] * len(sets)
    sizes = [values.shape[1] for values in sets]
    for size in set(sizes):
        same = [k for k, n in enumerate(sizes) if n == size]
        for few in [same] if size <= SMALL else [[k] for k in same]:
            rows = _moments(torch.cat([sets[k] for k in few]) if len(few) > 1 else sets[few[0]])
            for k, row in zip(few, rows.chunk(len(few)), strict=True):
                found[k] = row
    return found


def _moments(values: Tensor) -> Tensor:
    """Mean, deviation and quantiles of each row, ``[B, n] -> [B, 7]``."""
    wide = values if values.dtype == torch.float64 else values.float()
    mean = wide.mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(wide - mean, dim=1, keepdim=True)  # in one pass over the differences
    deviation = (norm.square() / wide.shape[1] + 1e-12).sqrt()
    return torch.cat([mean, deviation, quantiles(wide)], 1).to(values.dtype)
