"""The C functions of zoo builders (``csrc``), an accelerator: without them PyTorch does the same, up to rounding."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from torch import Tensor

from graphnfn.nn.library import TYPES, library

INT, REAL = ctypes.c_int64, ctypes.c_double
FOLDER = Path(__file__).with_name("csrc")


def can_compile(like: Tensor) -> bool:
    """Whether there are compiled functions for such numbers here.

    Example:
        >>> import torch
        >>> can_compile(torch.ones(1, dtype=torch.int64))
        False
    """
    return like.dtype in TYPES and like.device.type == "cpu" and library(like.dtype, FOLDER) is not None


def fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Fields of a structure, all of one type."""
    return [(name, kind) for name in names.split()]


def call(name: str, task: ctypes.Structure, like: Tensor, networks: int) -> None:
    """Call a function for some networks.

    Args:
        name: of the function.
        task: its structure; what it points to has to stay until the call is over.
        like: says for which numbers.
        networks: how many.
    """
    if getattr(library(like.dtype, FOLDER), name)(ctypes.byref(task), INT(networks)):
        raise MemoryError(f"no memory for the scratch space of {name}")
