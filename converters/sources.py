"""Read named tensors from files without running anything that they contain."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from graphnfn.errors import ConversionError

SUFFIXES = (".safetensors", ".pt", ".pth")
_NESTED = ("state_dict", "model_state_dict", "model")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, safetensors in natural order of their names.

    Raises:
        ConversionError: the file is missing, damaged, unsafe, of another kind, or holds no state dict.
    """
    if not path.is_file():
        raise ConversionError(f"{path}: no such file; expected a checkpoint ({', '.join(SUFFIXES)})")
    if path.suffix not in SUFFIXES:
        raise ConversionError(f"{path}: unknown kind of file {path.suffix!r}; supported: {', '.join(SUFFIXES)}")
    if path.suffix == ".safetensors":
        try:
            return dict(sorted(load_file(path).items(), key=lambda item: natural(item[0])))
        except (SafetensorError, OSError, ValueError) as error:
            raise ConversionError(f"{path}: damaged safetensors file ({error}); download or save it again") from error
    return state_dict_of(_read_torch(path), str(path))


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path}: holds more than tensors, so loading it could run code; it was not loaded. "
            "Save the state dict alone: torch.save(model.state_dict(), path), or use safetensors"
        ) from error
    except Exception as error:  # damaged bytes end in any of Python's errors
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConversionError(f"{path}: damaged or no PyTorch file ({first}); save it again") from error


def state_dict_of(data: Any, name: str) -> dict[str, Tensor]:
    """The named tensors in a loaded checkpoint, which may lie in it under a key such as ``state_dict``.

    Raises:
        ConversionError: there are none.
    """
    if isinstance(data, Mapping):
        for key in _NESTED:
            if isinstance(data.get(key), Mapping):
                return state_dict_of(data[key], name)
        tensors = {k: v for k, v in data.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors and len(tensors) == len(data):
            return tensors
    raise ConversionError(f"{name}: got {_kind(data)}; expected a state dict, parameter names mapped to tensors")


def _kind(data: Any) -> str:
    return f"a mapping with {len(data)} entries" if isinstance(data, Mapping) else f"a {type(data).__name__}"


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key in which layer 10 follows layer 9."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]
