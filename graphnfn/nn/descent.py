"""The descent head: a learned step of gradient descent, from what the network computes to a change of its weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphnfn.nn.state import MAX_DEPTH, PlaceTable, State
from graphnfn.nn.taps import Sizes, TapTable
from graphnfn.nn.wiring import Wiring
from graphnfn.symmetry.charge import ACTIVATION, ADJOINT, BIAS, WEIGHT


class DescentHead(nn.Module):
    """Changes of canonical weights and biases along gradients of a learned error, on learned inputs.

    The network runs on d learned inputs, ``x_i = sigma_i(z_i)``; a perceptron makes of what an output neuron answers
    to all of them the change that is wanted there, ``y = MLP(x)``; this travels back as gradients do,
    ``y_j = sigma_j'(z_j) sum_i w_ij . y_i`` (divided by the frequency of periodic neurons, to stay of order 1). Then,
    with learned gains a, b and taps t per channel and depth, and gates g of even features,

    ``delta w_ij[t] = mean_c g_i a_c t_c y_i^c x_j^c + w_ij[t] (p_i + q_j)`` and
    ``delta b_i = mean_c g_i b_c y_i^c + b_i r_i``, with gains p, q, r of even features (r is 0 where half turns act).

    y_i is typed like an adjoint of z_i and x_j like an activation, so the product has the parity of the weight
    (charges: graphnfn.symmetry.charge); the caller undoes the canonical scales as for
    :class:`~graphnfn.nn.edit.EditHead`. The MLP ends in zeros: the head starts as the identity.

    Args:
        width: channels of the even features.
        points: learned inputs d.
        sizes: of the tables.
    """

    def __init__(self, width: int, points: int, sizes: Sizes) -> None:
        super().__init__()
        WEIGHT.from_source(ACTIVATION).require(ACTIVATION, "forward message")
        WEIGHT.from_target(ADJOINT).parity.require(ADJOINT.parity, "backward message")
        ADJOINT.parity.require(BIAS.parity, "bias update")
        self.inputs = PlaceTable(sizes.inputs, points)
        self.places = PlaceTable(sizes.outputs, points)
        self.taps, self.edit_taps = TapTable(points, sizes), TapTable(points, sizes)
        self.read, self.context = nn.Linear(points, points), nn.Linear(width, points, bias=False)
        self.write, self.direct = nn.Linear(points, points), nn.Linear(points, points, bias=False)
        self.weight_gain, self.bias_gain = (nn.Embedding(MAX_DEPTH, points) for _ in range(2))
        self.gate = nn.Linear(width, 4)  # g - 1, p, q, r
        for gain in (self.weight_gain, self.bias_gain):
            nn.init.ones_(gain.weight)
        for layer in (self.write, self.gate):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.direct.weight)

    def forward(self, state: State, wiring: Wiring) -> tuple[list[Tensor], list[Tensor]]:
        """Changes per bundle ``[..., taps]`` and per level ``[..., 1]``."""
        xs, slopes = self._activations(wiring)
        ys = self._adjoints(xs, slopes, state, wiring)
        into, nodes, above, below = [], [], [], []
        for level, e, y in zip(wiring.levels, state.even, ys, strict=True):
            g, p, q, r = self.gate(e).split(1, -1)
            depth, gate = level.depth_out.clamp(max=MAX_DEPTH - 1), (1 + g) / y.shape[-1]
            into.append(y * self.weight_gain(depth) * gate)
            fixed = level.periodic if isinstance(level.periodic, bool) else level.periodic.to(r.dtype)
            change = (y * self.bias_gain(depth)).sum(-1, keepdim=True) * gate
            nodes.append(change + r * level.bias * (1 - fixed))
            above.append(p)
            below.append(q)
        edges = []
        for k in range(wiring.num_bundles):
            block = wiring.block(k)
            steps = wiring.outer(k, into, xs, self.edit_taps.mix(block) @ self.edit_taps.gain(block))
            edges.append(steps + wiring.weights(k) * (wiring.at_target(k, above) + wiring.at_source(k, below)))
        return edges, nodes

    def _activations(self, wiring: Wiring) -> tuple[list[Tensor], list[Tensor]]:
        xs: list[Tensor] = []
        slopes: list[Tensor] = []
        for i, level in enumerate(wiring.levels):
            if level.role == "input":
                xs.append(self.inputs(level))
                slopes.append(torch.zeros_like(xs[-1]))  # inputs have no weights that could change
                continue
            x, slope = level.activate(wiring.pull(i, xs, self.taps) + level.bias)
            xs.append(x)
            slopes.append(slope)
        return xs, slopes

    def _adjoints(self, xs: list[Tensor], slopes: list[Tensor], state: State, wiring: Wiring) -> list[Tensor]:
        ys = [torch.empty(0)] * len(xs)
        for i in reversed(range(len(xs))):
            level = wiring.levels[i]
            if level.role == "output":
                hidden = self.read(xs[i]) + self.places(level) + self.context(state.even[i])
                ys[i] = (self.write(F.silu(hidden)) + self.direct(xs[i])) * slopes[i]
            elif level.role == "input":
                ys[i] = slopes[i]
            else:
                ys[i] = wiring.push(i, ys, self.taps) * slopes[i]
        return ys
