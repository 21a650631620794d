"""Read named tensors from files without running anything that they contain."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from converters.checkpoints import read_checkpoint
from converters.statedicts import state_dict_of as state_dict_of
from graphnfn.errors import ConversionError

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".jit")
"""Of files that may be a plain MLP's or CNN's; ``.bin`` is a part of Hugging Face folders only."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, safetensors in natural order of their names.

    Raises:
        ConversionError: the file is missing, damaged, unsafe, of another kind, or holds no state dict.
    """
    if path.is_file() and path.suffix not in SUFFIXES:
        raise ConversionError(f"{path}: unknown kind of file {path.suffix!r}; supported: {', '.join(SUFFIXES)}")
    tensors = read_checkpoint(path).tensors
    if path.suffix == ".safetensors":
        return dict(sorted(tensors.items(), key=lambda item: natural(item[0])))
    return tensors


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key in which layer 10 follows layer 9."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]
