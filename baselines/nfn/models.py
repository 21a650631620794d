"""NFN: networks of NF-layers that predict from weights, or edit them.

Zhou, Yang, Burns, Cardace, Jiang, Sokota, Kolter, Finn, "Permutation Equivariant Neural Functionals" (2023),
arXiv 2302.14040; sizes of the presets as in the configurations of AllanYangZhou/nfn at ce78322.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from baselines.nfn.encodings import Encoding, NormalizeEntries, TensorScale
from baselines.nfn.layers import HNPLinear, HNPPool, NPLinear, PositionedNPLinear
from baselines.normalize import NormalizeTensors
from baselines.weight_space import ChainForm, WeightSpace, add, common_ends, in_order, parts_like
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec

_PERMUTATION = frozenset({"permutation"})


RAW = Encoding()
STYLE = Encoding(fourier=128, fourier_scale=3.0)


@dataclass(frozen=True)
class Head:
    """The MLP behind the pooling: two hidden layers.

    Args:
        width: of both.
        dropout: behind each.
        sigmoid: whether results are squashed to (0, 1), as for accuracies.
    """

    width: int = 1000
    dropout: float = 0.0
    sigmoid: bool = False

    def build(self, features: int, out: int) -> nn.Sequential:
        """The MLP as a module."""
        layers: list[nn.Module] = [nn.Linear(features, self.width), nn.ReLU(), nn.Dropout(self.dropout)]
        layers += [nn.Linear(self.width, self.width), nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(self.width, out)]
        return nn.Sequential(*layers, *([nn.Sigmoid()] if self.sigmoid else []))


WIDE = Head()


class Features(nn.Module):
    """Encodings, then NF-layers, each with a ReLU and dropout of whole channels behind it."""

    def __init__(
        self, layer: type[nn.Module], form: ChainForm, channels: Sequence[int], encoding: Encoding, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.encode = encoding.build(form)
        sizes = [encoding.channels, *channels]
        self.layers = nn.ModuleList(layer(form, a, b) for a, b in zip(sizes, sizes[1:], strict=False))

    def forward(self, space: WeightSpace) -> WeightSpace:
        space = self.encode(space)
        for layer in self.layers:
            space = layer(space).map(F.relu)
            if self.training and self.dropout:
                space = WeightSpace(tuple(map(self._drop, space.weights)), tuple(map(self._drop, space.biases)))
        return space

    def _drop(self, x: Tensor) -> Tensor:
        """Weights lose whole channels, biases single entries, as published."""
        kept = torch.ones_like(x) if x.ndim == 3 else x.new_ones(len(x), 1, 1, x.shape[-1])
        return x * F.dropout(kept, self.dropout)


class InvariantNFN(nn.Module):
    """NF-layers, HNP pooling, MLP: ``f(P G) = f(G)`` for permutations P of hidden neurons.

    Hidden widths may differ between networks; depth, kernels, inputs and outputs are those of the specs. Choose one
    of the subclasses by its layer.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        channels: of the NF-layers.
        encoding: of weights and places.
        head: the MLP.
        feature_dropout: of channels behind every NF-layer.
        normalize: standardise the weights first.

    Raises:
        BaselineError: the specs differ in depth, kernels, inputs or outputs, or are no chains.

    Shape: ``[networks, out]``.
    """

    symmetry: ClassVar[frozenset[str]] = _PERMUTATION
    layer: ClassVar[type[nn.Module]]
    normalization: ClassVar[type[nn.Module]] = NormalizeTensors

    def __init__(
        self,
        specs: Sequence[NetSpec],
        out: int,
        *,
        channels: Sequence[int] = (16, 16, 5),
        encoding: Encoding = RAW,
        head: Head = WIDE,
        feature_dropout: float = 0.0,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.form = common_ends(specs)
        self.normalize = self.normalization(self.form) if normalize else nn.Identity()
        self.features = Features(self.layer, self.form, channels, encoding, feature_dropout)
        self.pool = HNPPool(self.form)
        self.head = head.build(self.pool.features * channels[-1], out)

    def forward(self, data: Data) -> Tensor:
        parts = parts_like(NeuralGraph.of(data), self.form)
        pooled = [self.pool(self.features(self.normalize(p.features.channels_last()))).flatten(1) for p in parts]
        return self.head(in_order(parts, pooled))


def _zoo(**changes: Any) -> dict[str, Any]:
    return {"channels": (16, 16, 5), "head": Head(sigmoid=True), **changes}


def _sirens(encoding: Encoding, dropout: float) -> dict[str, Any]:
    return {
        "channels": (512, 512, 512), "encoding": encoding, "head": Head(dropout=dropout),
        "feature_dropout": dropout if dropout < 0.5 else 0.0,
    }  # fmt: skip


class HNPInvariant(InvariantNFN):
    """:class:`InvariantNFN` of HNP layers.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "relu")
        >>> HNPInvariant([spec], out=3)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    layer = HNPLinear
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "small_cnn_zoo": _zoo(),
            "siren_cifar": _sirens(Encoding(fourier=128, fourier_scale=10.0), 0.5),
            "siren_mnist": _sirens(Encoding(fourier=128, fourier_scale=3.0), 0.1),
        }
    )


