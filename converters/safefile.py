"""Safetensors files: where their tensors are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from converters.archive import MAX_BYTES
from converters.places import Place
from graphnfn.errors import ConversionError

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64, "F16": torch.float16,
    "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
}  # fmt: skip


def read(path: Path) -> dict[str, Tensor]:
    """The tensors in the order in which they lie in the file.

    Raises:
        ConversionError: the file is damaged or too large.
    """
    order = index(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return {name: tensors[name] for name in order}


def index(path: Path) -> dict[str, Place]:
    """Where every tensor is.

    Raises:
        ConversionError: the file is damaged or too large, or has a type that PyTorch lacks.
    """
    header, begin = _header(path)
    places = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise ConversionError(f"{path}: {name!r} has type {entry['dtype']}; supported: {', '.join(_DTYPES)}")
        shape, (first, end) = tuple(entry["shape"]), entry["data_offsets"]
        stride = torch.empty(shape, device="meta").stride()
        places[name] = Place(begin + first, end - first, _DTYPES[entry["dtype"]], shape, stride, 0)
    return dict(sorted(places.items(), key=lambda item: item[1].start))


def shared(path: Path) -> dict[str, str]:
    """Names that were left out because they share a tensor -> the name that it has in the file.

    ``safetensors.torch.save_model`` records them in the metadata.
    """
    header, _ = _header(path)
    metadata = header.get("__metadata__", {})
    return {name: kept for name, kept in metadata.items() if kept in header and name not in header}


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """What the file says of its tensors, and where the first begins."""
    if path.stat().st_size > MAX_BYTES:
        raise ConversionError(f"{path} has {path.stat().st_size} bytes; expected at most {MAX_BYTES}")
    try:
        with safe_open(path, "pt"):  # checks that shapes, types and places agree with each other and with the file
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return json.loads(file.read(length)), 8 + length
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ConversionError:
    return ConversionError(f"{path}: damaged safetensors file ({error}); download or save it again")
