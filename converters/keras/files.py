"""Open Keras files without trusting them: HDF5 with ``model_config``, and the ``.keras`` archive."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from converters.archive import MAX_BYTES, MAX_RATIO, member
from graphnfn.errors import ConversionError

MAX_CONFIG = 64 << 20
WEIGHTS = "model.weights.h5"
_CONFIG, _METADATA = "config.json", "metadata.json"


@dataclass(frozen=True)
class Opened:
    """An open file.

    Args:
        root: the HDF5 file with the weights.
        config: the model's configuration.
        version: major version of the Keras that wrote it.
        archive: whether it is a ``.keras`` archive, which numbers weights instead of naming them.
    """

    root: h5py.File
    config: Any
    version: int
    archive: bool


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Open a file for reading.

    Raises:
        ConversionError: it is missing, damaged, too large, or holds no model.
    """
    if not path.is_file():
        raise ConversionError(f"{path}: no such file; expected a Keras model (.h5, .hdf5, .keras)")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ConversionError(f"{path}: {size} bytes; expected at most {MAX_BYTES}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                config, version = _json(archive, _CONFIG), _json(archive, _METADATA)
                data = member(archive, WEIGHTS)
            with h5py.File(io.BytesIO(data), "r") as root:
                yield Opened(root, config, _major(version.get("keras_version")), True)
        else:
            with h5py.File(path, "r") as root:
                if "model_config" not in root.attrs:
                    raise ConversionError(
                        f"{path}: holds weights but no model_config, so the layers are unknown; "
                        "save the whole model: model.save('model.keras')"
                    )
                text = root.attrs["model_config"]
                yield Opened(root, _parse(text), _major(_keras_version(root)), False)
    except ConversionError:
        raise
    except Exception as error:  # damaged bytes end in any of h5py's and zipfile's errors
        first = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ConversionError(f"{path}: damaged or no Keras file ({first[:200]}); save the model again") from error


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    value = _parse(member(archive, name, MAX_CONFIG))
    if not isinstance(value, dict):
        raise ConversionError(f"{archive.filename}: {name} holds a {type(value).__name__}, expected a mapping")
    return value


def _parse(text: Any) -> Any:
    if not isinstance(text, str | bytes):
        raise ConversionError(f"the model's configuration is a {type(text).__name__}; expected text")
    return json.loads(text)


def _keras_version(root: h5py.File) -> Any:
    found = root.attrs.get("keras_version", "2")
    return found.decode() if isinstance(found, bytes) else found


def _major(version: Any) -> int:
    major = str(version).partition(".")[0]
    if major not in ("2", "3"):
        raise ConversionError(f"written by Keras {str(version)[:20]!r}; expected Keras 2 or 3, save the model with one")
    return int(major)


def dataset(root: h5py.File, path: str) -> h5py.Dataset:
    """A tensor stored in this very file: no links to other files, no views, no external storage."""
    group: Any = root
    for part in path.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) and part in group else None
        if not isinstance(link, h5py.HardLink):
            raise ConversionError(f"{path!r}: got {type(link).__name__}, expected a tensor in the file itself")
        group = group[part]
    if not isinstance(group, h5py.Dataset) or group.shape is None:
        raise ConversionError(f"{path!r}: got {type(group).__name__}, expected a tensor")
    if group.external or group.is_virtual:
        raise ConversionError(f"{path!r}: its values lie in other files; expected them in this one")
    return group


def tensor(found: h5py.Dataset) -> Tensor:
    """The values of a dataset, once what it declares is known to be there."""
    kind, stored = found.dtype, found.id.get_storage_size()
    if kind.kind not in "fiub" or kind.itemsize > 8:
        raise ConversionError(f"{found.name}: got values of type {kind}, expected numbers of up to 8 bytes")
    room = stored * (MAX_RATIO if found.compression is not None else 1)
    if found.nbytes > min(room, MAX_BYTES):
        raise ConversionError(f"{found.name}: declares {found.nbytes} bytes of values, the file holds {stored}")
    values = np.asarray(found[()])
    return torch.from_numpy(values.astype(kind.newbyteorder("=")))
