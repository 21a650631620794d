"""DWSNets: networks of DWS layers that predict from weights, or edit them.

Navon et al., "Equivariant Architectures for Learning in Deep Weight Spaces" (2023), arXiv 2301.12780; sizes as in the
configurations of AvivNavon/DWSNets at 2001d52.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from baselines.dws.layers import POOLS, DeepSet, DWSLayer, DWSLayerAsPublished, Pooled, SetAttention, SetMap, Tensors
from baselines.normalize import NormalizeTensors
from baselines.weight_space import WeightSpace, add, common_ends, in_order, parts_like
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec


class TensorBatchNorm(nn.Module):
    """Batch norm of every tensor's channels, over networks and entries.

    Args:
        tensors: how many.
        channels: of each.
    """

    def __init__(self, tensors: int, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(tensors))
        self.channels = channels

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [n(x.reshape(-1, self.channels)).view(x.shape) for n, x in zip(self.norms, features, strict=True)]


class _DWSNet(nn.Module):
    """DWS layers with ReLUs, and batch norms if wanted, between them."""

    symmetry: ClassVar[frozenset[str]] = frozenset({"permutation"})
    layer: ClassVar[type[DWSLayer]] = DWSLayer

    def _build(
        self, specs: Sequence[NetSpec], channels: Sequence[int], pool: str, heads: int, batch_norm: bool, scale: float
    ) -> None:
        self.form = common_ends(specs)
        self.tensors = Tensors(self.form)
        slots, count = self.tensors.slots, len(channels) - 1
        sets = [self.set_map(pool, heads if i < count - 1 else 1) for i in range(count)]
        self.layers = nn.ModuleList(
            self.layer(slots, channels[i : i + 2], pool=pool, set_map=sets[i], scale=scale) for i in range(count)
        )
        norms = (TensorBatchNorm(len(slots), c) if batch_norm else nn.Identity() for c in channels[1:-1])
        self.norms = nn.ModuleList(norms)

    @staticmethod
    def set_map(pool: str, heads: int) -> SetMap:
        """What makes the maps of sets."""
        return partial(SetAttention, heads=heads)

    def trunk(self, space: WeightSpace) -> list[Tensor]:
        """Features of every tensor from weights with channels last."""
        features = self.tensors.read(space)
        for layer, norm in zip(self.layers, self.norms, strict=False):
            features = [F.relu(x) for x in norm(layer(features))]
        return self.layers[-1](features)


class DWSNet(_DWSNet):
    """DWS layers with attention, pooling over hidden neurons, a linear map: ``f(P G) = f(G)`` for permutations P.

    Networks are MLPs; hidden widths may differ, depth, inputs and outputs are those of the specs.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        width: channels.
        layers: DWS layers behind the first one.
        pool: max, mean or sum, in blocks and in the end.
        heads: of attention, 1 in the last layer.
        batch_norm: behind all DWS layers but the last.
        normalize: standardise the weights first.

    Raises:
        BaselineError: the specs differ in depth, inputs or outputs, or are no MLPs.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "sin")
        >>> DWSNet([spec], out=3, width=8)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"siren_mnist": {"normalize": True}})

    def __init__(
        self,
        specs: Sequence[NetSpec],
        out: int,
        *,
        width: int = 32,
        layers: int = 4,
        pool: str = "max",
        heads: int = 8,
        batch_norm: bool = True,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self._build(specs, [1] + [width] * (layers + 1), pool, heads, batch_norm, 1.0)
        self.normalize = NormalizeTensors(self.form) if normalize else nn.Identity()
        self.pool = pool
        self.predict = nn.Linear(width * sum(s.fixed for s in self.tensors.slots), out)

    def forward(self, data: Data) -> Tensor:
        parts = parts_like(NeuralGraph.of(data), self.form)
        return self.predict(in_order(parts, [self._pooled(p.features) for p in parts]))

    def _pooled(self, space: WeightSpace) -> Tensor:
        """Every tensor without its hidden neurons: inner weights, first and last weights, biases."""
        features = self.trunk(self.normalize(space.channels_last()))
        rows = [
            Pooled(s.hidden, F.relu(x), POOLS[self.pool]).onto(())
            for s, x in zip(self.tensors.slots, features, strict=True)
        ]
        last = self.form.depth - 1
        return torch.cat([*rows[1:last], rows[0], *rows[last:]], 1)


class DeepSetsDWSNet(DWSNet):
    """:class:`DWSNet` with DeepSets in place of attention.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        width: channels.
        layers: DWS layers behind the first one.
        pool: max, mean or sum, in blocks, DeepSets and in the end.
        batch_norm: behind all DWS layers but the last.
        normalize: standardise the weights first.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "sin")
        >>> DeepSetsDWSNet([spec], out=3, width=8)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        specs: Sequence[NetSpec],
        out: int,
        *,
        width: int = 32,
        layers: int = 4,
        pool: str = "max",
        batch_norm: bool = True,
        normalize: bool = False,
    ) -> None:
        settings = {"width": width, "layers": layers, "pool": pool, "batch_norm": batch_norm, "normalize": normalize}
        super().__init__(specs, out, heads=1, **settings)

    @staticmethod
    def set_map(pool: str, heads: int) -> SetMap:
        return partial(DeepSet, pool=POOLS[pool])


class DWSEditor(_DWSNet):
    """DWS layers with attention down to one channel: ``G -> G + DWS(G)``, equivariant under permutations.

    Args:
        specs: architectures that it shall read.
        width: channels.
        layers: DWS layers behind the first one.
        pool: max, mean or sum.
        heads: of attention, 1 in the last layer.
        batch_norm: behind all DWS layers but the last.
        scale: factor on the initial weights of all layers, so that edits start small.

    Raises:
        BaselineError: the specs differ in depth, inputs or outputs, or are no MLPs.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "sin")
        >>> DWSEditor([spec], width=8)(random_graph(spec, networks=5, dtype=torch.float32))
        NeuralGraph(networks=5, neurons=55, edges=140)
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"official": {}})

    def __init__(
        self,
        specs: Sequence[NetSpec],
        *,
        width: int = 32,
        layers: int = 2,
        pool: str = "max",
        heads: int = 8,
        batch_norm: bool = False,
        scale: float = 1e-4,
    ) -> None:
        super().__init__()
        self._build(specs, [1] + [width] * layers + [1], pool, heads, batch_norm, scale)

    def forward(self, data: Data) -> NeuralGraph:
        graph = NeuralGraph.of(data)
        parts = parts_like(graph, self.form)
        return add(graph, parts, [self.delta(part.features) for part in parts])

    def delta(self, space: WeightSpace) -> WeightSpace:
        """What is added to weights with one channel, ``[B, 1, n_out, n_in]``."""
        return self.tensors.write(self.trunk(space.channels_last())).channels_first(self.form)


