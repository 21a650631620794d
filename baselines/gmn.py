"""A graph metanetwork that knows permutations only, in the manner of NG-GNN.

Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of Neural Networks" (2024), arXiv
2403.12143: weights are edge features, biases are node features, input and output neurons and depths have learned
position embeddings, messages are modulated by edges, and edges are updated too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import MultiAggregation

from baselines.errors import BaselineError
from baselines.standardize import Standardize
from graphnfn.activations import NAMES
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NEUTRAL_NODE, NetSpec
from graphnfn.topology import node_facts, tap_slots

_INPUT, _HIDDEN, _OUTPUT = range(3)


class PermutationGMN(nn.Module):
    """Message passing on the neuron graph with node and edge states, forward and backward along the edges.

    ``f(P G) = f(G)`` for permutations P of hidden neurons; positive scales and signs change the result.

    Args:
        specs: architectures that it shall read; they size the tables of positions and the tap grid.
        out: numbers predicted per network.
        width: channels of node and edge states.
        rounds: layers of message passing.

    Raises:
        BaselineError: a network is larger than all specs given.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> PermutationGMN([spec], out=3)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    symmetry: ClassVar[frozenset[str]] = frozenset({"permutation"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})

    def __init__(self, specs: Sequence[NetSpec], out: int, *, width: int = 32, rounds: int = 2) -> None:
        super().__init__()
        self.fields = max(s.num_fields for s in specs)
        self.grid = _largest_grid(specs)
        slots = max(1, int(torch.tensor(self.grid).prod()))
        self.scale_nodes = Standardize(self.fields)
        self.scale_edges = Standardize(slots)
        self.encode_nodes = nn.Linear(self.fields, width)
        self.encode_edges = nn.Linear(slots, width)
        self.inputs = nn.Embedding(_widest(specs, _INPUT), width)
        self.outputs = nn.Embedding(_widest(specs, _OUTPUT), width)
        self.depth = nn.Embedding(1 + max(max(s.levels) for s in specs), width)
        self.kind = nn.Embedding(len(NAMES), width)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(rounds))
        self.predict = nn.Sequential(
            nn.Linear(3 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width), nn.SiLU(),
            nn.Linear(2 * width, out),
        )  # fmt: skip

    def forward(self, data: Data) -> Tensor:
        graph = NeuralGraph.of(data)
        place, role = _facts(graph, "place"), _facts(graph, "role")
        nodes = self.encode_nodes(self.scale_nodes(self._node_features(graph)))
        nodes = nodes + self.kind(graph.activation) + self._positions(graph, place, role)
        edges = self.encode_edges(self.scale_edges(self._edge_features(graph)))
        for layer in self.layers:
            nodes, edges = layer(nodes, edges, graph.edge_index)
        pooled = [_mean_by_graph(nodes, graph, role == which) for which in (_INPUT, _HIDDEN, _OUTPUT)]
        return self.predict(torch.cat(pooled, 1))

    def _node_features(self, graph: NeuralGraph) -> Tensor:
        x = graph.x
        if x.shape[1] > self.fields:
            raise BaselineError(
                f"this GMN was built for {self.fields} node parameters; the batch has {x.shape[1]}: build it with the "
                "specs of all networks that it shall read"
            )
        pad = torch.tensor(NEUTRAL_NODE[x.shape[1] : self.fields]).to(x)
        return torch.cat([x, pad.expand(len(x), -1)], 1)

    def _edge_features(self, graph: NeuralGraph) -> Tensor:
        """Weights on the model's own tap grid, in the order of ``edge_index``."""
        rows = []
        for stack in graph.stacks():
            taps = stack.spec.tap_grid
            fits = len(taps) <= len(self.grid)
            if not fits or any(t > g for t, g in zip(_align(taps, len(self.grid)), self.grid, strict=True)):
                raise BaselineError(
                    f"this GMN was built for kernels up to {self.grid}; a network has {stack.spec.tap_grid}: build it "
                    "with the specs of all networks that it shall read"
                )
            for b, block in zip(stack.spec.blocks, stack.blocks, strict=True):
                flat = block.reshape(-1, b.num_taps)
                slots = tap_slots(b, self.grid).to(flat.device)
                rows.append(flat.new_zeros(len(flat), self.scale_edges.mean.numel()).index_copy(1, slots, flat))
        return torch.cat(rows)

    def _positions(self, graph: NeuralGraph, place: Tensor, role: Tensor) -> Tensor:
        for table, which, name in ((self.inputs, _INPUT, "input"), (self.outputs, _OUTPUT, "output")):
            most = int(place[role == which].max()) + 1
            if most > table.num_embeddings:
                raise BaselineError(
                    f"this GMN was built for {table.num_embeddings} {name} neurons; a network has {most}: build it "
                    "with the specs of all networks that it shall read"
                )
        if int(graph.node_level.max()) >= self.depth.num_embeddings:
            raise BaselineError(
                f"this GMN was built for {self.depth.num_embeddings - 1} layers; a network has "
                f"{int(graph.node_level.max())}: build it with the specs of all networks that it shall read"
            )
        rows = self.depth(graph.node_level)
        rows = rows + torch.where(role[:, None] == _INPUT, self.inputs(place * (role == _INPUT)), 0.0)
        return rows + torch.where(role[:, None] == _OUTPUT, self.outputs(place * (role == _OUTPUT)), 0.0)


