"""Checkpoints that hold objects beside tensors: objects become inert records, no class is imported, no code runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from converters import torchfile
from graphnfn.errors import ConversionError

_HARMLESS = re.compile(
    r"(omegaconf|typing|pathlib|collections|numpy|ray|experiments|checkpoints_to_datasets|model_definitions)(\.\w+)+"
    r"|builtins\.(dict|list|int|float|str|bool|tuple|set|object)"
)
"""Classes whose instances are known to lie in published zoos. Others are refused, though they would be as inert."""
_DEPTH = 12


class Inert:
    """Stands for an object whose class is not imported.

    Attributes:
        args: what it would have been made from.
        state: what it would have been filled with.
    """

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Inert:
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


@lru_cache(maxsize=1024)
def _stand_in(name: str) -> type[Inert]:
    return type(name.rpartition(".")[2], (Inert,), {})


def load_inert(path: Path) -> Any:
    """What is in a file made by ``torch.save``: tensors and plain values as they are, known objects as :class:`Inert`.

    The restricted unpickler of PyTorch reads it (``weights_only=True``); every name that it does not know stands for
    an :class:`Inert` class of ours, so nothing else can be built or called.

    Raises:
        ConversionError: the file is missing, damaged, or holds objects of other classes.
    """
    if not path.is_file():
        raise ConversionError(f"{path}: no such file; copy the whole zoo, or correct the list of splits")
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path) if torchfile.is_zip(path) else []
    except Exception:  # damaged bytes end in any of Python's errors; load says which
        unknown = []
    names = [name for name in unknown if _HARMLESS.fullmatch(name)]
    with torch.serialization.safe_globals([(_stand_in(name), name) for name in names]):
        return torchfile.load(path)


def plain(value: Any, depth: int = _DEPTH) -> Any:
    """Configurations as plain values: OmegaConf's containers and nodes, and dataclasses, unwrapped.

    Raises:
        ConversionError: it is nested too deeply.

    Example:
        >>> node = Inert()
        >>> node.__setstate__({"_content": {"n": 3}, "_metadata": None})
        >>> plain({"config": node})
        {'config': {'n': 3}}
    """
    if depth == 0:
        raise ConversionError(f"a configuration is nested more than {_DEPTH} deep; expected a checkpoint's own")
    if isinstance(value, Inert):
        if not isinstance(value.state, Mapping):
            return value
        inner = next((value.state[key] for key in ("_content", "_val") if key in value.state), value.state)
        return plain(inner, depth - 1)
    if isinstance(value, Mapping):
        return {key: plain(inner, depth - 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, depth - 1) for inner in value]
    return value
