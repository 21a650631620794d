"""A scan over layers with one shared recurrent cell, after the idea of the DNG-Encoder, arXiv 2607.02166.

That paper (Wu et al., TMLR 2026) reads a network as a graph that grows layer by layer, with a recurrent graph network
that follows inference. Only this idea is taken from it: its equations, sizes and code were not at hand, so that the
message, the cell, the features and the readout are our choice, there is no published preset, and its figures are not
this model's. Its decoder to images (INR2JLS) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from baselines.entries import Entries
from baselines.weight_space import Part, in_order, weight_spaces
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec


class LayerScan(nn.Module):
    """States of a layer's neurons from those of the layer before: a GRU cell, one for all layers.

    ``m_j = mean_i phi(w_ji) * psi(h_i)``, ``h_j = GRU([m_j, beta(b_j)], mean_i h_i)``. A neuron has no past of its own;
    its cell therefore starts at the mean state of the layer before.

    Args:
        width: channels of states and messages.
        taps: entries of one kernel.

    Shape: states ``[B, n_in, width]``, weights ``[B, n_out, n_in, taps]``, biases ``[B, n_out, 1]`` to
    ``[B, n_out, width]``.

    Example:
        >>> cell = LayerScan(8, 1)
        >>> cell(torch.zeros(5, 2, 8), torch.ones(5, 3, 2, 1), torch.ones(5, 3, 1)).shape
        torch.Size([5, 3, 8])
    """

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.of_weight = nn.Sequential(nn.Linear(taps, width), nn.SiLU(), nn.Linear(width, width))
        self.of_state = nn.Linear(width, width)
        self.of_bias = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.cell = nn.GRUCell(2 * width, width)

    def forward(self, states: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        messages = torch.einsum("bjic,bic->bjc", self.of_weight(weights), self.of_state(states)) / states.shape[1]
        news = torch.cat([messages, self.of_bias(biases)], -1)
        past = states.mean(1, keepdim=True).expand_as(messages)
        return self.cell(news.flatten(0, 1), past.flatten(0, 1)).view_as(messages)


class DNGLike(nn.Module):
    """One pass over the layers in the order of inference, then an MLP on the states of the outputs.

    ``h_0 = p`` (learned per input), ``h_l = scan(h_{l-1}, W_l, b_l)``, ``y = MLP([h_L,1, ..., h_L,outputs])``. Weights
    and biases are standardised per layer; smaller kernels and dense weights stand in the middle of the largest kernel.
    Hidden widths, and the depth up to that of the deepest spec, may differ from network to network.

    Args:
        specs: architectures that it shall read; equal inputs and outputs.
        out: numbers predicted per network.
        width: channels.

    Shape: ``[networks, out]``.

    Raises:
        BaselineError: flattened maps, kernels of several ranks, other inputs or outputs, or no chain.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> DNGLike([spec], out=3, width=8)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    symmetry: ClassVar[frozenset[str]] = frozenset({"permutation"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})

    def __init__(self, specs: Sequence[NetSpec], out: int, *, width: int = 64) -> None:
        super().__init__()
        self.entries = Entries(specs)
        inputs, outputs = self.entries.ends
        self.inputs = nn.Parameter(torch.randn(inputs, width))
        self.scan = LayerScan(width, self.entries.taps)
        self.predict = nn.Sequential(nn.Linear(outputs * width, width), nn.SiLU(), nn.Linear(width, out))

    def forward(self, data: Data) -> Tensor:
        parts = weight_spaces(NeuralGraph.of(data))
        return self.predict(in_order(parts, [self._states(part) for part in parts]))

    def _states(self, part: Part) -> Tensor:
        """The states of the outputs, ``[networks of the part, outputs * width]``."""
        states = self.inputs.expand(len(part.places), -1, -1)
        for weights, biases in zip(*self.entries(part), strict=True):
            states = self.scan(states, weights, biases)
        return states.flatten(1)