class NPInvariant(InvariantNFN):
    """:class:`InvariantNFN` of NP layers behind encodings of places.

    Without ``encoding.bands`` the layers could not tell inputs and outputs apart, and the pooling would do so alone.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "relu")
        >>> NPInvariant([spec], out=3, channels=(8, 8))(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    layer = NPLinear
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "siren_cifar": _sirens(Encoding(128, 10.0, 6, 10.0), 0.5),
            "siren_mnist": _sirens(Encoding(128, 3.0, 3, 3.0), 0.1),
        }
    )


class PositionedNPInvariant(InvariantNFN):
    """:class:`InvariantNFN` of NP layers with learned embeddings of inputs and outputs (the zoo's "NP")."""

    layer = PositionedNPLinear
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"small_cnn_zoo": _zoo(normalize=True)})


class PositionedNPInvariantAsPublished(PositionedNPInvariant):
    """The published normalisation per entry, with which permuted networks give other results.

    Call ``model.normalize.fit(space)`` once with the training set.
    """

    symmetry = frozenset()
    normalization = NormalizeEntries


class EditingNFN(nn.Module):
    """NF-layers down to one channel: ``G -> G + s * NFN(G)`` with one learned factor s per tensor.

    It commutes with permutations of hidden neurons. Choose one of the subclasses by its layer.

    Args:
        specs: architectures that it shall read.
        channels: of the hidden NF-layers.
        encoding: of weights and places.
        scale: first value of the factors.

    Raises:
        BaselineError: the specs differ in depth, kernels, inputs or outputs, or are no chains.
    """

    symmetry: ClassVar[frozenset[str]] = _PERMUTATION
    layer: ClassVar[type[nn.Module]]

    def __init__(
        self,
        specs: Sequence[NetSpec],
        *,
        channels: Sequence[int] = (128, 128, 128),
        encoding: Encoding = STYLE,
        scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.form = common_ends(specs)
        self.features = Features(self.layer, self.form, channels, encoding)
        self.last = self.layer(self.form, channels[-1], 1)
        self.scale = TensorScale(self.form.depth, scale)

    def forward(self, data: Data) -> NeuralGraph:
        graph = NeuralGraph.of(data)
        parts = parts_like(graph, self.form)
        return add(graph, parts, [self.delta(part.features) for part in parts])

    def delta(self, space: WeightSpace) -> WeightSpace:
        """What is added to weights with one channel, ``[B, 1, n_out, n_in, *taps]``."""
        features = self.scale(self.last(self.features(space.channels_last())))
        return features.channels_first(self.form)


class HNPEditor(EditingNFN):
    """:class:`EditingNFN` of HNP layers.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 4, 1], "sin")
        >>> HNPEditor([spec], channels=(8,))(random_graph(spec, networks=5, dtype=torch.float32))
        NeuralGraph(networks=5, neurons=55, edges=140)
    """

    layer = HNPLinear
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"siren": {}})


class NPEditor(EditingNFN):
    """:class:`EditingNFN` of NP layers; give it an encoding of places."""

    layer = NPLinear
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"siren": {"encoding": Encoding(128, 3.0, 3, 3.0)}}
    )
