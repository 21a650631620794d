"""Open Keras files without trusting them: HDF5 with ``model_config``, and the ``.keras`` archive."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.archive import MAX_BYTES, member
from converters.keras.hdf5 import Index, index
from graphnfn.errors import ConversionError

MAX_CONFIG = 64 << 20
WEIGHTS = "model.weights.h5"
_CONFIG, _METADATA = "config.json", "metadata.json"


@dataclass(frozen=True)
class Opened:
    """An open file.

    Args:
        weights: the HDF5 file with the weights; unpacked from an archive, it is a copy that vanishes with it.
        index: of this file.
        config: the model's configuration.
        version: major version of the Keras that wrote it.
        archive: whether it is a ``.keras`` archive, which numbers weights instead of naming them.
    """

    weights: Path
    index: Index
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
        with tempfile.TemporaryDirectory() as folder:
            yield _archive(path, Path(folder)) if zipfile.is_zipfile(path) else _hdf5(path, Path(folder))
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error
    except Exception as error:  # damaged bytes end in any of Python's errors
        first = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ConversionError(f"{path}: damaged or no Keras file ({first[:200]}); save the model again") from error


def _archive(path: Path, folder: Path) -> Opened:
    with zipfile.ZipFile(path) as archive:
        config, about = (json.loads(member(archive, name, MAX_CONFIG)) for name in (_CONFIG, _METADATA))
        (folder / WEIGHTS).write_bytes(member(archive, WEIGHTS))
    version = about.get("keras_version") if isinstance(about, dict) else None
    return Opened(folder / WEIGHTS, index(folder / WEIGHTS, folder), config, _major(version), True)


def _hdf5(path: Path, folder: Path) -> Opened:
    found = index(path, folder)
    if "model_config" not in found.attributes:
        raise ConversionError(
            "holds no model_config, so its layers are unknown; save the whole model: model.save('model.keras')"
        )
    config = json.loads(found.attributes["model_config"])
    return Opened(path, found, config, _major(found.attributes.get("keras_version", "2")), False)


def _major(version: Any) -> int:
    major = str(version).partition(".")[0]
    if major not in ("2", "3"):
        raise ConversionError(f"written by Keras {str(version)[:20]!r}; expected Keras 2 or 3, save the model with one")
    return int(major)
