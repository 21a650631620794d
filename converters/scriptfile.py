"""TorchScript files: where their tensors are; the programs in them are neither compiled nor run."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.archive import MAX_BYTES, member
from converters.places import Place
from graphnfn.errors import ConversionError

_MAX_PICKLE = 64 << 20
_MAX_NAMES = 200_000
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip
_LOCAL = 30
"""Bytes of a file's header in a zip archive, without its name."""


class _Script:
    """Any object of the file's own classes: its attributes by name."""

    def __init__(self) -> None:
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Makes nothing but plain values, places and :class:`_Script`; every other name is refused."""

    def __init__(self, data: bytes, starts: dict[str, tuple[int, int]]) -> None:
        super().__init__(io.BytesIO(data))
        self.starts = starts

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name.startswith("__torch__"):
            return _Script
        if module_name == "torch" and global_name in _STORAGES:
            return _STORAGES[global_name]
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _place
        if (module_name, global_name) == ("torch._utils", "_rebuild_parameter"):
            return _first
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module_name == "torch.jit._pickle":
            return _first
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> tuple[torch.dtype, int, int]:
        _, dtype, key, _, _ = pid
        return (dtype, *self.starts[f"data/{key}"])


def _first(value: Any, *_: Any) -> Any:
    return value


def _place(storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> Place:
    dtype, start, length = storage
    return Place(start, length, dtype, tuple(map(int, shape)), tuple(map(int, stride)), int(offset))


def is_script(path: Path) -> bool:
    """Whether ``torch.jit.save`` wrote this zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # damaged bytes end in any of Python's errors; the reader of other files says what is wrong
        return False


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Place]]:
    """The tensors, and where they are; tensors of one storage share it.

    Raises:
        ConversionError: as :func:`index`, or the file is too large.
    """
    places = index(path)
    stretches = {(p.start, p.length, p.dtype): p for p in places.values()}
    total, size = sum(p.length for p in stretches.values()), path.stat().st_size
    if max(total, size) > MAX_BYTES or total > size:
        raise ConversionError(
            f"{path}: has {size} bytes and tensors of {total}; expected at most {MAX_BYTES}, and less"
        )
    with path.open("rb") as file:
        storages = {key: place.storage(file) for key, place in stretches.items()}
    tensors = {
        name: storages[p.start, p.length, p.dtype].as_strided(p.shape, p.stride, p.offset)
        for name, p in places.items()
    }  # fmt: skip
    return tensors, places


def index(path: Path) -> dict[str, Place]:
    """Parameters and buffers by their names in the state dict, and further tensors that the modules hold.

    Raises:
        ConversionError: the file is damaged, or names what TorchScript files do not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            main = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            root = main.removesuffix("data.pkl")
            data = member(archive, main, _MAX_PICKLE)
            starts = dict(_starts(archive, root))
        found = dict(_tensors(_Unpickler(data, starts).load()))
    except ConversionError:
        raise
    except Exception as error:  # damaged bytes end in any of Python's errors
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConversionError(f"{path}: damaged TorchScript file ({words[:300]}); save it again") from error
    lost = next((name for name, place in found.items() if not place.fits), None)
    if lost is not None:
        raise ConversionError(
            f"{path}: {lost!r} declares the shape {found[lost].shape}, and {found[lost].length} bytes; save it again"
        )
    return found


def _starts(archive: zipfile.ZipFile, root: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """File in the archive, without its folder -> where it begins, and its length."""
    file = archive.fp
    size = 0 if file is None else file.seek(0, io.SEEK_END)
    for info in archive.infolist():
        if file is None or not info.filename.startswith(f"{root}data/"):
            continue
        file.seek(info.header_offset)
        header = file.read(_LOCAL)
        start = info.header_offset + _LOCAL + int.from_bytes(header[26:28], "little")
        start += int.from_bytes(header[28:30], "little")
        if info.compress_type != zipfile.ZIP_STORED or start + info.file_size > size:
            raise ConversionError(f"{archive.filename}: {info.filename} is packed or cut off; save it again")
        yield info.filename.removeprefix(root), (start, info.file_size)


def _tensors(root: Any) -> Iterator[tuple[str, Place]]:
    open_: list[tuple[str, Any]] = [("", root)]
    for _ in range(_MAX_NAMES):
        if not open_:
            return
        name, value = open_.pop()
        if isinstance(value, Place):
            yield name, value
        elif isinstance(value, _Script) and isinstance(value.state, dict):
            inside = [(f"{name}.{key}" if name else str(key), part) for key, part in value.state.items()]
            open_ += inside[::-1]
    raise ConversionError(f"more than {_MAX_NAMES} names in a TorchScript file; expected fewer")
