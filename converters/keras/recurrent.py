"""Recurrent layers, written out step by step on the stored kernels [in, gates * units]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.keras.activations import activation
from converters.keras.config import Config
from converters.keras.dense import bias_slot
from converters.keras.layer import Layer, Slot, layer, zeros
from graphnfn.errors import ConversionError

MAX_STEPS = 4096
"""Longest sequence that is written out."""

States = list[Tensor]


class Recurrent(Layer):
    """h_t = step(x_t kernel, h_{t-1}); subclasses say how a step works.

    Where a mask is False the state stays, and the output repeats the last one or is zero.
    """

    kernel: Tensor
    recurrent_kernel: Tensor

    uses_mask = True
    states = 1

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("time_major", False)
        self.zero_masked = config.flag("zero_output_for_mask", False)
        self.units = config.size("units")
        self.activation = activation(config, default="tanh")
        self.gate = activation(config, "recurrent_activation", "sigmoid" if config.version > 2 else "hard_sigmoid")
        self.backwards = config.flag("go_backwards", False)
        self.sequences, self.with_state = config.flag("return_sequences", False), config.flag("return_state", False)
        self.slots = [Slot("kernel", "cell"), Slot("recurrent_kernel", "cell")]
        self.slots += [Slot(s.name, "cell") for s in bias_slot(config)]

    def next_mask(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        return mask if self.sequences else None

    def step(self, moved: Tensor, states: States) -> States:
        """The next states, the output first, from x_t kernel + bias."""
        raise NotImplementedError

    def input_bias(self) -> Tensor | None:
        """The bias of x kernel."""
        return self.get("bias")

    def forward(self, x: Tensor, *initial: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        steps = x.shape[1]
        if not 0 < steps <= MAX_STEPS:
            raise ConversionError(f"layer {self.config.name!r}: got {steps} time steps, expected 1 to {MAX_STEPS}")
        states = list(initial) or [zeros(x, x.shape[0], self.units) for _ in range(self.states)]
        if len(states) != self.states:
            raise ConversionError(f"layer {self.config.name!r}: got {len(initial)} states, expected {self.states}")
        projected = F.linear(x, self.kernel.t(), self.input_bias())
        outputs = []
        for t in reversed(range(steps)) if self.backwards else range(steps):
            following = self.step(projected[:, t], states)
            if mask is not None:
                here = mask[:, t].unsqueeze(1)
                following = [torch.where(here, new, old) for new, old in zip(following, states, strict=True)]
            states = following
            outputs.append(states[0] if mask is None or not self.zero_masked else states[0] * mask[:, t, None])
        out = torch.stack(outputs, 1) if self.sequences else outputs[-1]
        return (out, *states) if self.with_state else out


@layer("SimpleRNN")
class SimpleRNN(Recurrent):
    """h = activation(x kernel + bias + h recurrent_kernel)."""

    def step(self, moved: Tensor, states: States) -> States:
        return [self.activation(moved + F.linear(states[0], self.recurrent_kernel.t()))]


@layer("LSTM")
class LSTM(Recurrent):
    """Gates in the order input, forget, candidate, output."""

    states = 2

    def step(self, moved: Tensor, states: States) -> States:
        hidden, cell = states
        z = moved + F.linear(hidden, self.recurrent_kernel.t())
        i, f, c, o = torch.split(z, self.units, 1)
        cell = self.gate(f) * cell + self.gate(i) * self.activation(c)
        return [self.gate(o) * self.activation(cell), cell]


@layer("GRU")
class GRU(Recurrent):
    """Gates in the order update z, reset r, candidate; h = z h + (1 - z) candidate.

    With ``reset_after`` the bias is [2, 3 units], one row for each kernel, and r acts on h recurrent_kernel;
    without, it acts on h.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.reset_after = config.flag("reset_after", config.version > 2)

    def input_bias(self) -> Tensor | None:
        bias = self.get("bias")
        return bias[0] if bias is not None and self.reset_after else bias

    def step(self, moved: Tensor, states: States) -> States:
        (hidden,) = states
        bias, n = self.get("bias"), self.units
        xz, xr, xh = torch.split(moved, n, 1)
        if self.reset_after:
            inner = F.linear(hidden, self.recurrent_kernel.t(), None if bias is None else bias[1])
            hz, hr, hh = torch.split(inner, n, 1)
            z, r = self.gate(xz + hz), self.gate(xr + hr)
            candidate = self.activation(xh + r * hh)
        else:
            uz, ur, uh = torch.split(self.recurrent_kernel, n, 1)
            z, r = self.gate(xz + F.linear(hidden, uz.t())), self.gate(xr + F.linear(hidden, ur.t()))
            candidate = self.activation(xh + F.linear(r * hidden, uh.t()))
        return [z * hidden + (1 - z) * candidate]
