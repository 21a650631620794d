"""The synchronous layer: classical message passing, all edges at once and in both directions, with edge states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphnfn.nn.state import PlaceTable, State
from graphnfn.nn.taps import Sizes, TapTable
from graphnfn.nn.typed import TypedLinear, even_mlp, soft_norm
from graphnfn.nn.wiring import Wiring
from graphnfn.symmetry.charge import ACTIVATION, ADJOINT, ODD, WEIGHT


class SynchronousLayer(nn.Module):
    """One step of bidirectional message passing on canonical weights with typed node and edge states.

    With edge states E (typed like a weight) and F (even), k = ``turn``:
    to targets ``m_i = sum_j E_ij o_j`` and ``M_i = mean_j F_ij e_j``; to sources ``r_j = sum_i E_ij k_i o_i`` and
    ``R_j = mean_i F_ij e_i``. Both directions are exact: k_i o_i is in-typed, so the sign of the target cancels,
    and positive scales are gone from canonical weights. The published bidirectional ReLU message
    ``w_ij x_i`` (ScaleGMN) has charge 2 at the target and is not.

    Args:
        width: channels d of each type.
        sizes: of the tables of input neurons, output neurons and taps.

    Shape: even and odd ``[..., d]`` in and out.
    """

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__()
        WEIGHT.from_source(ACTIVATION).parity.require(ODD, "message to targets")
        WEIGHT.from_target(ADJOINT).parity.require(ODD, "message to sources")
        self.inputs = PlaceTable(sizes.inputs, width)
        self.outputs = PlaceTable(sizes.outputs, width)
        self.taps = TapTable(width, sizes)
        nn.init.normal_(self.taps.kernel_gain)
        self.start = nn.Parameter(torch.randn(width))
        self.edge_start = even_mlp(width, width)
        self.source, self.target = nn.Linear(width, width), nn.Linear(width, width)
        self.node = even_mlp(7 * width, width)
        self.gates = nn.Linear(width, 4 * width)
        self.mix_m, self.mix_r = TypedLinear(width, width, ODD), TypedLinear(width, width, ODD)
        self.edge = nn.Linear(width, width)
        self.edge_source, self.edge_target = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.edge_out = nn.Linear(width, width)
        self.edge_gate = nn.Linear(width, width)
        self.pair = TypedLinear(width, width, ODD)

    def forward(self, state: State, wiring: Wiring) -> State:
        state = self._begin(state, wiring)
        levels, bundles = wiring.levels, range(len(state.edge_odd))
        e, o = state.even, state.odd
        into = [level.turned(x) for level, x in zip(levels, o, strict=True)]
        at_source, at_target = [self.source(x) for x in e], [self.target(x) for x in e]
        m = wiring.to_targets([state.edge_odd[k] * wiring.at_source(k, o) for k in bundles], "sum")
        r = wiring.to_sources([state.edge_odd[k] * wiring.at_target(k, into) for k in bundles], "sum")
        mass = wiring.to_targets([state.edge_even[k] * wiring.at_source(k, at_source) for k in bundles], "mean")
        back = wiring.to_sources([state.edge_even[k] * wiring.at_target(k, at_target) for k in bundles], "mean")
        even, odd = [], []
        for i, level in enumerate(levels):
            turned = level.turned(m[i])
            seen = (e[i], mass[i], back[i], level.even(m[i]), level.even(r[i]), turned * o[i], r[i] * o[i])
            new = e[i] + self.node(torch.cat(torch.broadcast_tensors(*seen), -1))
            keep, gate_m, gate_r, gate_b = self.gates(new).chunk(4, -1)
            mixed = (1 + keep) * o[i] + gate_m * self.mix_m(turned) + gate_r * self.mix_r(r[i])
            even.append(new)
            odd.append(soft_norm(mixed + gate_b * level.turned_bias))
        edge_even, edge_odd = self._edges(State(even, odd, state.edge_even, state.edge_odd), wiring)
        return State(even, odd, edge_even, edge_odd)

    def _begin(self, state: State, wiring: Wiring) -> State:
        even, odd = list(state.even), list(state.odd)
        if not odd:
            odd = [level.turned_bias * self.start for level in wiring.levels]
        for i, level in enumerate(wiring.levels):
            if level.role != "hidden":
                table = (self.inputs if level.role == "input" else self.outputs)(level)
                even[i], odd[i] = even[i] + table, odd[i] + table
        if state.edge_odd:
            return State(even, odd, state.edge_even, state.edge_odd)
        edge_odd = wiring.lift(self.taps)
        signed = [torch.zeros_like(level.bias, dtype=torch.bool) | level.signed for level in wiring.levels]
        edge_even = []
        for k, lifted in enumerate(edge_odd):
            free = wiring.at_source(k, signed) | wiring.at_target(k, signed)
            edge_even.append(self.edge_start(torch.where(free, lifted.abs(), lifted)))
        return State(even, odd, edge_even, edge_odd)

    def _edges(self, state: State, wiring: Wiring) -> tuple[list[Tensor], list[Tensor]]:
        into = [level.turned(x) for level, x in zip(wiring.levels, state.odd, strict=True)]
        source, target = [self.edge_source(x) for x in state.even], [self.edge_target(x) for x in state.even]
        even, odd = [], []
        for k, (f, w) in enumerate(zip(state.edge_even, state.edge_odd, strict=True)):
            seen = self.edge(f) + wiring.at_source(k, source) + wiring.at_target(k, target) + w.abs()
            f = f + self.edge_out(nn.functional.silu(seen))
            pair = self.pair(wiring.at_target(k, into) * wiring.at_source(k, state.odd))
            even.append(f)
            odd.append(soft_norm(w * (1 + self.edge_gate(f)) + pair))
        return even, odd
