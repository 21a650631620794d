"""What a reader of a file format hands over: a module that runs, with the source's own tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Loaded:
    """A network that was read from a file.

    Args:
        module: runs the network, in eval mode; its parameters and buffers are the source's tensors as they are stored.
        inputs: small inputs that it takes.
        names: name in the module's state dict -> the tensor's name in the source.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    names: Mapping[str, str]
