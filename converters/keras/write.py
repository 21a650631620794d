"""``write_keras``: a Keras file with other tensors."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from converters.archive import replacing, rewritten
from converters.keras.files import WEIGHTS, dataset, opened
from converters.npz import cast
from graphnfn.errors import ConversionError


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
        archive = file.archive
        for name, value in tensors.items():
            found = dataset(file.root, name)
            if found.shape != tuple(value.shape):
                raise ConversionError(f"{name!r} has shape {tuple(value.shape)}; {source} has {found.shape} there")
    with replacing(target) as temporary:
        if archive:
            rewritten(source, temporary, lambda name, data: _changed(data, tensors) if name == WEIGHTS else data)
        else:
            shutil.copyfile(source, temporary)
            with h5py.File(temporary, "r+") as root:
                _assign(root, tensors)


def _changed(data: bytes, tensors: Mapping[str, Any]) -> bytes:
    file = io.BytesIO(data)
    with h5py.File(file, "r+") as root:
        _assign(root, tensors)
    return file.getvalue()


def _assign(root: h5py.File, tensors: Mapping[str, Any]) -> None:
    for name, value in tensors.items():
        found = dataset(root, name)
        array = cast(name, value, found.dtype)
        if found[()].tobytes() != array.tobytes():  # unchanged values stay untouched, so does their storage
            found[...] = array
