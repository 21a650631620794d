"""Tensors in an ONNX file: checked against their declared size before anything is allocated."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from graphnfn.errors import ConversionError

MAX_BYTES = 4 << 30
"""No file and no tensor may be larger."""

_P = TensorProto
TYPES: dict[int, torch.dtype] = {
    _P.FLOAT: torch.float32, _P.DOUBLE: torch.float64, _P.FLOAT16: torch.float16, _P.BFLOAT16: torch.bfloat16,
    _P.INT8: torch.int8, _P.INT16: torch.int16, _P.INT32: torch.int32, _P.INT64: torch.int64,
    _P.UINT8: torch.uint8, _P.UINT16: torch.uint16, _P.UINT32: torch.uint32, _P.UINT64: torch.uint64,
    _P.BOOL: torch.bool,
}  # fmt: skip
"""Element type in the file -> PyTorch's."""
TYPED: dict[int, str] = {
    **dict.fromkeys(TYPES, "int32_data"), _P.FLOAT: "float_data", _P.DOUBLE: "double_data", _P.INT64: "int64_data",
    _P.UINT32: "uint64_data", _P.UINT64: "uint64_data",
}  # fmt: skip
"""Element type -> the field that holds it where ``raw_data`` does not."""


def array_of(tensor: TensorProto, folder: Path) -> np.ndarray:
    """The values of a tensor; ``bfloat16`` is ml_dtypes' type.

    Args:
        tensor: as it is in the file.
        folder: where the model lies; values in another file must lie below it.

    Raises:
        ConversionError: its type is not supported, or its size is not the declared one.
    """
    size = declared_bytes(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        path, start = external(tensor, folder)
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(size)
        inner = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=data)
        return numpy_helper.to_array(inner)
    count = math.prod(tensor.dims)
    raw, typed = len(tensor.raw_data), len(getattr(tensor, TYPED[tensor.data_type]))
    if not ((raw == size and not typed) or (typed == count and not raw)):
        got = f"{raw} bytes" if raw or not typed else f"{typed} values"
        raise _bad(tensor, f"has {got}; its shape {tuple(tensor.dims)} asks for {count} values, {size} bytes")
    return numpy_helper.to_array(tensor)


def declared_bytes(tensor: TensorProto) -> int:
    """The size that type and shape declare.

    Raises:
        ConversionError: no tensor of ours is like that.
    """
    kind = TYPES.get(tensor.data_type)
    if kind is None:
        known = _P.DataType.Name(tensor.data_type) if tensor.data_type in _P.DataType.values() else tensor.data_type
        raise _bad(tensor, f"has element type {known}, which is not supported; save it as float or integers")
    if len(tensor.dims) > 16 or any(d < 0 for d in tensor.dims):
        raise _bad(tensor, f"has shape {tuple(tensor.dims)[:17]}; sizes must not be negative, nor axes more than 16")
    size = math.prod(tensor.dims) * kind.itemsize
    if size > MAX_BYTES:
        raise _bad(tensor, f"declares {size} bytes; the limit is {MAX_BYTES}")
    return size


def external(tensor: TensorProto, folder: Path) -> tuple[Path, int]:
    """File and offset of a tensor that lies outside the model's file.

    Raises:
        ConversionError: the file is not below ``folder``, is missing, or too short.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    home = folder.resolve()
    path = Path(os.path.normpath(home / location))
    if not location or "\0" in location or Path(location).is_absolute() or not path.resolve().is_relative_to(home):
        raise _bad(tensor, f"lies in {location!r}; its file must be in the model's own folder, by a relative path")
    if not path.is_file():
        raise _bad(tensor, f"lies in {location!r}, which is missing; put that file beside the model")
    size = declared_bytes(tensor)
    try:
        start, length = int(entries.get("offset") or 0), int(entries.get("length") or size)
    except ValueError as error:
        raise _bad(tensor, f"has an offset or length in {location!r} that is no number") from error
    if length != size or start < 0 or start + size > path.stat().st_size:
        raise _bad(
            tensor, f"takes bytes {start} to {start + length} of {location!r}; its shape asks for {size} bytes and "
            f"the file has {path.stat().st_size}",
        )  # fmt: skip
    return path, start


def to_torch(array: np.ndarray) -> Tensor:
    """A tensor with its own memory."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array.view(np.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def to_numpy(value: Tensor) -> np.ndarray:
    """The other way; ``bfloat16`` becomes ``float32``, which holds all its values."""
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _bad(tensor: TensorProto, problem: str) -> ConversionError:
    return ConversionError(f"tensor {tensor.name!r} {problem}")