class _Layer(nn.Module):
    """One round: nodes hear their sources and their targets, then edges hear both of their ends."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.forward_messages = _Messages(width)
        self.backward_messages = _Messages(width)
        self.update_nodes = nn.Sequential(nn.Linear(3 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.ends = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width, bias=False)])
        self.update_edges = nn.Sequential(nn.SiLU(), nn.Linear(width, width))
        self.edge = nn.Linear(width, width, bias=False)
        self.norm_nodes = nn.LayerNorm(width)
        self.norm_edges = nn.LayerNorm(width)

    def forward(self, nodes: Tensor, edges: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        heard = self.forward_messages(nodes, edges, edge_index)
        answered = self.backward_messages(nodes, edges, edge_index.flip(0))
        nodes = self.norm_nodes(nodes + self.update_nodes(torch.cat([nodes, heard, answered], 1)))
        source, target = self.ends[0](nodes)[edge_index[0]], self.ends[1](nodes)[edge_index[1]]
        return nodes, self.norm_edges(edges + self.update_edges(self.edge(edges) + source + target))


class _Messages(MessagePassing):
    """``m_ij = scale(e_ij) * value(x_j) + shift(e_ij)``, collected as mean and standard deviation."""

    def __init__(self, width: int) -> None:
        super().__init__(aggr=MultiAggregation(["mean", "std"]))
        self.value = nn.Linear(width, width)
        self.scale = nn.Linear(width, width)
        self.shift = nn.Linear(width, width)
        self.mix = nn.Linear(2 * width, width)

    def forward(self, nodes: Tensor, edges: Tensor, edge_index: Tensor) -> Tensor:
        heard = self.propagate(edge_index, x=self.value(nodes), scale=self.scale(edges), shift=self.shift(edges))
        return self.mix(heard)

    def message(self, x_j: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return scale * x_j + shift


def _facts(graph: NeuralGraph, name: str) -> Tensor:
    return torch.cat([getattr(node_facts(spec), name) for spec in graph.specs]).to(graph.node_level.device)


def _mean_by_graph(nodes: Tensor, graph: NeuralGraph, chosen: Tensor) -> Tensor:
    batch = graph.batch[chosen]
    sums = nodes.new_zeros(graph.num_graphs, nodes.shape[1]).index_add(0, batch, nodes[chosen])
    return sums / torch.bincount(batch, minlength=graph.num_graphs).clamp(min=1)[:, None].to(sums)


def _align(grid: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(grid)) + grid


def _largest_grid(specs: Sequence[NetSpec]) -> tuple[int, ...]:
    rank = max(len(s.tap_grid) for s in specs)
    return tuple(max(axis) for axis in zip(*(_align(s.tap_grid, rank) for s in specs), strict=True))


def _widest(specs: Sequence[NetSpec], role: int) -> int:
    counts = [int((node_facts(s).role == role).sum()) for s in specs]
    return max(counts)
