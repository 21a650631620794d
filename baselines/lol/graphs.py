"""LoL's models as baselines: they read the factor pairs of converted adapters out of a batch of NeuralGraphs.

Putterman et al., "Learning on LoRAs" (2024), arXiv 2410.04207.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from baselines.errors import BaselineError
from baselines.lol.glnet import GLNet, PooledGLNet
from baselines.lol.pairs import LoraModel, Pairs
from baselines.lol.plain import AlignedLoraMLP, DenseLoraMLP, FlatLoraMLP, SingularValueMLP
from graphnfn.graph import NeuralGraph
from graphnfn.law import Leg
from graphnfn.spec import NetSpec
from graphnfn.traced import TracedSpec
from graphnfn.traced_stack import TracedStack


@dataclass(frozen=True)
class FactorPair:
    """Two tensors with any invertible matrix between them.

    Args:
        first: A, ``[r, d_in]`` or a kernel ``[r, channels, *taps]``.
        second: B, ``[d_out, r]``, perhaps with further axes of size 1.
        sizes: ``(d_out, d_in)``, taps counted as inputs.
        rank: r.
    """

    first: str
    second: str
    sizes: tuple[int, int]
    rank: int

    def read(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """``A [B, r, d_in]`` and ``B [B, d_out, r]`` of stacked tensors."""
        return tensors[self.first].flatten(2), tensors[self.second].flatten(2)


@lru_cache(maxsize=256)
def factor_pairs(spec: NetSpec) -> tuple[FactorPair, ...]:
    """The pairs ``(A, B)`` of a traced network for which ``(R A, B R^-1)`` computes the same, with any invertible R.

    Biases of adapters, their factor alpha / r, and whatever else a network has are no part of them.

    Raises:
        BaselineError: there are none.
    """
    if not isinstance(spec, TracedSpec):
        raise BaselineError(
            "expected adapters, such as a PEFT folder read by converters.convert; got a chain of layers: use another "
            "baseline (baselines.names() without baselines.adapter_names()) for such networks"
        )
    found = [_pair(spec, v.group, v.id) for v in spec.law.gauges if v.linear]
    pairs = tuple(sorted((p for p in found if p is not None), key=lambda p: p.first))
    if not pairs:
        kinds = [v.kind for v in spec.law.gauges]
        raise BaselineError(
            "expected pairs of matrices with any invertible matrix between them, as LoRA adapters have; got a network "
            f"whose {len(kinds)} gauges ({', '.join(sorted(set(kinds))) or 'none'}) belong to no such pair: use "
            "graphnfn.GraphMetaNet for it"
        )
    return pairs


def _pair(spec: TracedSpec, group: str, gauge: str) -> FactorPair | None:
    """The pair around a group of kind GL; None where more than two tensors meet there, or parts of tensors."""
    legs = sorted((leg for leg in spec.law.legs if leg.group == group), key=lambda leg: leg.axis)
    shapes, rank = spec.params, spec.law.by_id[group].size
    if [leg.axis for leg in legs] != [0, 1] or any(_part(leg, shapes[leg.param], rank) for leg in legs):
        return None
    first, second = legs
    if (dict(first.scale).get(gauge), dict(second.scale).get(gauge)) != (1.0, -1.0):
        return None
    b = shapes[second.param]
    if any(size != 1 for size in b[2:]):
        return None
    size = torch.Size(shapes[first.param][1:]).numel()
    return FactorPair(first.param, second.param, (b[0], size), rank)


def _part(leg: Leg, shape: tuple[int, ...], rank: int) -> bool:
    return bool(leg.where or leg.places) or leg.starts != (0,) or shape[leg.axis] != rank or len(shape) < 2


class AdapterModel(nn.Module):
    """What LoL's models have in common as baselines: ``f(graphs) = model({A's name: (A, B)})``.

    Adapters of one batch may differ in rank, and in what else their networks contain; names and sizes of the adapted
    layers are those of the specs.

    Raises:
        BaselineError: the specs have no factor pairs, or differ in the layers that are adapted.
    """

    symmetry: ClassVar[frozenset[str]] = frozenset()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    model: LoraModel

    def __init__(self, specs: Sequence[NetSpec]) -> None:
        super().__init__()
        layers = [{p.first: p.sizes for p in factor_pairs(spec)} for spec in specs]
        for other in layers:
            if other != layers[0]:
                raise BaselineError(
                    f"expected adapters of the same layers; got (d_out, d_in) {layers[0]} and {other}: one model for "
                    "each kind of network"
                )
        self.shapes = layers[0]
        self.rank = max(p.rank for spec in specs for p in factor_pairs(spec))

    def forward(self, data: Data) -> Tensor:
        """Predictions."""
        graph = NeuralGraph.of(data)
        rows = [self.model(self._pairs(stack)) for stack in graph.stacks()]
        if len(rows) == 1:
            return rows[0]
        order = torch.cat(graph.members()).argsort()
        return torch.cat(rows)[order.to(rows[0].device)]

    @staticmethod
    def _pairs(stack: Any) -> Pairs:
        pairs = factor_pairs(stack.spec)
        assert isinstance(stack, TracedStack)
        return {p.first: p.read(stack.tensors) for p in pairs}


class LoL(AdapterModel):
    """GL-net on the adapters of a batch: :class:`~baselines.lol.glnet.GLNet`, or the pooled one.

    Args:
        specs: of adapters, equal layers; ranks may differ.
        out: numbers predicted per adapter.
        width: rows behind the equivariant maps.
        layers: equivariant maps.
        hidden: width of the MLP.
        pooled: keep the mean of each layer's products only.

    Raises:
        BaselineError: the specs have no factor pairs, or differ in the layers that are adapted.
    """

    symmetry = frozenset({"GL"})
    presets = MappingProxyType({**GLNet.presets, "clip": {**PooledGLNet.presets["clip"], "pooled": True}})

    def __init__(
        self,
        specs: Sequence[NetSpec],
        out: int,
        *,
        width: int = 64,
        layers: int = 2,
        hidden: int = 128,
        pooled: bool = False,
    ) -> None:
        super().__init__(specs)
        kind = PooledGLNet if pooled else GLNet
        self.model = kind(self.shapes, out, width=width, layers=layers, hidden=hidden)


class FlatLoL(AdapterModel):
    """:class:`~baselines.lol.plain.FlatLoraMLP` up to the largest rank of the specs; arguments as in :class:`LoL`."""

    def __init__(self, specs: Sequence[NetSpec], out: int, *, hidden: int = 128) -> None:
        super().__init__(specs)
        self.model = FlatLoraMLP(self.shapes, out, rank=self.rank, hidden=hidden)


class AlignedLoL(AdapterModel):
    """:class:`~baselines.lol.plain.AlignedLoraMLP` whose template is the first adapter that it is trained on.

    Until then the template is random. Arguments as in :class:`LoL`.
    """

    symmetry = frozenset({"O"})
    model: AlignedLoraMLP
    template_taken: Tensor

    def __init__(self, specs: Sequence[NetSpec], out: int, *, hidden: int = 128) -> None:
        super().__init__(specs)
        sizes = self.shapes.items()
        template = {n: (torch.randn(1, self.rank, i), torch.randn(1, o, self.rank)) for n, (o, i) in sizes}
        self.model = AlignedLoraMLP(self.shapes, out, template=template, hidden=hidden)
        self.register_buffer("template_taken", torch.zeros((), dtype=torch.bool))

    def forward(self, data: Data) -> Tensor:
        """Predictions."""
        graph = NeuralGraph.of(data)
        if self.training and not self.template_taken:
            first = self._pairs(graph.stacks()[0])
            self.model.set_template({name: (a[:1].detach(), b[:1].detach()) for name, (a, b) in first.items()})
            self.template_taken.fill_(True)
        return super().forward(graph)


class SingularValueLoL(AdapterModel):
    """:class:`~baselines.lol.plain.SingularValueMLP` of the largest rank of the specs; arguments as in :class:`LoL`."""

    symmetry = frozenset({"GL"})

    def __init__(self, specs: Sequence[NetSpec], out: int, *, hidden: int = 128) -> None:
        super().__init__(specs)
        self.model = SingularValueMLP(self.shapes, out, rank=self.rank, hidden=hidden)


class DenseLoL(AdapterModel):
    """:class:`~baselines.lol.plain.DenseLoraMLP`; arguments as in :class:`LoL`."""

    symmetry = frozenset({"GL"})

    def __init__(self, specs: Sequence[NetSpec], out: int, *, hidden: int = 16) -> None:
        super().__init__(specs)
        self.model = DenseLoraMLP(self.shapes, out, hidden=hidden)
