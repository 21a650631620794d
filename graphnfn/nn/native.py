"""The native sweep: message passing in which every neuron uses its own activation function."""

from __future__ import annotations

import torch
from torch import nn

from graphnfn.nn.state import PlaceTable, State
from graphnfn.nn.taps import Sizes, TapTable
from graphnfn.nn.wiring import NativeCall, Wiring
from graphnfn.symmetry.charge import ACTIVATION, ADJOINT, WEIGHT


class NativeSweep(nn.Module):
    """One forward sweep with the neurons' own activations and one backward sweep with their derivatives.

    ``x_i = sigma_i(sum_j w_ij . x_j + beta b_i)`` from learned states at the input neurons, then
    ``y_j = sum_i w_ij . sigma_i'(z_i) y_i`` from learned states at the output neurons. x has charge 1 and y
    charge -1, so x * y is invariant. With taps and beta at 1, where they start, the d channels of x are the
    network's activations on d learned inputs, and y its gradients. Neurons then see, with learned vectors a, b, c
    for input, hidden and output neurons, ``e_i <- e_i + root(a |x_i| + b x_i y_i + c |y_i|)`` with
    ``root(t) = t / sqrt(1 + |t|)`` (no bars within it where no sign is free): elementwise, since a dense layer per
    neuron would cost several times the sweep. On canonical weights x and y alone are invariant up to sign, too.
    Under a reference width y is seen as ``rho^(1/2) y``.

    Args:
        width: channels d.
        sizes: of the tables of input neurons, output neurons and taps.

    Shape: even features ``[..., d]`` in, even features ``[..., d]`` out; x goes to ``state.odd``.
    """

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__()
        WEIGHT.from_source(ACTIVATION).require(ACTIVATION, "forward message")
        WEIGHT.from_target(ADJOINT).parity.require(ADJOINT.parity, "backward message")
        (ACTIVATION * ADJOINT).require_neutral("activation times adjoint")
        self.inputs = PlaceTable(sizes.inputs, width)
        self.outputs = PlaceTable(sizes.outputs, width)
        self.beta = nn.Parameter(torch.ones(width))
        self.taps = TapTable(width, sizes)
        self.gate = nn.Linear(width, width)
        self.answer = nn.Linear(width, width)
        self.mix = nn.ParameterDict({role: nn.Parameter(torch.randn(3, width)) for role in ("input", "hidden")})
        self.mix["output"] = nn.Parameter(torch.tensor([1.0, 0.0, 0.0])[:, None].repeat(1, width))
        for layer in (self.gate, self.answer):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, state: State, wiring: Wiring) -> State:
        levels = list(enumerate(wiring.levels))
        start = {i: self.inputs(v) * (1 + self.gate(state.even[i])) for i, v in levels if v.role == "input"}
        end = {i: self.outputs(v) for i, v in levels if v.role == "output"}
        call = NativeCall(state.even, start, end, self.answer, self.taps, self.beta, dict(self.mix.items()))
        return State(*wiring.native(call))
