"""``write_keras``: a Keras file with other tensors."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from converters.archive import replacing, rewritten
from converters.keras.files import WEIGHTS, opened
from converters.keras.hdf5 import Stored
from graphnfn.errors import ConversionError

Changes = list[tuple[Stored, np.ndarray]]


def write_keras(like_path: str | Path, tensors: Mapping[str, Any], target: str | Path) -> None:
    """A copy of a Keras file in which some tensors have other values; dtypes stay, all else stays to the bit.

    Args:
        like_path: the file that is copied.
        tensors: name in the file -> tensor or array of the same shape.
        target: where the copy goes; it appears whole or not at all.

    Raises:
        ConversionError: the file is no Keras model, has no tensor of such a name and shape, or its dtype cannot hold
            the values.
    """
    source, target = Path(like_path), Path(target)
    with opened(source) as file:
        changes = []
        for name, value in tensors.items():
            stored = file.index.stored(name)
            if stored.shape != tuple(value.shape):
                raise ConversionError(f"{name!r} has shape {tuple(value.shape)}; the file has {stored.shape} there")
            values = stored.encode(value)
            if values.tobytes() != stored.encode(stored.read()).tobytes():
                changes.append((stored, values))
        with replacing(target) as temporary:
            if file.archive:
                _assign(file.weights, changes)
                changed = file.weights.read_bytes()
                rewritten(source, temporary, lambda name, data: changed if name == WEIGHTS else data)
            else:
                shutil.copyfile(source, temporary)
                _assign(Path(temporary), changes)


def _assign(path: Path, changes: Changes) -> None:
    """Write values where they lie; those in chunks go through the library, which has read this file before."""
    with path.open("r+b") as file:
        for stored, values in changes:
            if stored.whole:
                file.seek(stored.offset)
                file.write(values.tobytes())
    if any(not stored.whole for stored, _ in changes):
        with h5py.File(path, "r+") as root:
            for stored, values in changes:
                found = root[stored.path]
                if isinstance(found, h5py.Dataset) and not stored.whole:
                    found[...] = values
