"""Neural graphs of Kofinas et al. (ICLR 2024), arXiv 2403.12143: NG-GNN and NG-T, predicting and editing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from baselines.errors import BaselineError
from baselines.neural_graphs.body import GNNBody, PublishedGNNBody, TransformerBody
from baselines.neural_graphs.features import Inputs, common_grid
from baselines.neural_graphs.transformer import Sizes
from baselines.weight_space import Part, WeightSpace, add, chain_form, common_ends, weight_spaces
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack

_SIZES = Sizes()
_GNN_INPUTS, _GNN_EDITOR_INPUTS, _TRANSFORMER_INPUTS = (
    Inputs(), Inputs(frequencies=0, reverse=True), Inputs(sigma=1.0)
)  # fmt: skip
_GNN_PROBES, _GNN_CNN = Inputs(probes=64), Inputs(normalize=False)
_T_PROBES, _T_CNN = Inputs(sigma=1.0, probes=64), Inputs(normalize=False)


class _Model(nn.Module):
    symmetry: ClassVar[frozenset[str]] = frozenset({"permutation"})
    depth: int

    def _admit(self, specs: Sequence[NetSpec]) -> None:
        forms = [chain_form(spec) for spec in specs]
        self.ends, self.depth = (forms[0].widths[0], forms[0].widths[-1]), max(f.depth for f in forms)
        self.grid = common_grid(forms)

    def _read(self, stack: Stack) -> tuple[NeuralGraph, Part]:
        graph = NeuralGraph.from_stacks([stack])
        part = weight_spaces(graph)[0]
        form = part.form
        fits = all(len(t) == len(self.grid) and all(map(int.__le__, t, self.grid)) for t in form.taps if t)
        if (form.widths[0], form.widths[-1]) != self.ends or form.depth > self.depth or not fits:
            raise BaselineError(
                f"this model was built for {self.ends[0]} inputs, {self.ends[1]} outputs, kernels up to {self.grid} "
                f"and {self.depth} layers at most; got {form}: build it with the specs of the networks to be read"
            )
        return graph, part


class _Predictor(_Model):
    """Body, output neurons concatenated, MLP with ReLU."""

    body: GNNBody | TransformerBody
    head: nn.Sequential

    def _finish(self, specs: Sequence[NetSpec], hidden: int, head_layers: int, out: int) -> None:
        self._admit(specs)
        sizes = [self.body.outputs * self.body.widths[0]] + [hidden] * (head_layers - 1)
        parts = [m for a, b in zip(sizes[:-1], sizes[1:], strict=True) for m in (nn.Linear(a, b), nn.ReLU())]
        self.head = nn.Sequential(*parts, nn.Linear(sizes[-1], out))

    def forward(self, data: Data) -> Tensor:
        graph = NeuralGraph.of(data)
        rows = torch.cat([self._features(stack) for stack in graph.stacks()])
        order = torch.cat(graph.members()).argsort()
        return self.head(rows[order.to(rows.device)])

    def _features(self, stack: Stack) -> Tensor:
        x, _ = self.body(self._read(stack)[1].features, stack.spec)
        return x[:, -self.body.outputs :].flatten(1)


class _Editor(_Model):
    """``W_l + s_l f(e)``, ``b_l + t_l g(x)``: MLPs on the features of edges and neurons."""

    body: GNNBody | TransformerBody
    skipped = True
    """Whether biases are read from their own neurons; the published GNN reads them from the input neurons on."""

    def _finish(self, specs: Sequence[NetSpec], scale: float) -> None:
        self._admit(specs)
        if common_ends(specs).taps != ((),) * self.depth:
            raise BaselineError(f"the published editors read MLPs only; got kernels {self.grid}: use LimGMNEditor")
        node, edge = self.body.widths
        self.of_node = nn.Sequential(nn.Linear(node, node), nn.ReLU(), nn.Linear(node, 1))
        self.of_edge = nn.Sequential(nn.Linear(edge, edge), nn.ReLU(), nn.Linear(edge, 1))
        self.weight_scales = nn.Parameter(torch.full((self.depth,), scale))
        self.bias_scales = nn.Parameter(torch.full((self.depth,), scale))

    def forward(self, data: Data) -> NeuralGraph:
        graph = NeuralGraph.of(data)
        return NeuralGraph.from_stacks([self._edited(stack) for stack in graph.stacks()], graph.members())

    def _edited(self, stack: Stack) -> Stack:
        graph, part = self._read(stack)
        return add(graph, [part], [self.delta(part.features, stack.spec)]).stacks()[0]

    def delta(self, space: WeightSpace, spec: NetSpec) -> WeightSpace:
        """What is added to weights with one channel."""
        x, edges = self.body(space, spec)
        weights = [s * self.of_edge(e).movedim(-1, 1) for s, e in zip(self.weight_scales, edges, strict=True)]
        start = spec.groups[0].size if self.skipped else 0
        sizes = [group.size for group in spec.groups[1:]]
        rows = self.of_node(x[:, start : start + sum(sizes)]).movedim(-1, 1).split(sizes, 2)
        return WeightSpace(tuple(weights), tuple(s * b for s, b in zip(self.bias_scales, rows, strict=True)))


class NGGNN(_Predictor):
    """A prediction per network by PNA on its neural graph.

    ``f(P G) = f(G)`` for permutations P of hidden neurons. Networks may differ in hidden widths, depth and kernels.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        width: channels of nodes and edges.
        layers: rounds.
        inputs: how numbers become features.

    Raises:
        BaselineError: the specs differ in inputs or outputs, have flattened maps, or are no chains.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "sin")
        >>> NGGNN([spec], out=3, width=8)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"inr": {}, "inr_probes": {"inputs": _GNN_PROBES}, "cnn_zoo": {"inputs": _GNN_CNN}}
    )
    made_of: ClassVar[type[GNNBody]] = GNNBody

    def __init__(
        self,
        specs: Sequence[NetSpec],
        out: int,
        *,
        width: int = 32,
        layers: int = 4,
        inputs: Inputs = _GNN_INPUTS,
    ) -> None:
        super().__init__()
        self.body = self.made_of(specs, width=width, layers=layers, inputs=inputs)
        self._finish(specs, width, 3, out)


