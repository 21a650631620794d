"""Flat MLP: all parameters in a row, the plainest metanetwork.

The first baseline of Navon et al., "Equivariant Architectures for Learning in Deep Weight Spaces" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from baselines.errors import BaselineError
from baselines.standardize import Standardize
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack


class FlatMLP(nn.Module):
    """An MLP on the flattened weights.

    It has no symmetry at all. It reads one list of parameter shapes; several architectures are allowed where they
    share it (equal layers, other activations).

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        hidden: width of the two hidden layers.
        dropout: behind each hidden layer.

    Raises:
        BaselineError: the architectures have different parameter shapes.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> FlatMLP([spec], out=3)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    def __init__(self, specs: Sequence[NetSpec], out: int, *, hidden: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.shapes = _shapes(specs[0])
        for spec in specs:
            self._check(spec)
        features = specs[0].num_params
        self.standardize = Standardize(features)
        self.predict = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, out),
        )  # fmt: skip

    def forward(self, data: Data) -> Tensor:
        graph = NeuralGraph.of(data)
        rows = torch.cat([self._flat(stack) for stack in graph.stacks()])
        order = torch.cat(graph.members()).argsort().to(rows.device)
        return self.predict(self.standardize(rows[order]))

    def _flat(self, stack: Stack) -> Tensor:
        self._check(stack.spec)
        return torch.cat([tensor.flatten(1) for tensor in stack.unpack().values()], 1)

    def _check(self, spec: NetSpec) -> None:
        if _shapes(spec) != self.shapes:
            raise BaselineError(
                f"a flat MLP reads one list of parameter shapes; got {list(_shapes(spec))}, expected "
                f"{list(self.shapes)}: use one zoo of equal layers, or another baseline"
            )


def _shapes(spec: NetSpec) -> tuple[tuple[int, ...], ...]:
    return tuple(spec.params.values())
