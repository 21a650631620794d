"""Weight-space features: the weights and biases of a batch of networks of one form, layer by layer.

What NFN, DWSNets, Monomial-NFN and their kin compute with: one tensor per layer instead of a graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from baselines.chain_form import ChainForm as ChainForm
from baselines.chain_form import chain_form as chain_form
from baselines.chain_form import common_ends as common_ends
from baselines.chain_form import common_form as common_form
from baselines.errors import BaselineError
from graphnfn.effective import effective, fold_norms
from graphnfn.graph import NeuralGraph
from graphnfn.stack import Stack


@dataclass(frozen=True)
class WeightSpace:
    """Features on the weights of B networks of one form.

    Args:
        weights: per layer ``[B, C, n_out, n_in, *taps]``, with C feature channels.
        biases: per layer ``[B, C, n_out]``.

    Example:
        >>> space = WeightSpace((torch.ones(5, 1, 3, 2),), (torch.ones(5, 1, 3),))
        >>> space.map(lambda t: 2 * t).weights[0].sum()
        tensor(60.)
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def map(self, f: Callable[[Tensor], Tensor]) -> WeightSpace:
        """The features with a function applied to every tensor."""
        return WeightSpace(tuple(map(f, self.weights)), tuple(map(f, self.biases)))

    def zip(self, other: WeightSpace, f: Callable[[Tensor, Tensor], Tensor]) -> WeightSpace:
        """Two features of one form, combined tensor by tensor."""
        weights = tuple(f(a, b) for a, b in zip(self.weights, other.weights, strict=True))
        return WeightSpace(weights, tuple(f(a, b) for a, b in zip(self.biases, other.biases, strict=True)))

    def fold_taps(self) -> WeightSpace:
        """Kernel entries as channels, ``[B, C, n_out, n_in, *taps] -> [B, C * taps, n_out, n_in]``, channel-major."""

        def fold(w: Tensor) -> Tensor:
            return w if w.ndim == 4 else w.flatten(4).movedim(4, 2).flatten(1, 2)

        return WeightSpace(tuple(map(fold, self.weights)), self.biases)

    def unfold_taps(self, form: ChainForm) -> WeightSpace:
        """The inverse of :meth:`fold_taps`."""

        def unfold(w: Tensor, taps: tuple[int, ...]) -> Tensor:
            if not taps:
                return w
            return w.unflatten(1, (-1, math.prod(taps))).movedim(2, 4).unflatten(4, taps)

        return WeightSpace(tuple(unfold(w, t) for w, t in zip(self.weights, form.taps, strict=True)), self.biases)

    def channels_last(self) -> WeightSpace:
        """``[B, n_out, n_in, C * taps]`` and ``[B, n_out, C]``: the layout in which channels are mixed fastest."""
        return self.fold_taps().map(lambda t: t.movedim(1, -1))

    def channels_first(self, form: ChainForm) -> WeightSpace:
        """The inverse of :meth:`channels_last`."""
        return self.map(lambda t: t.movedim(-1, 1)).unfold_taps(form)


def weight_space(graph: NeuralGraph) -> WeightSpace:
    """The weights of a batch, in the order of the batch, with one channel; kept batch norms are folded in.

    ``weights[l][n, 0, j, i, t] = W_l``, ``biases[l][n, 0, j] = b_l`` (0 where a layer has no bias).

    Args:
        graph: networks of one form.

    Raises:
        BaselineError: several forms, or a network that is no chain.

    Example:
        >>> from graphnfn.chain import small_cnn_spec
        >>> from graphnfn.testing import random_graph
        >>> [tuple(w.shape) for w in weight_space(random_graph(small_cnn_spec([1, 4, 5], 2, "relu"))).weights]
        [(1, 1, 4, 1, 3, 3), (1, 1, 5, 4, 3, 3), (1, 1, 2, 5)]
    """
    common_form(list(dict.fromkeys(graph.specs)))
    return weight_spaces(graph)[0].features


@dataclass(frozen=True)
class Part:
    """The networks of a batch that have one form.

    Args:
        form: their sizes.
        places: ascending, where they are in the batch.
        features: their weights, with one channel.
    """

    form: ChainForm
    places: Tensor
    features: WeightSpace


def weight_spaces(graph: NeuralGraph) -> list[Part]:
    """The weights of a batch, one part per form, for models that read several widths.

    Raises:
        BaselineError: a network is no chain.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> graphs = [random_graph(mlp_spec([2, n, 1], act)) for n, act in ((4, "relu"), (5, "relu"), (4, "tanh"))]
        >>> [(part.form.widths, part.places.tolist()) for part in weight_spaces(NeuralGraph.batch(graphs))]
        [((2, 4, 1), [0, 2]), ((2, 5, 1), [1])]
    """
    read: dict[ChainForm, list[tuple[Tensor, WeightSpace]]] = {}
    for stack, places in zip(graph.stacks(), graph.members(), strict=True):
        form = chain_form(stack.spec)
        read.setdefault(form, []).append((places, _read(effective(stack), form)))
    return [_merge(form, rows) for form, rows in read.items()]