class NGGNNAsPublished(NGGNN):
    """:class:`NGGNN` with the published norm: a result depends on the other networks of the batch."""

    made_of = PublishedGNNBody


class NGTransformer(_Predictor):
    """A prediction per network by the relational transformer on its neural graph.

    ``f(P G) = f(G)`` for permutations P of hidden neurons. Networks may differ in hidden widths, depth and kernels.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        sizes: channels.
        layers: of the transformer.
        dropout: in every layer.
        head_width: of the MLP behind it.
        head_layers: 2 for INRs, 3 for CNNs.
        inputs: how numbers become features.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "sin")
        >>> small = Sizes(node=8, edge=8, attention=8, node_hidden=8, edge_hidden=8)
        >>> NGTransformer([spec], out=3, sizes=small)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"inr": {}, "inr_probes": {"inputs": _T_PROBES}, "cnn_zoo": {"inputs": _T_CNN, "head_layers": 3}}
    )

    def __init__(
        self,
        specs: Sequence[NetSpec],
        out: int,
        *,
        sizes: Sizes = _SIZES,
        layers: int = 4,
        dropout: float = 0.0,
        head_width: int = 128,
        head_layers: int = 2,
        inputs: Inputs = _TRANSFORMER_INPUTS,
    ) -> None:
        super().__init__()
        self.body = TransformerBody(specs, sizes=sizes, layers=layers, dropout=dropout, last_edges=False, inputs=inputs)
        self._finish(specs, head_width, head_layers, out)


class NGGNNEditor(_Editor):
    """Edited MLPs by PNA on their neural graph, ``f(P G) = P f(G)``; arguments as in :class:`NGGNN`.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "sin")
        >>> NGGNNEditor([spec], width=8)(random_graph(spec, networks=5, dtype=torch.float32))
        NeuralGraph(networks=5, neurons=55, edges=140)
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"inr": {}})
    made_of: ClassVar[type[GNNBody]] = GNNBody

    def __init__(
        self,
        specs: Sequence[NetSpec],
        *,
        width: int = 64,
        layers: int = 4,
        inputs: Inputs = _GNN_EDITOR_INPUTS,
        scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.body = self.made_of(specs, width=width, layers=layers, inputs=inputs)
        self._finish(specs, scale)


class NGGNNEditorAsPublished(NGGNNEditor):
    """:class:`NGGNNEditor` as published: a norm over the whole batch, and each bias edited by another neuron."""

    made_of, skipped = PublishedGNNBody, False


class NGTransformerEditor(_Editor):
    """Edited MLPs by the relational transformer, ``f(P G) = P f(G)``; arguments as in :class:`NGTransformer`."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"inr": {}})

    def __init__(
        self,
        specs: Sequence[NetSpec],
        *,
        sizes: Sizes = _SIZES,
        layers: int = 4,
        dropout: float = 0.0,
        inputs: Inputs = _TRANSFORMER_INPUTS,
        scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.body = TransformerBody(specs, sizes=sizes, layers=layers, dropout=dropout, last_edges=True, inputs=inputs)
        self._finish(specs, scale)