class DeepSetsDWSEditor(DWSEditor):
    """:class:`DWSEditor` with DeepSets in place of attention.

    Args:
        specs: architectures that it shall read.
        width: channels.
        layers: DWS layers behind the first one.
        pool: max, mean or sum, in blocks and DeepSets.
        batch_norm: behind all DWS layers but the last.
        scale: factor on the initial weights of all layers, so that edits start small.
    """

    def __init__(
        self,
        specs: Sequence[NetSpec],
        *,
        width: int = 32,
        layers: int = 2,
        pool: str = "max",
        batch_norm: bool = False,
        scale: float = 1e-4,
    ) -> None:
        super().__init__(specs, width=width, layers=layers, pool=pool, heads=1, batch_norm=batch_norm, scale=scale)

    @staticmethod
    def set_map(pool: str, heads: int) -> SetMap:
        return partial(DeepSet, pool=POOLS[pool])


class DWSNetAsPublished(DWSNet):
    """:class:`DWSNet` with the published layer, see :class:`DWSLayerAsPublished`."""

    layer = DWSLayerAsPublished


class DeepSetsDWSNetAsPublished(DeepSetsDWSNet):
    """:class:`DeepSetsDWSNet` with the published layer."""

    layer = DWSLayerAsPublished


class DWSEditorAsPublished(DWSEditor):
    """:class:`DWSEditor` with the published layer."""

    layer = DWSLayerAsPublished


class DeepSetsDWSEditorAsPublished(DeepSetsDWSEditor):
    """:class:`DeepSetsDWSEditor` with the published layer."""

    layer = DWSLayerAsPublished
