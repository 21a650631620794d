"""The native sweep: message passing in which every neuron uses its own activation function."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphnfn.nn.state import PlaceTable, State
from graphnfn.nn.taps import Sizes, TapTable
from graphnfn.nn.typed import soft_root
from graphnfn.nn.wiring import Level, Wiring
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
        xs: list[Tensor] = []
        slopes: list[Tensor] = []
        for i, level in enumerate(wiring.levels):
            if level.role == "input":
                xs.append(self.inputs(level) * (1 + self.gate(state.even[i])))
                slopes.append(torch.ones_like(xs[-1]))
                continue
            z = wiring.pull(i, xs, self.taps) + level.bias * self._beta(level)
            x, slope = level.activate(z)
            xs.append(x)
            slopes.append(slope)
        ys: list[Tensor] = [torch.empty(0)] * len(xs)
        returned = list(ys)
        for i in reversed(range(len(xs))):
            level = wiring.levels[i]
            if level.role == "output":
                returned[i] = self.outputs(level) + self.answer(xs[i])
            else:
                returned[i] = wiring.push(i, ys, self.taps)
            ys[i] = returned[i] * slopes[i]
        even = []
        for level, e, x, y in zip(wiring.levels, state.even, xs, returned, strict=True):
            of_x, of_product, of_y = self.mix[level.role]
            seen = torch.addcmul(x * y * of_product, level.even(x), of_x)
            even.append(e + soft_root(torch.addcmul(seen, level.even(y), of_y)))  # activations span decades
        return State(even, xs)

    def _beta(self, level: Level) -> Tensor | float:
        """A scaled bias would break the half turns, so periodic neurons keep theirs."""
        if isinstance(level.periodic, bool):
            return 1.0 if level.periodic else self.beta
        return torch.where(level.periodic, 1.0, self.beta)
