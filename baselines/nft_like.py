"""A transformer whose tokens are rows and columns of weights, after NFT.

Zhou, Yang, Jiang, Burns, Xu, Sokota, Kolter, Finn, "Neural Functional Transformers" (2023), arXiv 2305.13546; sizes as
in the configurations of AllanYangZhou/nfn at ce78322.

From the paper and its code: weight-space self-attention (:class:`WeightAttention`, checked against the package
``nfn``), learned encodings of layers, inputs and outputs, blocks of attention and a two-layer map with norms in front,
pooling by attention of learned queries. Ours: weights are standardised by default; maps, norms and encodings of values
are shared by all layers, with kernels centred in the largest one (the paper has maps per layer), so that widths and
depths may differ; layer norms as in torch; the pooling is one attention and an MLP, no Perceiver. The class that the
published configurations name (``NPTransformer``) is not in that repository, so its figures are not this model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch_geometric.data import Data

from baselines.entries import Entries
from baselines.errors import BaselineError
from baselines.neural_graphs.features import Encoding
from baselines.weight_space import Part, WeightSpace, in_order, weight_spaces
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec


class WeightAttention(nn.Module):
    """Weight-space self-attention: every neuron group's rows and columns attend to one another, and so do tensor means.

    With ``q, k, v`` linear in the entries, the tokens of group l are the columns of W_l, the bias b_l and the rows of
    W_(l+1), each one vector over the neurons of the group and the channels of a head:
    ``T'_a = sum_b softmax_b(<q_a, k_b> / sqrt(n_l d)) v_b``. An entry hears its column, its row, and
    ``M'_t = sum_s softmax_s(<mean q_t, mean k_s> / sqrt(d)) mean v_s`` over the tensors s. It commutes with
    permutations of every group, inputs and outputs included.

    Args:
        width: channels.
        heads: of attention; they share the channels.

    Raises:
        BaselineError: the channels cannot be shared by the heads.

    Shape: weights ``[B, n_out, n_in, width]`` and biases ``[B, n_out, width]`` to the same.

    Example:
        >>> weights = torch.ones(5, 3, 2, 8), torch.ones(5, 1, 3, 8)
        >>> space = WeightSpace(weights, (torch.ones(5, 3, 8), torch.ones(5, 1, 8)))
        >>> [tuple(w.shape) for w in WeightAttention(8, 2)(space).weights]
        [(5, 3, 2, 8), (5, 1, 3, 8)]
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise BaselineError(f"expected a width that {heads} heads can share; got {width}: change width or heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, space: WeightSpace) -> WeightSpace:
        """The layer."""
        seen = space.map(lambda x: self.qkv(x).unflatten(-1, (self.heads, 3, -1)))
        means = [w.mean((1, 2)) for w in seen.weights] + [b.mean(1) for b in seen.biases]
        q, k, v = torch.stack(means, 2).unbind(3)  # [B, heads, tensors, d]
        common = list(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).unbind(1))
        depth = len(space.weights)
        weights = [c[:, None, None] for c in common[:depth]]
        biases = [c[:, None] for c in common[depth:]]
        for group in range(depth + 1):
            columns = [seen.weights[group - 1].transpose(1, 2), seen.biases[group - 1][:, None]] if group else []
            rows = [seen.weights[group]] if group < depth else []
            sizes = [t.shape[1] for t in columns + rows]
            new = list(_among(torch.cat(columns + rows, 1)).split(sizes, 1))
            if group:
                weights[group - 1] = weights[group - 1] + new[0].transpose(1, 2)
                biases[group - 1] = biases[group - 1] + new[1][:, 0]
            if group < depth:
                weights[group] = weights[group] + new[-1]
        return WeightSpace(tuple(weights), tuple(biases))


def _among(tokens: Tensor) -> Tensor:
    """Attention among tokens ``[B, T, n, heads, 3, d]``, as vectors over n and d: ``[B, T, n, heads * d]``."""
    neurons = tokens.shape[2]
    q, k, v = tokens.permute(4, 0, 3, 1, 2, 5).flatten(4).unbind(0)
    new = scaled_dot_product_attention(q, k, v).unflatten(3, (neurons, -1))
    return new.permute(0, 2, 3, 1, 4).flatten(3)


@dataclass(frozen=True)
class Sizes:
    """Heads of attention, width of the map behind it over that of the model, dropout on what both add."""

    heads: int = 4
    expand: int = 2
    dropout: float = 0.0


