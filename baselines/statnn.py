"""StatNN: an MLP on statistics of every parameter tensor.

Unterthiner, Keysers, Gelly, Bousquet, Tolstikhin, "Predicting Neural Network Accuracy from Weights" (2020),
arXiv 2002.11448; the MLP head is the one of Zhou et al., "Permutation Equivariant Neural Functionals" (2023), narrower
by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from baselines.errors import BaselineError
from baselines.standardize import Standardize
from graphnfn.graph import NeuralGraph
from graphnfn.nn.quantiles import QUANTILES, quantiles
from graphnfn.spec import NODE_FIELDS, NetSpec
from graphnfn.stack import Stack

NUM_STATISTICS = 2 + len(QUANTILES)

Slot = tuple[str, int]
"""A tensor's place: "weight" and the block's number, or a node field and the group's number."""


def slots(spec: NetSpec) -> tuple[Slot, ...]:
    """The places of a spec's parameter tensors.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> slots(mlp_spec([2, 4, 1], "relu"))
        (('weight', 0), ('weight', 1), ('bias', 1), ('bias', 2))
    """
    blocks = [("weight", b) for b in range(len(spec.blocks))]
    return (*blocks, *((p.field, spec.position[p.group]) for p in spec.node_params))


def statistics(values: Tensor) -> Tensor:
    """Mean, variance and five quantiles of each row, ``[B, n] -> [B, 7]``."""
    var, mean = torch.var_mean(values, 1, correction=0)
    return torch.cat([torch.stack([mean, var], 1), quantiles(values)], 1)


class StatNN(nn.Module):
    """Predict from mean, variance and quantiles of each tensor.

    It is invariant to permutations of neurons, f(P G) = f(G), because statistics forget the order; it is not
    invariant to scales and signs. Networks of different depth share the slots of equal position; a slot that a
    network does not have is filled with zeros.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        hidden: width of the two hidden layers (1,000 in the NFN paper).
        dropout: behind each hidden layer.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> StatNN([spec], out=3)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    symmetry: ClassVar[frozenset[str]] = frozenset({"permutation"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})

    def __init__(self, specs: Sequence[NetSpec], out: int, *, hidden: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.columns = {slot: i for i, slot in enumerate(sorted({s for spec in specs for s in slots(spec)}))}
        features = NUM_STATISTICS * len(self.columns)
        self.standardize = Standardize(features)
        self.predict = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, out),
        )  # fmt: skip

    def forward(self, data: Data) -> Tensor:
        graph = NeuralGraph.of(data)
        rows = torch.cat([self._features(stack) for stack in graph.stacks()])
        order = torch.cat(graph.members()).argsort().to(rows.device)
        return self.predict(self.standardize(rows[order]))

    def _features(self, stack: Stack) -> Tensor:
        features = stack.nodes.new_zeros(stack.size, len(self.columns), NUM_STATISTICS)
        for kind, place in slots(stack.spec):
            if (kind, place) not in self.columns:
                raise BaselineError(
                    f"StatNN was built for {len(self.columns)} parameter tensors; a network has one more, the {kind} "
                    f"at position {place}: build it with the specs of all networks that it shall read"
                )
            if kind == "weight":
                values = stack.blocks[place].flatten(1)
            else:
                values = stack.group(place)[..., NODE_FIELDS.index(kind)]
            features[:, self.columns[kind, place]] = statistics(values)
        return features.flatten(1)
