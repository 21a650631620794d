"""Layers around layers, and masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from converters.keras.config import Config
from converters.keras.layer import Layer, build, describe, layer
from converters.keras.recurrent import Recurrent
from graphnfn.errors import ConversionError


@layer("Masking")
class Masking(Layer):
    """Steps whose features all equal a value do not count, and become zero."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.value = config.number("mask_value", 0.0)

    def next_mask(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        return (x != self.value).any(-1)

    def forward(self, x: Tensor) -> Tensor:
        return x * (x != self.value).any(-1, keepdim=True)


@layer("TimeDistributed")
class TimeDistributed(Layer):
    """One layer on every time step."""

    keeps_mask = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.layer = build(describe(config.values.get("layer"), config.version))
        self.reads_indices = self.layer.reads_indices

    def inner(self) -> list[tuple[str, Layer]]:
        return [("layer", self.layer)]

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x.flatten(0, 1))
        return out.unflatten(0, x.shape[:2])


@layer("Bidirectional")
class Bidirectional(Layer):
    """Two recurrent layers, one from the end to the start, and their outputs joined step by step."""

    uses_mask = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        entry = config.values.get("layer")
        forward = describe(entry, config.version)
        other = config.values.get("backward_layer")
        if isinstance(other, Mapping):
            backward = describe(other, config.version)
        else:
            turned = not forward.flag("go_backwards", False)
            backward = Config(forward.kind, forward.name, {**forward.values, "go_backwards": turned}, config.version)
        self.forward_layer, self.backward_layer = _recurrent(forward), _recurrent(backward)
        self.merge = config.choice("merge_mode", "concat", "concat", "sum", "mul", "ave")

    def inner(self) -> list[tuple[str, Layer]]:
        return [("forward_layer", self.forward_layer), ("backward_layer", self.backward_layer)]

    def next_mask(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        return self.forward_layer.next_mask(x, mask)

    def forward(self, x: Tensor, *initial: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        half = len(initial) // 2
        ahead = self.forward_layer(x, *initial[:half], mask=mask)
        back = self.backward_layer(x, *initial[half:], mask=mask)
        a, b = (ahead[0], back[0]) if isinstance(ahead, tuple) else (ahead, back)
        if self.backward_layer.sequences:
            b = b.flip(1)
        joined = {
            "concat": lambda: torch.cat([a, b], -1),
            "sum": lambda: a + b,
            "mul": lambda: a * b,
            "ave": lambda: (a + b) / 2,
        }[self.merge]()
        return (joined, *ahead[1:], *back[1:]) if isinstance(ahead, tuple) else joined


def _recurrent(config: Config) -> Recurrent:
    built = build(config)
    if not isinstance(built, Recurrent):
        raise ConversionError(f"layer {config.name!r}: got {config.kind}, expected a recurrent layer in Bidirectional")
    return built