def parts_like(graph: NeuralGraph, expected: ChainForm) -> list[Part]:
    """:func:`weight_spaces` for a model that reads networks with the ends of ``expected``.

    Raises:
        BaselineError: a network has other inputs, outputs, depth or kernels, or is no chain.
    """
    parts = weight_spaces(graph)
    for part in parts:
        if part.form.ends != expected.ends:
            raise BaselineError(
                f"this model was built for {expected}, with any hidden widths; got {part.form}: build it with the "
                "specs of the networks that it shall read"
            )
    return parts


def _merge(form: ChainForm, rows: list[tuple[Tensor, WeightSpace]]) -> Part:
    places = torch.cat([p for p, _ in rows])
    if len(rows) == 1:
        return Part(form, places, rows[0][1])
    order = places.argsort()
    weights = zip(*(space.weights for _, space in rows), strict=True)
    biases = zip(*(space.biases for _, space in rows), strict=True)
    at = order.to(rows[0][1].biases[0].device)
    merged = WeightSpace(tuple(torch.cat(w)[at] for w in weights), tuple(torch.cat(b)[at] for b in biases))
    return Part(form, places[order], merged)


def in_order(parts: Sequence[Part], rows: Sequence[Tensor]) -> Tensor:
    """Results per part, ``[networks of the part, ...]``, in the order of the batch."""
    if len(parts) == 1:
        return rows[0]
    order = torch.cat([part.places for part in parts]).argsort()
    return torch.cat(list(rows))[order.to(rows[0].device)]


def add(graph: NeuralGraph, parts: Sequence[Part], deltas: Sequence[WeightSpace]) -> NeuralGraph:
    """The networks with ``W_l + delta.weights[l]``, ``b_l + delta.biases[l]``; kept batch norms are folded first.

    A layer without a bias keeps none.

    Args:
        graph: the batch.
        parts: its :func:`weight_spaces`.
        deltas: one per part, each with one channel.

    Raises:
        BaselineError: a delta has several channels.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 3, 1], "relu"))
        >>> parts = weight_spaces(graph)
        >>> moved = add(graph, parts, [part.features for part in parts])
        >>> torch.equal(moved.x, 2 * graph.x), torch.equal(moved.edge_attr, 2 * graph.edge_attr)
        (True, True)
    """
    channels = {d.biases[0].shape[1] for d in deltas}
    if channels != {1}:
        raise BaselineError(f"an edit has one channel; got {sorted(channels)}: map the features to one channel first")
    if any(g.norm_eps is not None for spec in dict.fromkeys(graph.specs) for g in spec.groups):
        graph = fold_norms(graph)
    row = torch.empty(graph.num_graphs, dtype=torch.long)
    for part in parts:
        row[part.places] = torch.arange(len(part.places))
    by_form = {part.form: delta for part, delta in zip(parts, deltas, strict=True)}
    members = graph.members()
    edited = []
    for stack, places in zip(graph.stacks(), members, strict=True):
        rows = row[places].to(stack.nodes.device)
        edited.append(_edit(stack, by_form[chain_form(stack.spec)].map(lambda t, rows=rows: t[rows])))
    return NeuralGraph.from_stacks(edited, members)


def _read(stack: Stack, form: ChainForm) -> WeightSpace:
    weights = [w.reshape(stack.size, 1, *form.weight_shape(i)) for i, w in enumerate(stack.blocks)]
    return WeightSpace(tuple(weights), tuple(stack.group(i + 1)[:, None, :, 0] for i in range(form.depth)))


def _edit(stack: Stack, delta: WeightSpace) -> Stack:
    spec = stack.spec
    biased = {p.group for p in spec.node_params if p.field == "bias"}
    rows = [stack.nodes.new_zeros(stack.size, spec.groups[0].size)]
    for group, d in zip(spec.groups[1:], delta.biases, strict=True):
        rows.append(d[:, 0] if group.id in biased else torch.zeros_like(d[:, 0]))
    nodes = torch.cat([stack.nodes[..., :1] + torch.cat(rows, 1)[..., None], stack.nodes[..., 1:]], -1)
    blocks = tuple(w + d.reshape(w.shape) for w, d in zip(stack.blocks, delta.weights, strict=True))
    return replace(stack, nodes=nodes, blocks=blocks)
