"""The equivariant edit head: from neuron features to a change of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphnfn.errors import SpecError
from graphnfn.nn.state import State
from graphnfn.nn.taps import Sizes, TapTable
from graphnfn.nn.typed import TypedLinear, soft_norm
from graphnfn.nn.wiring import Wiring
from graphnfn.stack import Stack
from graphnfn.symmetry.canonical import CanonicalScales
from graphnfn.symmetry.charge import BIAS, ODD, WEIGHT


class EditHead(nn.Module):
    """Changes of canonical weights and biases, typed like them.

    ``delta w_ij[t] = sum_r u_i^r v_j^r k_t^r + w_ij[t] sum_r p_i^r q_j^r`` with u in-typed, v out-typed, p and q even:
    a low-rank, gradient-like update and an edgewise gain. ``delta b_i = turn_i (A o_i) . gate(e_i) + b_i gain(e_i)``,
    without the second term where half turns act. The caller undoes the canonical scales:
    ``delta W_ij = c_i / phi(c_j) delta w_ij``, ``delta B_i = c_i delta b_i``. Changes start at 0.

    Args:
        width: channels of the features.
        rank: terms r of the sums.
        sizes: of the tap tables.
    """

    def __init__(self, width: int, rank: int, sizes: Sizes) -> None:
        super().__init__()
        BIAS.parity.require(ODD, "bias update")
        (WEIGHT.parity * WEIGHT.parity).parity.require_neutral("edgewise gain")
        self.u, self.v = TypedLinear(width, rank, ODD), TypedLinear(width, rank, ODD)
        self.u_gate, self.v_gate = nn.Linear(width, rank), nn.Linear(width, rank)
        self.p, self.q = nn.Linear(width, rank), nn.Linear(width, rank)
        self.taps = TapTable(rank, sizes)
        self.bias, self.bias_gate = TypedLinear(width, rank, ODD), nn.Linear(width, rank)
        self.bias_gain = nn.Linear(width, 1)
        self.scale = nn.Parameter(torch.tensor(0.1))
        for layer in (self.u.linear, self.p, self.bias.linear, self.bias_gain):
            nn.init.zeros_(layer.weight)
        for layer in (self.p, self.bias_gain):
            nn.init.zeros_(layer.bias)

    def forward(self, state: State, wiring: Wiring) -> tuple[list[Tensor], list[Tensor]]:
        """Changes per bundle ``[..., taps]`` and per level ``[..., 1]``."""
        levels, odd = wiring.levels, [soft_norm(o) for o in state.odd]
        into = [level.turned(o) for level, o in zip(levels, odd, strict=True)]
        u = [self.u(o) * self.u_gate(e) for o, e in zip(into, state.even, strict=True)]
        v = [self.v(o) * self.v_gate(e) for o, e in zip(odd, state.even, strict=True)]
        p, q = [self.p(e) for e in state.even], [self.q(e) for e in state.even]
        edges = []
        for k in range(wiring.num_bundles):
            low = wiring.outer(k, u, v, self._tap_vectors(wiring, k))
            gain = (wiring.at_target(k, p) * wiring.at_source(k, q)).mean(-1, keepdim=True)
            edges.append(self.scale * (low + gain * wiring.weights(k)))
        nodes = []
        for level, o, e in zip(levels, into, state.even, strict=True):
            change = (self.bias(o) * self.bias_gate(e)).sum(-1, keepdim=True)
            free = (~level.periodic) if isinstance(level.periodic, Tensor) else not level.periodic
            nodes.append(self.scale * (change + self.bias_gain(e) * free * level.bias))
        return edges, nodes

    def _tap_vectors(self, wiring: Wiring, k: int) -> Tensor:
        block = wiring.block(k)
        return self.taps.mix(block) @ self.taps.gain(block)


def edited(stack: Stack, scales: CanonicalScales, change: tuple[list[Tensor], Tensor]) -> Stack:
    """Weights plus a change that was made on canonical weights."""
    spec = stack.spec
    if any(g.norm_eps is not None for g in spec.groups):
        raise SpecError("the edit head needs networks without kept batch norms: convert with fold_norm=True")
    blocks = []
    for b, weight, delta in zip(spec.blocks, stack.blocks, change[0], strict=True):
        c, phi = scales.norm[spec.position[b.dst]], scales.phi[spec.position[b.src]]
        blocks.append(weight + (delta * c[:, :, None, None] / phi[:, None, :, None]).to(weight.dtype))
    biased = {p.group for p in spec.node_params if p.field == "bias"}  # others have none that could change
    free = torch.cat([stack.nodes.new_full((g.size,), float(g.id in biased)) for g in spec.groups])
    bias = stack.nodes[..., 0] + (change[1] * torch.cat(scales.norm, 1)).to(stack.nodes.dtype) * free
    return Stack(spec, torch.cat([bias[..., None], stack.nodes[..., 1:]], -1), tuple(blocks))
