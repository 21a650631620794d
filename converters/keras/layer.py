"""What every Keras layer is here: an nn.Module that holds the file's tensors as they are stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from converters.keras.config import Config
from graphnfn.errors import ConversionError


@dataclass(frozen=True)
class Slot:
    """A weight that a layer has in the file.

    Args:
        name: of the module's parameter.
        part: inner object of the layer that owns it, as the ``.keras`` format names it, e.g. ``cell``.
        trained: False for running statistics; the H5 format stores them behind the trained ones.
    """

    name: str
    part: str = ""
    trained: bool = True


class Layer(nn.Module):
    """A layer: its slots are known from its configuration, its tensors come later, by :meth:`hold`.

    ``forward`` takes the values as Keras lays them out, the batch first; ``mask`` says which time steps count.
    """

    keeps_mask = False
    """Whether a mask on the input also holds for the output."""
    uses_mask = False
    """Whether ``forward`` takes ``mask``."""
    reads_indices = False
    """Whether the input is a tensor of indices."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.slots: list[Slot] = []

    def hold(self, slot: Slot, value: Tensor) -> None:
        """Take the tensor of a slot."""
        if slot.trained and value.is_floating_point():
            self.register_parameter(slot.name, nn.Parameter(value, requires_grad=False))
        else:
            self.register_buffer(slot.name, value)

    def get(self, name: str) -> Tensor | None:
        """The tensor of a slot, or None where the layer has no such slot."""
        return getattr(self, name) if any(slot.name == name for slot in self.slots) else None

    def inner(self) -> list[tuple[str, Layer]]:
        """Layers inside this one, in the file's order, under the names that the ``.keras`` format gives them."""
        return []

    def next_mask(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """The mask of the output."""
        return mask if self.keeps_mask else None


class Apply(Layer):
    """A layer without tensors.

    Args:
        config: of the layer.
        function: from the input to the output.
        keeps_mask: whether the time steps stay what they are.
    """

    def __init__(self, config: Config, function: Callable[[Tensor], Tensor], keeps_mask: bool = True) -> None:
        super().__init__(config)
        self.function, self.keeps_mask = function, keeps_mask

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


Build = Callable[[Config], Layer]
Built = TypeVar("Built", bound=Build)
LAYERS: dict[str, Build] = {}
"""Class of a Keras layer -> what builds it."""


def layer(*kinds: str) -> Callable[[Built], Built]:
    """Register a builder for classes of layers."""

    def register(build: Built) -> Built:
        for kind in kinds:
            LAYERS[kind] = build
        return build

    return register


def channels_to_second(x: Tensor, config: Config) -> Tensor:
    """[batch, ...positions, channels] -> [batch, channels, ...positions], as torch's operators take it."""
    return x if config.channels_first or x.dim() < 3 else x.permute(0, -1, *range(1, x.dim() - 1))


def channels_back(x: Tensor, config: Config) -> Tensor:
    """The inverse of :func:`channels_to_second`."""
    return x if config.channels_first or x.dim() < 3 else x.permute(0, *range(2, x.dim()), 1)


def weight_axes(kernel: Tensor, *tail: int) -> Tensor:
    """Put the last two axes of a stored kernel first, in the order ``tail``, and the positions behind them."""
    rank = kernel.dim() - 2
    return kernel.permute([rank + t for t in tail] + list(range(rank)))


def zeros(x: Tensor, *shape: int) -> Tensor:
    """Zeros of the dtype and device of ``x``."""
    return torch.zeros(shape, dtype=x.dtype, device=x.device)


def describe(entry: Any, version: int) -> Config:
    """The class, name and settings of a layer from its entry in a model's configuration.

    Raises:
        ConversionError: the entry has another form.
    """
    if not isinstance(entry, Mapping) or not isinstance(entry.get("class_name"), str):
        raise ConversionError(f"got {repr(entry)[:80]}, expected the configuration of a layer; save the model again")
    kind, values = entry["class_name"], entry.get("config")
    if isinstance(values, list) and kind == "Sequential":
        values = {"layers": values}  # as Keras wrote it up to version 2.2
    if not isinstance(values, Mapping):
        raise ConversionError(f"layer of class {kind!r}: got config={repr(values)[:60]}, expected a mapping")
    module = str(entry.get("module") or "")
    if module.startswith("keras.src.ops"):
        kind = f"ops.{kind}"
    name = values.get("name", entry.get("name", kind))
    if not isinstance(name, str):
        raise ConversionError(f"layer of class {kind!r}: got name={repr(name)[:60]}, expected text")
    return Config(kind, name, values, version)


def build(config: Config) -> Layer:
    """The layer that a configuration describes, without its tensors.

    Raises:
        ConversionError: there is no rule for its class, or its settings make no sense.
    """
    if config.kind not in LAYERS:
        raise ConversionError(
            f"layer {config.name!r}: no rule for class {config.kind!r}. Lambda layers and layers of one's own are "
            "code, which is not run: give the model as an nn.Module or ONNX instead"
        )
    return LAYERS[config.kind](config)
