"""What stands in place of packages that official codes import and that are not installed.

Packages for pictures, logging and data files only are empty; ``rff``, two lines of arithmetic, is replaced.
"""

from __future__ import annotations

import math
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

STUBS = (
    "torchvision", "torchvision.transforms", "torchvision.utils", "torchvision.models",
    "torchvision.models.vision_transformer", "wandb", "perceiver_pytorch", "cv2",
    "experiments.transformer_generalization", "experiments.transformer_generalization.utils",
)  # fmt: skip


class _Anything(type):
    """Has every attribute, as modules that are reached through their package need it."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


class Nothing(metaclass=_Anything):
    """Takes the place of anything in a stubbed module, of classes to inherit from, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Nothing:
        return self

    def __getattr__(self, name: str) -> Nothing:
        return Nothing()


class Stub(ModuleType):
    """A module of nothings."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__, self.__spec__ = [], ModuleSpec(name, None)

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


class GaussianEncoding(nn.Module):
    """``[cos 2 pi B x, sin 2 pi B x]`` with fixed normal B, the one class of ``rff`` that is used."""

    def __init__(self, sigma: float, input_size: int, encoded_size: int) -> None:
        super().__init__()
        self.register_buffer("b", sigma * torch.randn(encoded_size, input_size))

    def forward(self, values: Tensor) -> Tensor:
        angle = 2 * math.pi * values @ self.get_buffer("b").T
        return torch.cat([angle.cos(), angle.sin()], -1)


def stubs() -> dict[str, ModuleType]:
    """Modules to put in place of those that are not installed."""
    found: dict[str, ModuleType] = {name: Stub(name) for name in STUBS}
    rff, layers = Stub("rff"), Stub("rff.layers")
    layers.__dict__["GaussianEncoding"] = GaussianEncoding
    moved = {"torch_geometric.utils.trim_to_layer": import_module("torch_geometric.utils._trim_to_layer")}
    return found | moved | {"rff": rff, "rff.layers": layers}
