"""The gated sweep: messages along canonical weights in topological order, updated by free gates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphnfn.nn.gates import gate
from graphnfn.nn.state import PlaceTable, State
from graphnfn.nn.taps import Sizes, TapTable
from graphnfn.nn.typed import TypedLinear, even_mlp
from graphnfn.nn.wiring import Wiring
from graphnfn.symmetry.charge import ACTIVATION, ADJOINT, ODD, WEIGHT


class GatedSweep(nn.Module):
    """One forward and one backward sweep over canonical weights w, with free updates instead of activations.

    Forward, with k_i = ``turn`` and s_i = ``turned_bias`` of :mod:`graphnfn.nn.parity`:
    ``m_i = sum_j w_ij . o_j`` (in-typed), ``M_i = sum_j |w_ij| . e_j`` (even),
    ``(d_i, g_i, h_i) = MLP(e_i, M_i, |k_i m_i + s_i|)`` (even), ``e_i <- e_i + d_i``,
    ``o_i = norm(k_i A m_i (1 + g_i) + s_i h_i)`` (out-typed).
    Backward: ``r_j = sum_i w_ij . a_i`` (out-typed), ``R_j = sum_i |w_ij| . e_i``,
    ``(d_j, g_j, h_j) = MLP(e_j, R_j, |r_j + o_j|)``, ``e_j <- e_j + d_j``,
    ``a_j = norm(k_j B r_j (1 + g_j) + C m_j h_j)`` (in-typed).

    m_i and a_j are in units of the neuron's own period: multiplied by omega where the activation is sin or cos
    (``sin(omega z)``), as the messages of a SIREN's weights, a few hundredths, are compared with phases of order 1.
    Where inputs feed such neurons, weights enter as Fourier features: ``sin m_i`` takes the place of m_i and
    ``s_i cos m_i`` that of s_i, since pictures are made of frequencies, and hardly linear in them.

    With a reference width, ``rho_j`` being a hidden group's relative one (see :class:`~graphnfn.nn.wiring.Wiring`),
    weights count as ``u_ij = rho_j^(1/2) w_ij``, which fan-in initialisation makes independent of the width, and
    hidden neurons are averaged: ``M_i = sum_j |u_ij| e_j / rho_j``, ``R_j = sum_i |u_ij| e_i / rho_i``,
    ``r_j = sum_i u_ij a_i rho_i^(-1/2)``.  ``m_i`` stays, since the network's own sums are m's model.

    Args:
        width: channels d of each type.
        sizes: of the tables of input neurons, output neurons and taps.

    Shape: even ``[..., d]`` in and out; out-typed features go to ``state.odd``.
    """

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__()
        WEIGHT.from_source(ACTIVATION).parity.require(ODD, "forward message")
        WEIGHT.from_target(ADJOINT).parity.require(ODD, "backward message")
        self.inputs = PlaceTable(sizes.inputs, width)
        self.outputs = PlaceTable(sizes.outputs, width)
        self.odd_taps, self.even_taps = TapTable(width, sizes), TapTable(width, sizes)
        self.down, self.up = (even_mlp(3 * width, 3 * width, width) for _ in range(2))
        self.offset, self.meet = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.mix_down, self.mix_up = TypedLinear(width, width, ODD), TypedLinear(width, width, ODD)
        self.keep = TypedLinear(width, width, ODD)

    def forward(self, state: State, wiring: Wiring) -> State:
        even, odd, arrived = self._down(state, wiring)
        return self._up(State(even, odd), arrived, wiring)

    def _down(self, state: State, wiring: Wiring) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        even: list[Tensor] = []
        odd: list[Tensor] = []
        arrived: list[Tensor] = []
        for i, level in enumerate(wiring.levels):
            e = state.even[i]
            if level.role == "input":
                start = self.inputs(level)
                even.append(e + start)
                odd.append(start)
                arrived.append(torch.zeros_like(start))
                continue
            m, bias = level.in_periods(wiring.pull(i, odd, self.odd_taps)), level.turned_bias
            mass = wiring.pull(i, wiring.scaled(even, -0.5), self.even_taps, torch.abs)
            if level.first and any(act.rule.half_turns for act, _, _ in level.parts):
                m, wave = level.waves(m)
                bias = bias * wave
            response = torch.addcmul(level.turned(m), bias, self.offset)
            typed = level.turned(self.mix_down(m)), bias
            changed, sent = gate(self.down, level, e, mass, response, typed)
            assert sent is not None
            even.append(changed)
            odd.append(sent)
            arrived.append(m)
        return even, odd, arrived

    def _up(self, state: State, arrived: list[Tensor], wiring: Wiring) -> State:
        even = list(state.even)
        back: list[Tensor] = list(state.odd)
        for i in reversed(range(len(even))):
            level, e, o = wiring.levels[i], even[i], state.odd[i]
            if level.role == "output":
                back[i] = o + self.outputs(level)
                continue
            r = wiring.scale(i, wiring.push(i, wiring.scaled(back, -0.5), self.odd_taps), 0.5)
            mass = wiring.scale(i, wiring.push(i, wiring.scaled(even, -1.0), self.even_taps, torch.abs), 0.5)
            behind = level.role != "input"  # nothing lies behind inputs
            typed = (level.turned(self.mix_up(r)), self.keep(arrived[i])) if behind else None
            even[i], sent = gate(self.up, level, e, mass, torch.addcmul(r, o, self.meet), typed)
            if sent is not None:
                back[i] = level.in_periods(sent)
        return State(even, state.odd)
