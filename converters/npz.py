"""NumPy ``.npz`` archives of arrays: read without pickles, written back with the same order and dtypes."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from converters.archive import MAX_BYTES, member, replacing, rewritten
from graphnfn.errors import ConversionError

_SUFFIX = ".npy"


def read_npz(path: str | Path) -> dict[str, Tensor]:
    """The arrays in a file, in its order; arrays of text, such as lists of names, are left out.

    Args:
        path: of the file.

    Raises:
        ConversionError: the file is missing, damaged, too large, or holds Python objects.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/weights.npz", w=np.ones((2, 3), np.float16))
        ...     read_npz(f"{folder}/weights.npz")["w"].dtype
        torch.float16
    """
    path, arrays = Path(path), {}
    if not path.is_file():
        raise ConversionError(f"{path}: no such file; expected a NumPy archive (.npz)")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(_SUFFIX)]
            if len(set(names)) < len(names):
                raise ConversionError(f"{path}: two arrays have the same name; expected different ones")
            if sum(archive.getinfo(name).file_size for name in names) > MAX_BYTES:
                raise ConversionError(f"{path}: the arrays take more than {MAX_BYTES} bytes; expected less")
            for name in names:
                array = _array(f"{path}: {name}", member(archive, name))
                if array.dtype.kind not in "US":
                    native = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("=")).reshape(array.shape)
                    arrays[name.removesuffix(_SUFFIX)] = torch.from_numpy(native)
    except ConversionError:
        raise
    except Exception as error:  # damaged bytes end in any of zipfile's and NumPy's errors
        first = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ConversionError(f"{path}: damaged or no .npz file ({first[:200]}); save it again") from error
    if not arrays:
        raise ConversionError(f"{path}: holds no arrays of numbers; expected an archive made by numpy.savez")
    return arrays


def _array(name: str, data: bytes) -> np.ndarray:
    """The array in the bytes of an ``.npy`` file, whose header must agree with their number."""
    shape, fortran, dtype, start = _header(name, data)
    if dtype.hasobject:
        raise ConversionError(f"{name} holds Python objects, so loading it could run code; it was not loaded")
    if dtype.kind not in "fiubUS" or (dtype.kind not in "US" and dtype.itemsize > 8):
        raise ConversionError(f"{name} holds values of type {dtype}; expected numbers of up to 8 bytes")
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ConversionError(
            f"{name} declares the shape {shape} of {dtype}; the file holds {len(data) - start} bytes for it: "
            "save it again"
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def _header(name: str, data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """(shape, whether the first axis varies fastest, dtype, where the values start)."""
    file = io.BytesIO(data)
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ConversionError(f"{name} has .npy version {version}; expected 1.0 or 2.0: save it again")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype, file.tell()


def write_npz(like_path: str | Path, tensors: Mapping[str, Any], target: str | Path) -> None:
    """A copy of an ``.npz`` file in which some arrays have other values; names, order, dtypes and layouts stay.

    Args:
        like_path: the file that is copied.
        tensors: name -> tensor or array of the same shape.
        target: where the copy goes; it appears whole or not at all.

    Raises:
        ConversionError: the file has no array of such a name and shape, or its dtype cannot hold the values.
    """
    source, target = Path(like_path), Path(target)
    known = read_npz(source)
    for name, value in tensors.items():
        if name not in known or known[name].shape != tuple(value.shape):
            got = tuple(known[name].shape) if name in known else "no such array"
            raise ConversionError(f"{name!r} has shape {tuple(value.shape)}; {source} has {got}")

    def change(file: str, data: bytes) -> bytes:
        name = file.removesuffix(_SUFFIX)
        if name not in tensors or not file.endswith(_SUFFIX):
            return data
        _, fortran, dtype, start = _header(file, data)
        return data[:start] + cast(name, tensors[name], dtype).tobytes("F" if fortran else "C")

    with replacing(target) as temporary:
        rewritten(source, temporary, change)


def cast(name: str, value: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """Values as an array of another dtype.

    Raises:
        ConversionError: finite values are not finite in it.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value  # NumPy has none
    given = np.asarray(value)
    with np.errstate(over="ignore"):
        made = given.astype(dtype)
    if made.dtype.kind == "f" and not np.array_equal(np.isfinite(made), np.isfinite(given)):
        raise ConversionError(
            f"{name!r} holds up to {np.abs(given).max():.3g}, which is not finite as {dtype}: "
            "canonicalize the graph first"
        )
    return made
