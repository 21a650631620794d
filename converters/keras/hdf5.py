"""Tensors in an HDF5 file, which is not trusted: another process says where they lie, this one reads them there."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.archive import MAX_BYTES
from converters.npz import cast
from graphnfn.errors import ConversionError

_PROGRAM = Path(__file__).with_name("hdf5_index.py")
MAX_SECONDS = 8.0
"""How long the other process may take for every 64 MiB of the file."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Args:
        path: its name.
        shape: its sizes.
        dtype: NumPy's name of its type, or ``bfloat16``.
        file: where its values are.
        offset: of the first value.
        whole: whether they lie there in the HDF5 file itself; if not, they were unpacked from it.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    file: Path
    offset: int
    whole: bool

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The type of the stored bytes."""
        return np.dtype("<u2" if self.dtype == "bfloat16" else self.dtype)

    @property
    def nbytes(self) -> int:
        """How many bytes the values take."""
        return math.prod(self.shape) * self.numpy_dtype.itemsize

    def read(self) -> Tensor:
        """The values.

        Raises:
            ConversionError: the file ends before they do.
        """
        if self.offset + self.nbytes > self.file.stat().st_size:
            raise ConversionError(f"{self.path!r} takes {self.nbytes} bytes, but the file ends before; it is damaged")
        raw = np.fromfile(self.file, np.uint8, self.nbytes, offset=self.offset).view(self.numpy_dtype)
        values = torch.from_numpy(raw.astype(raw.dtype.newbyteorder("=")).reshape(self.shape))
        return values.view(torch.bfloat16) if self.dtype == "bfloat16" else values

    def encode(self, value: Any) -> np.ndarray:
        """Other values of the same shape, as they are stored."""
        if self.dtype != "bfloat16":
            return cast(self.path, value, self.numpy_dtype)
        return torch.as_tensor(value).detach().cpu().to(torch.bfloat16).contiguous().view(torch.uint16).numpy()


@dataclass(frozen=True)
class Index:
    """What an HDF5 file holds.

    Args:
        attributes: texts of the file itself.
        weight_names: group -> the tensors that Keras lists for it.
        tensors: name -> what is known of it.
    """

    attributes: Mapping[str, Any]
    weight_names: Mapping[str, list[str]]
    tensors: Mapping[str, Stored | str]

    def stored(self, path: str) -> Stored:
        """A tensor by its name.

        Raises:
            ConversionError: there is none of that name in the file itself, or it cannot be read.
        """
        found = self.tensors.get(path)
        if found is None:
            raise ConversionError(f"{path!r}: no such tensor in the file itself; save the whole model again")
        if isinstance(found, str):
            raise ConversionError(f"{path!r} cannot be read: {found}")
        return found


def index(path: Path, folder: Path) -> Index:
    """What an HDF5 file holds; values that must be unpacked go into a file in ``folder``.

    Raises:
        ConversionError: it is damaged, or takes the library too much time or memory.
    """
    unpacked = folder / "unpacked"
    command = [sys.executable, "-I", str(_PROGRAM), str(path.resolve()), str(unpacked), str(MAX_BYTES)]
    seconds = MAX_SECONDS * (1 + path.stat().st_size // (64 << 20))
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ConversionError(f"got no answer of the HDF5 library within {seconds:.0f} s: it is damaged") from None
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["the HDF5 library crashed on it"])[-1]
        raise ConversionError(f"damaged or no HDF5 file ({last[:200]}); save the model again")
    facts = json.loads(done.stdout)
    tensors = {name: _stored(name, fact, path, unpacked) for name, fact in facts["tensors"].items()}
    return Index(facts["attributes"], facts["weight_names"], tensors)


def _stored(name: str, fact: Mapping[str, Any], path: Path, unpacked: Path) -> Stored | str:
    if "refused" in fact:
        return str(fact["refused"])
    whole = fact["offset"] is not None
    place = (path, fact["offset"]) if whole else (unpacked, fact["unpacked"])
    return Stored(name, tuple(fact["shape"]), fact["dtype"], *place, whole)
