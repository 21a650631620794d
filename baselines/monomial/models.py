"""Monomial-NFN: networks that predict from weights, or edit them.

Tran et al., "Monomial Matrix Group Equivariant Neural Functional Networks" (2024), arXiv 2409.11697; sizes of the
presets as in the configurations of MathematicalAI-NUS/Monomial-NFN at 43aa468.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from baselines.chain_form import ChainForm, common_ends
from baselines.monomial.layers import MonomialLinear, MonomialPool, MonomialStack, SignLinear
from baselines.nfn.encodings import Encoding, TensorScale
from baselines.nfn.layers import HNPLinear, HNPPool, NPLinear
from baselines.nfn.models import Features, Head, NPEditor
from baselines.weight_space import WeightSpace, add, in_order, parts_like
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec

_SIGNS = frozenset({"permutation", "sign"})
_ZOO = MappingProxyType({"small_cnn_zoo": {"channels": (16, 16, 5), "head": Head(200, sigmoid=True)}})
_PLACES = Encoding(128, 3.0, 3, 3.0)
NARROW, WIDE = Head(200), Head(1000, dropout=0.5)
SINES, _MNIST = Encoding(128, 10.0), Encoding(128, 3.0)


class MonomialNFN(nn.Module):
    """Monomial layers with ReLUs, the pool of unit vectors, an MLP: ``f(g G) = f(G)`` for scales and permutations g.

    For networks of ReLU-like neurons. It is invariant to much more than that: to rows and columns permuted matrix by
    matrix, and to a positive factor on every single hidden kernel, which change what a network computes.

    Hidden widths may differ between networks; depth, kernels, inputs and outputs are those of the specs.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        channels: of the layers.
        head: the MLP.

    Raises:
        BaselineError: the specs differ in depth, kernels, inputs or outputs, or are no chains.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "relu")
        >>> MonomialNFN([spec], out=3)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    symmetry: ClassVar[frozenset[str]] = frozenset({"permutation", "scale"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = _ZOO

    def __init__(
        self, specs: Sequence[NetSpec], out: int, *, channels: Sequence[int] = (16, 16, 5), head: Head = NARROW
    ) -> None:
        super().__init__()
        self.form = common_ends(specs)
        self.layers = self.stack(self.form, (1, *channels))
        self.pool = MonomialPool(self.form, channels[-1])
        self.head = head.build(self.pool.features * channels[-1], out)

    @staticmethod
    def stack(form: ChainForm, channels: Sequence[int]) -> MonomialStack:
        """The equivariant layers."""
        return MonomialStack(MonomialLinear, form, channels, F.relu, F.relu)

    def forward(self, data: Data) -> Tensor:
        parts = parts_like(NeuralGraph.of(data), self.form)
        pooled = [self.pool(self.layers(p.features.channels_last())).flatten(1) for p in parts]
        return self.head(in_order(parts, pooled))


class SignMonomialNFN(MonomialNFN):
    """:class:`MonomialNFN` for odd activations, with tanh between the layers and absolute values behind them.

    ``f(g G) = f(G)`` for signs and permutations g. The pool sees directions of absolute values, so how large the
    weights of one tensor are against each other is lost.
    """

    symmetry = _SIGNS

    @staticmethod
    def stack(form: ChainForm, channels: Sequence[int]) -> MonomialStack:
        return MonomialStack(MonomialLinear, form, channels, torch.tanh, torch.abs)


class HNPMonomialSiren(nn.Module):
    """A sign-invariant view of each weight, then an NFN: ``f(g G) = f(G)`` for signs and permutations g.

    Three sign layers with sines lead to one channel, whose absolute value replaces the weight; Fourier features,
    NF-layers, pooling and an MLP follow as in :mod:`baselines.nfn`. Hidden weights are seen without their signs.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        width: channels of the sign layers.
        channels: of the NF-layers.
        encoding: of absolute values and places.
        head: the MLP.
        feature_dropout: of channels behind every NF-layer.

    Raises:
        BaselineError: the specs differ in depth, kernels, inputs or outputs, or are no chains.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "sin")
        >>> graph = random_graph(spec, networks=5, dtype=torch.float32)
        >>> HNPMonomialSiren([spec], out=3, channels=(8, 8))(graph).shape
        torch.Size([5, 3])
    """

    symmetry: ClassVar[frozenset[str]] = _SIGNS
    layer: ClassVar[type[nn.Module]] = HNPLinear
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "siren_mnist": {"width": 64, "encoding": _MNIST, "head": Head(1000, dropout=0.1), "feature_dropout": 0.1},
            "siren_fashion": {"width": 64, "encoding": SINES, "head": Head(500, dropout=0.5)},
        }
    )

    def __init__(
        self,
        specs: Sequence[NetSpec],
        out: int,
        *,
        width: int = 16,
        channels: Sequence[int] = (256, 256, 256),
        encoding: Encoding = SINES,
        head: Head = WIDE,
        feature_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.form = common_ends(specs)
        self.front = MonomialStack(SignLinear, self.form, (1, width, width, 1), torch.sin, torch.abs)
        self.features = Features(self.layer, self.form, channels, encoding, feature_dropout)
        self.pool = self.pooling(self.form, channels[-1])
        self.head = head.build(self.pool.features * channels[-1], out)

    @staticmethod
    def pooling(form: ChainForm, channels: int) -> HNPPool | MonomialPool:
        """What ends the NF-layers."""
        return HNPPool(form)

    def forward(self, data: Data) -> Tensor:
        parts = parts_like(NeuralGraph.of(data), self.form)
        features = [self.features(self.front(p.features.channels_last())) for p in parts]
        return self.head(in_order(parts, [self.pool(f).flatten(1) for f in features]))


class UnitMonomialSiren(HNPMonomialSiren):
    """:class:`HNPMonomialSiren` with the pool of unit vectors, which no configuration of the published code uses."""

    presets = MappingProxyType({})

    @staticmethod
    def pooling(form: ChainForm, channels: int) -> HNPPool | MonomialPool:
        return MonomialPool(form, channels)


class NPMonomialSiren(HNPMonomialSiren):
    """:class:`HNPMonomialSiren` of NP layers; give it an encoding of places (CIFAR-10 in the published code)."""

    layer = NPLinear
    presets = MappingProxyType({"siren_cifar": {"width": 16, "encoding": Encoding(128, 10.0, 6, 10.0), "head": WIDE}})


class MonomialEditorAsPublished(NPEditor):
    """The published editor: two sign layers without an activation, then an NP editor.

    ``G -> G + s * NFN(front(G))``. It is not equivariant to signs, as no NP editor is: its Fourier features and ReLUs
    read signed numbers. :class:`MonomialEditor` is.

    Args:
        specs: architectures that it shall read.
        width: channels between the sign layers.
        channels: of the hidden NF-layers.
        encoding: of weights and places.
        scale: first value of the factors s.

    Raises:
        BaselineError: the specs differ in depth, kernels, inputs or outputs, or are no chains.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"siren": {}})

    def __init__(
        self,
        specs: Sequence[NetSpec],
        *,
        width: int = 16,
        channels: Sequence[int] = (128, 128, 128),
        encoding: Encoding = _PLACES,
        scale: float = 0.01,
    ) -> None:
        super().__init__(specs, channels=channels, encoding=encoding, scale=scale)
        self.front = MonomialStack(SignLinear, self.form, (1, width, 1), nn.Identity(), nn.Identity())

    def delta(self, space: WeightSpace) -> WeightSpace:
        return super().delta(self.front(space.channels_last()).channels_first(self.form))


class MonomialEditor(nn.Module):
    """An editor that is equivariant to signs: odd channels times gates that signs leave as they are.

    ``G -> G + s * mean_c(o_c(G) * e_c(|a(G)|))`` with sign layers o and a, and an NFN e as in the published editor.
    Then ``f(g G) = g f(G)`` for signs and permutations g: o changes as G does, |a| is moved by the permutation only,
    and NP layers commute with it.

    Args:
        specs: architectures that it shall read.
        width: channels c.
        channels: of the hidden NF-layers.
        encoding: of absolute values and places.
        scale: first value of the factors s, one per tensor.

    Raises:
        BaselineError: the specs differ in depth, kernels, inputs or outputs, or are no chains.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "sin")
        >>> MonomialEditor([spec], channels=(8,))(random_graph(spec, networks=5, dtype=torch.float32))
        NeuralGraph(networks=5, neurons=55, edges=140)
    """

    symmetry: ClassVar[frozenset[str]] = _SIGNS
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"siren": {}})

    def __init__(
        self,
        specs: Sequence[NetSpec],
        *,
        width: int = 16,
        channels: Sequence[int] = (128, 128, 128),
        encoding: Encoding = _PLACES,
        scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.form = common_ends(specs)
        self.width = width
        self.odd = SignLinear(self.form, 1, width)
        self.amount = SignLinear(self.form, width, 1)
        self.features = Features(NPLinear, self.form, channels, encoding)
        self.gates = NPLinear(self.form, channels[-1], width)
        self.scale = TensorScale(self.form.depth, scale)

    def forward(self, data: Data) -> NeuralGraph:
        graph = NeuralGraph.of(data)
        parts = parts_like(graph, self.form)
        return add(graph, parts, [self.delta(part.features) for part in parts])

    def delta(self, space: WeightSpace) -> WeightSpace:
        """What is added to weights with one channel, ``[B, 1, n_out, n_in, *taps]``."""
        odd = self.odd(space.channels_last())
        gates = self.gates(self.features(self.amount(odd).map(torch.abs)))
        gated = odd.zip(gates, lambda o, e: (o * e).unflatten(-1, (self.width, -1)).mean(-2))
        return self.scale(gated).channels_first(self.form)
