"""ScaleGMN: graph metanetworks that respect the scales and signs of neurons.

Kalogeropoulos, Bouritsas, Panagakis, "Scale Equivariant Graph Metanetworks" (2024, arXiv 2406.10685); official code
jkalogero/scalegmn. Forward and bidirectional (ScaleGMN-B); for ReLU-like neurons, tanh- and sin-like neurons, both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from baselines.scalegmn.encoder import Design, Encoder, PlainEncoder, PlainPublishedEncoder, PublishedEncoder
from baselines.scalegmn.layers import MLPs
from baselines.scalegmn.rounds import Form, State
from graphnfn.effective import fold_norms
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec, NeuronGroup
from graphnfn.stack import Stack


class _EndsReadout(nn.Module):
    """``MLP(h_outputs)``; bidirectional: ``MLP(A h_outputs, B h_inputs)``."""

    def __init__(self, encoder: Encoder, out: int, mlps: MLPs) -> None:
        super().__init__()
        width, extent = mlps.width, encoder.extent
        both = encoder.form.bidirectional
        self.last = nn.Linear(extent.outputs * width, width) if both else None
        self.first = nn.Linear(extent.inputs * width, width) if both else None
        self.mlp = mlps.make(2 * width if both else extent.outputs * width, out)

    def wants(self, group: NeuronGroup) -> bool:
        return group.role == "output" or (group.role == "input" and self.first is not None)

    def forward(self, encoder: Encoder, stack: Stack, state: State) -> Tensor:
        rows = [h.flatten(1) for _, h in sorted(state.nodes.items())]
        if self.first is not None and self.last is not None:
            rows = [self.last(rows[-1]), self.first(rows[0])]
        return self.mlp(torch.cat(rows, 1))


class _WholeReadout(nn.Module):
    """``MLP(sum_hidden phi(c(h)), h_inputs, h_outputs)``."""

    def __init__(self, encoder: Encoder, out: int, mlps: MLPs) -> None:
        super().__init__()
        width, ends = mlps.width, encoder.extent.inputs + encoder.extent.outputs
        self.gate = encoder.kinds.gates(width, 0, width, mlps)
        self.mlp = mlps.make(width + width * ends, out)

    def wants(self, group: NeuronGroup) -> bool:
        return True

    def forward(self, encoder: Encoder, stack: Stack, state: State) -> Tensor:
        hidden, ends = [], []
        for (i, h), place in zip(sorted(state.nodes.items()), encoder.places(stack), strict=True):
            if stack.spec.groups[i].role == "hidden":
                hidden.append(self.gate(h, replace(place, extra=None)).sum(1))
            else:
                ends.append(h.flatten(1))
        return self.mlp(torch.cat([torch.stack(hidden).sum(0), *ends], 1))


class _DeepSetReadout(nn.Module):
    """``MLP(sum MLP(h))`` over all neurons: the permutation-only model's readout."""

    def __init__(self, encoder: Encoder, out: int, mlps: MLPs) -> None:
        super().__init__()
        self.local, self.mlp = mlps.make(mlps.width, mlps.width), mlps.make(mlps.width, out)

    def wants(self, group: NeuronGroup) -> bool:
        return True

    def forward(self, encoder: Encoder, stack: Stack, state: State) -> Tensor:
        return self.mlp(self.local(torch.cat(list(state.nodes.values()), 1)).sum(1))


def _preset(width: int, layers: int, dropout: float = 0.0, both: bool = False, **design: bool) -> Mapping[str, Any]:
    choices = {"width": width, "layers": layers, "dropout": dropout, "bidirectional": both, "design": Design(**design)}
    return MappingProxyType(choices)


