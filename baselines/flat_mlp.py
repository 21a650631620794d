"""Flat MLP: all parameters in a row, the plainest metanetwork; with and without augmentation.

Baselines of Navon et al., "Equivariant Architectures for Learning in Deep Weight Spaces" (2023), arXiv 2301.12780, and
of Zhou et al., arXiv 2302.14040: an MLP, and an MLP trained on permuted copies. Here the copies come from the whole
group of the architecture, scales and signs included.
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
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.symmetry import act, random_element


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

    symmetry: ClassVar[frozenset[str]] = frozenset()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})

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


class AugmentedFlatMLP(FlatMLP):
    """:class:`FlatMLP` that in training sees every network under a new random element of its own symmetry group.

    ``f(g G)`` with permutations, scales and signs g in training mode, ``f(G)`` in evaluation: no exact symmetry.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        hidden: width of the two hidden layers.
        dropout: behind each hidden layer.
        decades: scales are log-uniform over so many; 0 leaves them at 1.

    Raises:
        BaselineError: the architectures have different parameter shapes.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> model = AugmentedFlatMLP([spec], out=3, dropout=0.0)
        >>> graph = random_graph(spec, networks=5, dtype=torch.float32)
        >>> torch.equal(model(graph), model(graph)), torch.equal(model.eval()(graph), model(graph))
        (False, True)
    """

    def __init__(
        self, specs: Sequence[NetSpec], out: int, *, hidden: int = 256, dropout: float = 0.1, decades: float = 1.0
    ) -> None:
        super().__init__(specs, out, hidden=hidden, dropout=dropout)
        if decades < 0:
            raise BaselineError(f"got decades={decades}: give the range of the random scales, 0 or more")
        self.decades = decades

    def _flat(self, stack: Stack) -> Tensor:
        self._check(stack.spec)
        if self.training:
            seed = int(torch.randint(2**31, ()))  # from torch's own generator, so that torch.manual_seed fixes it
            element = random_element(stack.spec, self.decades, seed, networks=stack.size)
            stack = act(element, NeuralGraph.from_stacks([stack])).stacks()[0]
        return super()._flat(stack)


def _shapes(spec: NetSpec) -> tuple[tuple[int, ...], ...]:
    return tuple(spec.params.values())
