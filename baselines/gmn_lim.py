"""Graph metanetworks on parameter graphs: every parameter is an edge.

Lim, Maron, Law, Lorraine, Lucas, "Graph Metanetworks for Processing Diverse Neural Architectures" (2023, arXiv
2312.04501), section 3: neurons and channels are nodes; a weight is an edge, a kernel entry one of several parallel
edges; biases and the two parameters of a norm are edges from one extra node per layer. Official code:
cptq/graph_metanetworks (the graphs and the models; the experiments were never published).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from baselines.errors import BaselineError
from baselines.foreign import Meta, load_strict
from baselines.gmn_lim_graph import EDGE_TYPES, NODE_TYPES, ParameterGraph, parameter_graph
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NODE_FIELDS, NetSpec
from graphnfn.stack import Stack


class _Features(nn.Module):
    """Raw numbers to features: ``sin(A v + a)`` per number, embeddings per type, all mixed by one linear map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.node_layer, self.node_place = nn.Linear(1, width), nn.Linear(1, width)
        self.node_type = nn.Embedding(NODE_TYPES, width)
        self.mix_nodes = nn.Linear(3 * width, width)
        self.weight, self.edge_layer = nn.Linear(1, width), nn.Linear(1, width)
        self.position = nn.Linear(3, width)
        self.edge_type = nn.Embedding(EDGE_TYPES, width)
        self.mix_edges = nn.Linear(4 * width, width)

    def nodes(self, rows: Tensor) -> Tensor:
        layer, place = rows[:, 0:1].to(self.weight.weight), rows[:, 1:2].to(self.weight.weight)
        parts = [torch.sin(self.node_layer(layer)), torch.sin(self.node_place(place)), self.node_type(rows[:, 2])]
        return self.mix_nodes(torch.cat(parts, 1))

    def edges(self, values: Tensor, facts: Tensor, then: nn.Linear) -> Tensor:
        """Features behind one further linear map, which is merged with the mixing one."""
        layer, position = facts[:, 0:1].to(values), facts[:, 2:].to(values)
        fixed = [torch.sin(self.edge_layer(layer)), self.edge_type(facts[:, 1]), torch.sin(self.position(position))]
        first, rest = self.mix_edges.weight.split([len(self.weight.bias), 3 * len(self.weight.bias)], 1)
        fixed = then(F.linear(torch.cat(fixed, 1), rest, self.mix_edges.bias))
        return F.linear(torch.sin(self.weight(values[..., None])), then.weight @ first) + fixed


class _Block(nn.Module):
    """One round in the manner of a diffusion transformer's block: norm, messages, SiLU, linear, residual.

    ``e' = relu(A [x_s, x_r, e])``, ``x' = relu(C [x, mean relu(B [x_s, e'])])``; the last block has edges only.
    """

    def __init__(self, width: int, last: bool, dropout: float) -> None:
        super().__init__()
        self.drop = dropout
        self.edge_norm, self.node_norm = nn.LayerNorm(width), nn.Identity() if last else nn.LayerNorm(width)
        self.edge = nn.Linear(3 * width, width)
        self.edge_out = nn.Linear(width, width)
        self.message = None if last else nn.Linear(2 * width, width)
        self.node = None if last else nn.Linear(2 * width, width)
        self.node_out = None if last else nn.Linear(width, width)

    def forward(
        self, graph: ParameterGraph, nodes: list[Tensor], edges: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        normed = [self.node_norm(x) for x in nodes]
        totals: list[Tensor | None] = [None] * len(nodes)
        out = []
        for b, e in zip(graph.bundles, edges, strict=True):
            new = self._edges(normed[b.sender], normed[b.receiver], self.edge_norm(e))
            if self.message is not None:
                heard = self._heard(normed[b.sender], new)
                known = totals[b.receiver]
                totals[b.receiver] = heard if known is None else known + heard
            out.append(e + self.edge_out(F.silu(F.dropout(new, self.drop, self.training))))
        if self.node is None or self.node_out is None:
            return nodes, out
        moved = []
        for i, (x, total) in enumerate(zip(normed, totals, strict=True)):
            mean = torch.zeros_like(x) if total is None else total / graph.degree(i)
            x = x.expand(len(mean), -1, -1)
            new = F.relu(self.node(torch.cat([x, mean], -1)))
            moved.append(nodes[i] + self.node_out(F.silu(F.dropout(new, self.drop, self.training))))
        return moved, out

    def _edges(self, sender: Tensor, receiver: Tensor, e: Tensor) -> Tensor:
        left, right, own = self.edge.weight.chunk(3, 1)
        ends = F.linear(sender, left, self.edge.bias)[:, None, :, None] + F.linear(receiver, right)[:, :, None, None]
        return F.relu(F.linear(e, own) + ends)

    def _heard(self, sender: Tensor, e: Tensor) -> Tensor:
        assert self.message is not None
        left, own = self.message.weight.chunk(2, 1)
        return F.relu(F.linear(e, own) + F.linear(sender, left, self.message.bias)[:, None, :, None]).sum((2, 3))


class _Body(nn.Module):
    """From networks to edge features."""

    def __init__(self, width: int, out: int, layers: int, undirected: bool, dropout: float) -> None:
        super().__init__()
        self.undirected = undirected
        self.features = _Features(width)
        self.embed_nodes, self.embed_edges = nn.Linear(width, width), nn.Linear(width, width)
        self.blocks = nn.ModuleList(_Block(width, i == layers - 1, dropout) for i in range(layers))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, out)

    def forward(self, stack: Stack) -> tuple[ParameterGraph, list[Tensor]]:
        if not isinstance(stack, Stack):
            raise BaselineError("expected networks made of layers; got a traced one: convert it without example_input")
        graph, device = parameter_graph(stack.spec, self.undirected), stack.nodes.device
        nodes = [self.embed_nodes(self.features.nodes(rows.to(device)))[None] for rows in graph.nodes]
        edges = [self.features.edges(b.values(stack), b.facts.to(device), self.embed_edges) for b in graph.bundles]
        for block in self.blocks:
            nodes, edges = block(graph, nodes, edges)
        return graph, [self.out(self.norm(e)) for e in edges]


