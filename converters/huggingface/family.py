"""What a family of architectures tells the loader."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import nn

from converters.huggingface.config import Config

TOKENS = 6
"""Length of the example sequences."""
Build = Callable[[Config, Collection[str]], nn.Module]


@dataclass(frozen=True)
class Family:
    """One family.

    Args:
        build: (configuration, names of the tensors in the files) -> module.
        base: prefix that files have for the body of models with a head, and often leave out otherwise.
        blocks: what the names of tensors in the blocks begin with, behind the prefix: none of them may be left over.
        unused: names in the blocks that hold no weights, such as stored masks.
        tied: (head, embedding): pairs of names that files may hold once or twice.
        images: whether it takes images rather than tokens.
    """

    build: Build
    base: str
    blocks: str
    unused: re.Pattern[str]
    tied: tuple[tuple[str, str], ...] = ()
    images: bool = False

    def has(self, names: Collection[str], start: str) -> bool:
        """Whether there are tensors whose names begin so, with or without the prefix."""
        return any(name.removeprefix(self.base).startswith(start) for name in names)
