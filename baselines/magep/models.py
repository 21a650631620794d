"""MAGEP-NFN: a network of polynomial layers that predicts from weights.

Vo et al., "Equivariant Polynomial Functional Networks" (ICML 2025), arXiv 2410.04213; sizes of the preset from the
number of parameters of the published model for the small CNN zoo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from baselines.chain_form import ChainForm, common_ends
from baselines.magep.layers import PolynomialLinear, PolynomialPool
from baselines.monomial.layers import MonomialLinear
from baselines.nfn.models import Head
from baselines.weight_space import WeightSpace, in_order, parts_like
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec

HEAD = Head(500)


class MagepNFN(nn.Module):
    """A monomial layer, polynomial layers, each with a ReLU, an invariant map, an MLP.

    ``f(g G) = f(G)`` for scales and permutations g of ReLU-like neurons. The first layer maps every kernel to one
    entry.  Hidden widths may differ between networks; depth, kernels, inputs and outputs are those of the specs.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        channels: of the first layer and of the polynomial layers.
        pooled: invariants before the MLP.
        head: the MLP.

    Raises:
        BaselineError: the specs differ in depth, kernels, inputs or outputs, or are no chains.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "relu")
        >>> MagepNFN([spec], out=3)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    symmetry: ClassVar[frozenset[str]] = frozenset({"permutation", "scale"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"small_cnn_zoo": {"channels": (20, 20, 20), "pooled": 20, "head": Head(500, sigmoid=True)}}
    )
    activation: ClassVar[Callable[[Tensor], Tensor]] = staticmethod(F.relu)

    def __init__(
        self,
        specs: Sequence[NetSpec],
        out: int,
        *,
        channels: Sequence[int] = (20, 20, 20),
        pooled: int = 20,
        head: Head = HEAD,
    ) -> None:
        super().__init__()
        self.form = common_ends(specs)
        dense = dense_form(self.form)
        pairs = zip(channels, channels[1:], strict=False)
        first = MonomialLinear(self.form, 1, channels[0], onto=dense)
        self.layers = nn.ModuleList([first, *(PolynomialLinear(dense, a, b) for a, b in pairs)])
        self.pool = PolynomialPool(dense, channels[-1], pooled)
        self.head = head.build(pooled, out)

    def forward(self, data: Data) -> Tensor:
        parts = parts_like(NeuralGraph.of(data), self.form)
        return self.head(in_order(parts, [self._invariants(p.features.channels_last()) for p in parts]))

    def _invariants(self, space: WeightSpace) -> Tensor:
        for layer in self.layers:
            space = layer(space).map(self.activation)
        return self.pool(space)


class SignMagepNFN(MagepNFN):
    """:class:`MagepNFN` with tanh, for signs and permutations of neurons with odd activations."""

    symmetry = frozenset({"permutation", "sign"})
    activation = staticmethod(torch.tanh)


def dense_form(form: ChainForm) -> ChainForm:
    """The form with all kernels of one entry.

    Example:
        >>> dense_form(ChainForm((1, 8, 2), ((3, 3), ())))
        ChainForm(widths=(1, 8, 2), taps=((), ()))
    """
    return ChainForm(form.widths, ((),) * form.depth)
