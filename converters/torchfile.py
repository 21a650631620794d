"""Files that ``torch.save`` made: checked before they are read, indexed without reading, rewritten in place."""

from __future__ import annotations

import pickle
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from converters.archive import MAX_BYTES
from converters.places import Place
from graphnfn.errors import ConversionError

_ZIP = b"PK\x03\x04"
_RECORD, _LOCAL, _DESCRIPTOR = 46, 30, b"PK\x07\x08"
"""Bytes of an entry in a zip's directory and of a file's header there, without their names; what may follow data."""


def is_zip(path: Path) -> bool:
    """Whether ``torch.save`` wrote a zip archive; it did not before PyTorch 1.6."""
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def load(path: Path, device: str = "cpu") -> Any:
    """What is in the file; on the device ``meta`` nothing but names, types, shapes and places.

    Raises:
        ConversionError: the file is damaged, too large, or holds more than tensors and plain values.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ConversionError(f"{path} has {path.stat().st_size} bytes; expected at most {MAX_BYTES}")
    try:
        if is_zip(path):
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location=device, weights_only=True)
    except ConversionError:
        raise
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path}: holds more than tensors{_culprit(error)}, so loading it could run code; it was not loaded. "
            "Save the state dict alone: torch.save(model.state_dict(), path), or use safetensors"
        ) from error
    except Exception as error:  # damaged bytes end in any of Python's errors
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConversionError(f"{path}: damaged or no PyTorch file ({first[:300]}); save it again") from error


def _culprit(error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f" ({found[1]})" if found else ""


def _check_archive(path: Path) -> None:
    """``torch.save`` does not pack: what is unpacked is no larger than the file."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = next((m.filename for m in members if m.compress_type != zipfile.ZIP_STORED), None)
    if packed:
        raise ConversionError(f"{path}: {packed} is packed; torch.save does not do that: load and save it again")
    claimed = sum(member.file_size for member in members)
    if claimed > path.stat().st_size:
        raise ConversionError(f"{path}: its parts claim {claimed} bytes, the file has {path.stat().st_size}")


def place_of(tensor: Tensor) -> Place | None:
    """Where a tensor that was loaded on the device ``meta`` lies in its archive; None where nowhere as such."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return None
    storage = tensor.untyped_storage()
    start = vars(storage).get("_checkpoint_offset")  # documented in PyTorch's notes on serialization
    if start is None:
        return None
    offset = int(tensor.storage_offset())
    return Place(int(start), storage.nbytes(), tensor.dtype, tuple(tensor.shape), tensor.stride(), offset)


def check_byte_order(path: Path) -> None:
    """Values are written as they lie in memory.

    Raises:
        ConversionError: the file has the other order, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((n for n in archive.namelist() if n.endswith("/byteorder")), None)
            order = archive.read(name).decode() if name else sys.byteorder
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise ConversionError(f"{path}: damaged archive ({str(error)[:200]}); save it again") from error
    if order != sys.byteorder:
        raise ConversionError(
            f"{path}: has {order[:9]!r} byte order, this machine {sys.byteorder!r}: save it again here"
        )


def repair_checksums(file: BinaryIO, starts: Iterable[int]) -> None:
    """Bring the checksums of an archive up to date after its files at some places were rewritten.

    Raises:
        ConversionError: there is no file at one of these places.
    """
    changed = set(starts)
    with zipfile.ZipFile(file) as archive:
        members, directory = archive.infolist(), archive.start_dir
    for member in members:
        file.seek(directory)
        record = file.read(_RECORD)
        file.seek(member.header_offset)
        header = file.read(_LOCAL)
        start = member.header_offset + _LOCAL + _number(header, 26) + _number(header, 28)
        if start in changed:
            changed.remove(start)
            file.seek(start)
            checksum = zlib.crc32(file.read(member.file_size)).to_bytes(4, "little")
            follows = file.read(4)
            places = [directory + 16, member.header_offset + 14]
            if member.flag_bits & 8:  # the header has none; it comes after the data
                places[1:] = [start + member.file_size + 4 * (follows == _DESCRIPTOR)]
            for place in places:
                file.seek(place)
                file.write(checksum)
        directory += _RECORD + sum(_number(record, at) for at in (28, 30, 32))
    if changed:
        raise ConversionError("the archive's directory does not list all of its tensors; save it again")


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")
