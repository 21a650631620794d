"""From weights to features of neurons and edges: by a GNN, or by a transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from baselines.neural_graphs.features import GraphFeatures, Inputs
from baselines.neural_graphs.gnn import GNN, BatchWideNorm, Edges, NetworkNorm, mean_log_degree
from baselines.neural_graphs.transformer import RTLayer, Sizes
from baselines.weight_space import WeightSpace, chain_form
from graphnfn.spec import NetSpec


class GNNBody(nn.Module):
    """Graph features, then PNA: neurons ``[B, n, width]`` and edges per layer ``[B, n_out, n_in, width]``."""

    norm: ClassVar[type[NetworkNorm]] = NetworkNorm

    def __init__(self, specs: Sequence[NetSpec], *, width: int, layers: int, inputs: Inputs) -> None:
        super().__init__()
        forms = list(dict.fromkeys(map(chain_form, specs)))
        self.widths, self.outputs = (width, width), forms[0].widths[-1]
        self.features = GraphFeatures(forms, node_width=width, edge_width=width, inputs=inputs)
        self.gnn = GNN(width, layers, mean_log_degree([f.widths for f in forms]), self.norm)

    def forward(self, space: WeightSpace, spec: NetSpec) -> tuple[Tensor, list[Tensor]]:
        x, forth, back = self.features(space, spec)
        x, edges = self.gnn(x, Edges(forth, back), [group.size for group in spec.groups])
        return x, edges.forth


class PublishedGNNBody(GNNBody):
    """With the published norm over the whole batch."""

    norm = BatchWideNorm


class TransformerBody(nn.Module):
    """Graph features, then layers of the relational transformer between all pairs of neurons."""

    def __init__(
        self,
        specs: Sequence[NetSpec],
        *,
        sizes: Sizes,
        layers: int,
        dropout: float,
        last_edges: bool,
        inputs: Inputs,
    ) -> None:
        super().__init__()
        forms = list(dict.fromkeys(map(chain_form, specs)))
        self.widths, self.outputs = (sizes.node, sizes.edge), forms[0].widths[-1]
        self.features = GraphFeatures(forms, node_width=sizes.node, edge_width=sizes.edge, inputs=inputs)
        self.layers = nn.ModuleList(RTLayer(sizes, dropout, edges=last_edges or i < layers - 1) for i in range(layers))

    def forward(self, space: WeightSpace, spec: NetSpec) -> tuple[Tensor, list[Tensor]]:
        x, forth, back = self.features(space, spec)
        places = [(spec.span(i), spec.span(i + 1)) for i in range(len(forth))]
        e = self.features.absent().expand(len(x), x.shape[1], x.shape[1], -1).clone()
        for (source, target), new in zip(places, forth, strict=True):
            e[:, source, target] = new.transpose(1, 2)
        for (source, target), new in zip(places, back, strict=bool(back)):
            e[:, target, source] = new
        for layer in self.layers:
            x, e = layer(x, e)
        return x, [e[:, source, target].transpose(1, 2) for source, target in places]