@dataclass(frozen=True)
class Values:
    """How numbers become features.

    Args:
        frequencies: Fourier features per kernel or bias, 0 for none.
        sigma: deviation of their frequencies.
        normalize: standardise weights and biases of each layer.
    """

    frequencies: int = 32
    sigma: float = 1.0
    normalize: bool = True


_BLOCK, _VALUES = Sizes(), Values()
_PUBLISHED = Values(frequencies=128, sigma=3.0, normalize=False)


class Block(nn.Module):
    """``x <- x + attention(LN(x))``, ``x <- x + B gelu(A LN(x))``, with dropout on what is added."""

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), WeightAttention(width, sizes.heads)
        self.drop, inner = nn.Dropout(sizes.dropout), sizes.expand * width
        self.update = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width), nn.Dropout(sizes.dropout)
        )

    def forward(self, space: WeightSpace) -> WeightSpace:
        """The block."""
        space = space.zip(self.attention(space.map(self.norm)), lambda x, new: x + self.drop(new))
        return space.map(lambda x: x + self.update(x))


class NFTLike(nn.Module):
    """Encodings, blocks of weight-space attention, pooling by learned queries, an MLP: ``f(P G) = f(G)``.

    P permutes hidden neurons. Hidden widths, and the depth up to that of the deepest spec, may differ from network to
    network.

    Args:
        specs: architectures that it shall read; equal inputs and outputs.
        out: numbers predicted per network.
        width: channels.
        blocks: rounds of attention.
        block: sizes of one.
        queries: learned vectors that pool all entries.
        values: how numbers become features.

    Shape: ``[networks, out]``.

    Raises:
        BaselineError: flattened maps, kernels of several ranks, other inputs or outputs, or no chain.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> NFTLike([spec], out=3, width=8)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    symmetry: ClassVar[frozenset[str]] = frozenset({"permutation"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "siren_classification": {"width": 256, "blocks": 4, "block": Sizes(8, 2, 0.1), "values": _PUBLISHED},
            "inr2array_encoder": {"width": 256, "blocks": 6, "block": Sizes(4, 4), "values": _PUBLISHED},
        }
    )

    def __init__(
        self,
        specs: Sequence[NetSpec],
        out: int,
        *,
        width: int = 64,
        blocks: int = 2,
        block: Sizes = _BLOCK,
        queries: int = 4,
        values: Values = _VALUES,
    ) -> None:
        super().__init__()
        self.entries = Entries(specs, normalize=values.normalize)
        inputs, outputs = self.entries.ends
        waves = values.frequencies, values.sigma
        self.of_weight, self.of_bias = Encoding(self.entries.taps, width, *waves), Encoding(1, width, *waves)
        self.weight_layers = nn.Parameter(torch.randn(self.entries.depth, width))
        self.bias_layers = nn.Parameter(torch.randn(self.entries.depth, width))
        self.inputs = nn.Parameter(torch.randn(inputs, width))
        self.outputs = nn.Parameter(torch.randn(outputs, width))
        self.blocks = nn.Sequential(*(Block(width, block) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.key_value = nn.Linear(width, 2 * width)
        self.predict = nn.Sequential(nn.Linear(queries * width, width), nn.SiLU(), nn.Linear(width, out))

    def forward(self, data: Data) -> Tensor:
        """Predictions."""
        parts = weight_spaces(NeuralGraph.of(data))
        return self.predict(in_order(parts, [self._pooled(part) for part in parts]))

    def _pooled(self, part: Part) -> Tensor:
        """What the queries found, ``[networks of the part, queries * width]``."""
        space = self.blocks(self._encoded(*self.entries(part))).map(self.norm)
        rows = torch.cat([t.flatten(1, -2) for t in (*space.weights, *space.biases)], 1)
        k, v = self.key_value(rows).chunk(2, -1)
        return scaled_dot_product_attention(self.queries.expand(len(rows), -1, -1), k, v).flatten(1)

    def _encoded(self, weights: list[Tensor], biases: list[Tensor]) -> WeightSpace:
        weights = [self.of_weight(w) + self.weight_layers[i] for i, w in enumerate(weights)]
        biases = [self.of_bias(b) + self.bias_layers[i] for i, b in enumerate(biases)]
        weights[0] = weights[0] + self.inputs
        weights[-1] = weights[-1] + self.outputs[:, None]
        biases[-1] = biases[-1] + self.outputs
        return WeightSpace(tuple(weights), tuple(biases))