class LimGMN(nn.Module):
    """A prediction per network from its parameter graph.

    ``f(P G) = f(G)`` for permutations P of hidden neurons; scales and signs change the result. Any architectures may
    be mixed.

    Args:
        specs: architectures that it shall read; nothing depends on them.
        out: numbers predicted per network (the official model puts a sigmoid behind them).
        width: features per node and edge (the paper's value is not in its code).
        layers: rounds of message passing, 4 in the official code.
        readout_layers: of the MLP behind the mean over all edges, 2 in the official code.
        undirected: every edge also leads back.
        dropout: in every round.

    Raises:
        BaselineError: in forward, PReLU slopes or a traced network.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> LimGMN([spec], out=3, width=8)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    symmetry: ClassVar[frozenset[str]] = frozenset({"permutation"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"official": {"layers": 4, "readout_layers": 2}}

    def __init__(
        self,
        specs: Sequence[NetSpec],
        out: int,
        *,
        width: int = 64,
        layers: int = 4,
        readout_layers: int = 2,
        undirected: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.body = _Body(width, width, layers, undirected, dropout)
        self.before = nn.Linear(width, width)
        hidden = [part for _ in range(readout_layers - 1) for part in (nn.Linear(width, width), nn.ReLU())]
        self.after = nn.Sequential(*hidden, nn.Linear(width, out))

    def forward(self, data: Data) -> Tensor:
        graph = NeuralGraph.of(data)
        rows = torch.cat([self._pooled(stack) for stack in graph.stacks()])
        order = torch.cat(graph.members()).argsort()
        return self.after(rows[order.to(rows.device)])

    def _pooled(self, stack: Stack) -> Tensor:
        """The mean over all edges of a network."""
        edges = self.body(stack)[1]
        total = torch.stack([F.relu(self.before(e)).sum((1, 2, 3)) for e in edges]).sum(0)
        return total / sum(e[0, ..., 0].numel() for e in edges)


class LimGMNEditor(nn.Module):
    """Edited networks: every parameter plus ``scale`` times the output on its edge; running statistics stay.

    ``f(P G) = P f(G)``. Arguments are those of :class:`LimGMN`.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> LimGMNEditor([spec], width=8)(random_graph(spec, dtype=torch.float32))
        NeuralGraph(networks=1, neurons=7, edges=12)
    """

    symmetry = LimGMN.symmetry

    def __init__(
        self,
        specs: Sequence[NetSpec],
        *,
        width: int = 64,
        layers: int = 4,
        undirected: bool = False,
        dropout: float = 0.0,
        scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.body = _Body(width, 1, layers, undirected, dropout)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, data: Data) -> NeuralGraph:
        return NeuralGraph.of(data).map_stacks(self._edited)

    def _edited(self, stack: Stack) -> Stack:
        graph, outputs = self.body(stack)
        blocks, nodes = list(stack.blocks), stack.nodes.clone()
        for b, out in zip(graph.bundles, outputs, strict=True):
            delta = self.scale * out[..., 0]
            if isinstance(b.source, int):
                blocks[b.source] = blocks[b.source] + (delta.transpose(1, 2) if b.back else delta)
            else:
                field, group = b.source
                span = stack.spec.span(group)
                nodes[:, span, NODE_FIELDS.index(field)] += delta.flatten(1)
        return Stack(stack.spec, nodes, tuple(blocks))


_NAMES = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^pre_encoder\.node_layer_encoder\.0\.", "body.features.node_layer."),
        (r"^pre_encoder\.neuron_num_encoder\.0\.", "body.features.node_place."),
        (r"^pre_encoder\.node_type_encoder\.", "body.features.node_type."),
        (r"^pre_encoder\.x_proj\.", "body.features.mix_nodes."),
        (r"^pre_encoder\.weight_encoder\.0\.", "body.features.weight."),
        (r"^pre_encoder\.edge_layer_encoder\.0\.", "body.features.edge_layer."),
        (r"^pre_encoder\.conv_pos_encoder\.0\.", "body.features.position."),
        (r"^pre_encoder\.edge_type_encoder\.", "body.features.edge_type."),
        (r"^pre_encoder\.edge_attr_proj\.", "body.features.mix_edges."),
        (r"^gnn_w_readout\.gnn\.node_embed\.", "body.embed_nodes."),
        (r"^gnn_w_readout\.gnn\.edge_embed\.", "body.embed_edges."),
        (r"^gnn_w_readout\.gnn\.final_layer\.0\.", "body.norm."),
        (r"^gnn_w_readout\.gnn\.final_layer\.1\.", "body.out."),
        (r"^gnn_w_readout\.gnn\.convs\.(\d+)\.conv\.edge_model\.edge_mlp\.0\.", r"body.blocks.\1.edge."),
        (r"^gnn_w_readout\.gnn\.convs\.(\d+)\.conv\.node_model\.node_mlp_1\.0\.", r"body.blocks.\1.message."),
        (r"^gnn_w_readout\.gnn\.convs\.(\d+)\.conv\.node_model\.node_mlp_2\.0\.", r"body.blocks.\1.node."),
        (r"^gnn_w_readout\.gnn\.convs\.(\d+)\.(node|edge)_norm\.", r"body.blocks.\1.\2_norm."),
        (r"^gnn_w_readout\.gnn\.convs\.(\d+)\.(node|edge)_mlp\.1\.", r"body.blocks.\1.\2_out."),
        (r"^gnn_w_readout\.readout\.pre_pool\.0\.", "before."),
        (r"^gnn_w_readout\.readout\.post_pool\.", "after."),
    )
)


def from_official(meta: Meta, state: Mapping[str, Tensor]) -> nn.Module:
    """A :class:`LimGMN` with the weights of an official ``GraphPredGen``; its result is before the sigmoid.

    Args:
        meta: ``constructor``, the arguments of GraphPredGen.
        state: the official state dict.

    Raises:
        BaselineError: another network than ``empnn_dit`` with ``ds`` pooling and plain encoders, or unfitting keys.
    """
    given = {"gnn_type": "empnn_dit", "num_gnn_layers": 4, "readout_layers": 2, "out_dim": 8, **meta["constructor"]}
    plain = {"gnn_type": "empnn_dit", "pool_type": "ds", "pre_encoder": True, "pre_encoder_ff": False,
             "pre_encoder_norms": False, "pre_encoder_post_activation": False}  # fmt: skip
    other = {k: given[k] for k, v in plain.items() if given.get(k, v) != v}
    if other or "hidden_dim" not in given:
        raise BaselineError(f"expected GraphPredGen with hidden_dim and {plain}; got {other or sorted(given)}")
    model = LimGMN(
        meta.get("specs", ()),
        given["out_dim"],
        width=given["hidden_dim"],
        layers=given["num_gnn_layers"],
        readout_layers=given["readout_layers"],
        undirected=given.get("undirected", False),
    )
    renamed = {}
    for name, tensor in state.items():
        for pattern, ours in _NAMES:
            name = pattern.sub(ours, name)
        renamed[name] = tensor
    model.to(next(iter(state.values()), torch.empty(0)).dtype)
    load_strict(model, renamed)
    return model