class ScaleGMN(nn.Module):
    """A prediction per network by message passing that scales and signs of hidden neurons do not change.

    ``f(g G) = f(G)`` for permutations, positive scales (ReLU) and signs (tanh, sin) of hidden neurons, forward and
    bidirectional. Networks of different depth, width and activation may be mixed; inputs and outputs must be equally
    many, since each has a position of its own.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        width: features per neuron and edge.
        layers: rounds of message passing.
        bidirectional: also messages back along the edges (ScaleGMN-B).
        dropout: on the features of neurons after every round.
        design: the finer choices of the published configurations.

    Raises:
        BaselineError: different inputs or outputs, PReLU slopes, activations with other symmetries; in forward, a
            network larger than all specs.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> model = ScaleGMN([spec], out=3, width=8, layers=2, bidirectional=True)
        >>> model(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    symmetry: ClassVar[frozenset[str]] = frozenset({"permutation", "scale", "sign"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "cifar10_relu": _preset(128, 4),
            "cifar10_relu_bidir": _preset(128, 4, both=True),
            "cifar10_tanh": _preset(128, 4, separate_ends=True, whole_graph=True),
            "cifar10_tanh_bidir": _preset(128, 4, 0.2, both=True, separate_ends=True, whole_graph=True),
            "cifar10_hetero": _preset(128, 4, 0.2, sign_sum=False),
            "cifar10_hetero_bidir": _preset(128, 5, 0.1, both=True, skips=True),
            "svhn_relu": _preset(64, 4, separate_ends=True, whole_graph=True, skips=True),
            "svhn_relu_bidir": _preset(64, 3, both=True, separate_ends=True, whole_graph=True, skips=True),
            "svhn_tanh": _preset(64, 4, separate_ends=True, layer_norm=False),
            "svhn_tanh_bidir": _preset(128, 3, both=True, separate_ends=True, whole_graph=True, skips=True),
            "mnist_inr": _preset(128, 4, 0.2, free_ends=False, edge_positions=True, skips=True),
            "mnist_inr_bidir": _preset(128, 4, 0.2, both=True, free_ends=False, position_features=True),
            "fmnist_inr": _preset(
                128, 2, 0.2, separate_ends=True, edge_positions=True, skips=True, whole_graph=True, dropout_inside=True
            ),
            "fmnist_inr_bidir": _preset(
                128, 2, 0.2, both=True, separate_ends=True, edge_positions=True, skips=True, whole_graph=True,
                dropout_inside=True,
            ),
            "cifar_inr": _preset(64, 4, 0.2, sign_sum=False, separate_ends=True),
            "cifar_inr_bidir": _preset(
                64, 4, 0.2, both=True, sign_sum=False, free_ends=False, add_at_ends=False, layer_norm=False
            ),
            "cifar_inr_augmented": _preset(128, 4, 0.1, separate_ends=True, skips=True, whole_graph=True),
            "cifar_inr_augmented_bidir": _preset(128, 4, 0.2, both=True, separate_ends=True, skips=True),
        }
    )  # fmt: skip
    _encoder: ClassVar[type[Encoder]] = Encoder
    _whole: ClassVar[type[nn.Module]] = _WholeReadout

    def __init__(
        self,
        specs: Sequence[NetSpec],
        out: int,
        *,
        width: int = 128,
        layers: int = 4,
        bidirectional: bool = False,
        dropout: float = 0.0,
        design: Design = Design(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.encoder = self._encoder(specs, Form(width, layers, bidirectional, dropout), design)
        mlps = MLPs(width, design.layer_norm, dropout if design.dropout_inside else 0.0)
        self.readout = (self._whole if design.whole_graph else _EndsReadout)(self.encoder, out, mlps)

    def forward(self, data: Data) -> Tensor:
        graph = NeuralGraph.of(data)
        rows = []
        for stack in graph.stacks():
            rows.append(self.readout(self.encoder, stack, self.encoder(stack, self.readout.wants)))
        if len(rows) == 1:
            return rows[0]
        order = torch.cat(graph.members()).argsort()
        return torch.cat(rows)[order.to(rows[0].device)]


class ScaleGMNAsPublished(ScaleGMN):
    """ScaleGMN with the faults of the official code.

    Bidirectional messages between neurons with scales carry the wrong charge, so the bidirectional ReLU model is not
    invariant to scales (forward it is, up to an epsilon of 1e-10 in norms); with several outputs and
    ``edge_positions`` not even permutations hold.
    """

    symmetry = frozenset({"permutation", "sign"})
    _encoder = PublishedEncoder


class PermutationScaleGMN(ScaleGMN):
    """The paper's own baseline "GMN": the same graph, plain MLPs, permutations only, for any activation.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 1], "gelu")
        >>> PermutationScaleGMN([spec], out=3, width=8)(random_graph(spec, dtype=torch.float32)).shape
        torch.Size([1, 3])
    """

    symmetry = frozenset({"permutation"})
    _encoder = PlainEncoder
    _whole = _DeepSetReadout


class PermutationScaleGMNAsPublished(PermutationScaleGMN):
    """The permutation-only model with misnumbered positions of output edges."""

    symmetry = frozenset()
    _encoder = PlainPublishedEncoder


class ScaleGMNEditor(nn.Module):
    """Edited networks: ``theta_l + s_l delta_l``, with delta from the last round's edges and neurons.

    ``f(g G) = g f(G)``; kept batch norms are folded first. Arguments are those of :class:`ScaleGMN`, and ``scale``,
    the initial value of all s_l.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 1], "sin", omega=30.0)
        >>> ScaleGMNEditor([spec], width=8, layers=2)(random_graph(spec, dtype=torch.float32))
        NeuralGraph(networks=1, neurons=7, edges=12)
    """

    symmetry: ClassVar[frozenset[str]] = ScaleGMN.symmetry
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "mnist_editing": _preset(
                128, 10, 0.1, sign_sum=False, separate_ends=True, skips=True, dropout_inside=True
            ),
            "mnist_editing_bidir": _preset(128, 10, 0.1, both=True, sign_sum=False, skips=True),
        }
    )  # fmt: skip
    _encoder: ClassVar[type[Encoder]] = Encoder

    def __init__(
        self,
        specs: Sequence[NetSpec],
        *,
        width: int = 128,
        layers: int = 4,
        bidirectional: bool = False,
        dropout: float = 0.0,
        design: Design = Design(),  # noqa: B008 - frozen
        scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.encoder = self._encoder(specs, Form(width, layers, bidirectional, dropout, edit=1), design)
        self.weight_scale = nn.Parameter(torch.full((self.encoder.extent.blocks,), scale))
        self.bias_scale = nn.Parameter(torch.full((self.encoder.extent.hidden + 1,), scale))

    def forward(self, data: Data) -> NeuralGraph:
        graph = NeuralGraph.of(data)
        if any(g.norm_eps is not None for spec in dict.fromkeys(graph.specs) for g in spec.groups):
            graph = fold_norms(graph)
        return graph.map_stacks(self._edited)

    def delta(self, stack: Stack) -> tuple[list[Tensor], list[Tensor]]:
        """Changes per block ``[B, n_dst, n_src, taps]``, and per group but the inputs ``[B, n, 1]``."""
        state = self.encoder(stack, lambda group: group.role != "input")
        blocks = []
        for b, block in enumerate(stack.spec.blocks):
            edges = state.edges[b]
            assert isinstance(edges, Tensor)
            blocks.append(self.weight_scale[b] * edges[..., self.encoder.slots(block).to(edges.device)])
        return blocks, [self.bias_scale[i - 1] * h for i, h in sorted(state.nodes.items())]

    def _edited(self, stack: Stack) -> Stack:
        blocks, biases = self.delta(stack)
        spec = stack.spec
        biased = {p.group for p in spec.node_params if p.field == "bias"}
        rows = [torch.zeros_like(stack.group(0)[..., :1])]
        rows += [d if g.id in biased else torch.zeros_like(d) for g, d in zip(spec.groups[1:], biases, strict=True)]
        nodes = torch.cat([stack.nodes[..., :1] + torch.cat(rows, 1), stack.nodes[..., 1:]], -1)
        return Stack(spec, nodes, tuple(w + d for w, d in zip(stack.blocks, blocks, strict=True)))


class ScaleGMNEditorAsPublished(ScaleGMNEditor):
    """The editor with the faults of the official code, see :class:`ScaleGMNAsPublished`."""

    symmetry = ScaleGMNAsPublished.symmetry
    _encoder = PublishedEncoder


class PermutationScaleGMNEditor(ScaleGMNEditor):
    """The editor that knows permutations only."""

    symmetry = frozenset({"permutation"})
    _encoder = PlainEncoder
