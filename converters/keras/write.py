"""``write_keras``: a Keras file with other tensors."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from converters.keras.files import MAX_BYTES, WEIGHTS, dataset, member, opened
from graphnfn.errors import ConversionError


def write_keras(like_path: str | Path, tensors: Mapping[str, Any], target: str | Path) -> None:
    """A copy of a Keras file in which some tensors have other values; dtypes stay, all else stays to the bit.

    Args:
        like_path: the file that is copied.
        tensors: name in the file -> tensor or array of the same shape.
        target: where the copy goes; it appears whole or not at all.

    Raises:
        ConversionError: the file is no Keras model, or has no tensor of such a name and shape.
    """
    source, target = Path(like_path), Path(target)
    with opened(source) as file:
        archive = file.archive
        for name, value in tensors.items():
            found = dataset(file.root, name)
            if found.shape != tuple(value.shape):
                raise ConversionError(f"{name!r} has shape {tuple(value.shape)}; {source} has {found.shape} there")
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    os.close(handle)
    try:
        if archive:
            _write_archive(source, tensors, temporary)
        else:
            shutil.copyfile(source, temporary)
            with h5py.File(temporary, "r+") as root:
                _assign(root, tensors)
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _write_archive(source: Path, tensors: Mapping[str, Any], temporary: str) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(temporary, "w") as new:
        for info in old.infolist():
            data = member(old, info.filename, MAX_BYTES)
            if info.filename == WEIGHTS:
                changed = io.BytesIO(data)
                with h5py.File(changed, "r+") as root:
                    _assign(root, tensors)
                data = changed.getvalue()
            new.writestr(info, data)


def _assign(root: h5py.File, tensors: Mapping[str, Any]) -> None:
    for name, value in tensors.items():
        found = dataset(root, name)
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        with np.errstate(over="ignore"):
            array = array.astype(found.dtype)
        if not np.isfinite(array).all() and bool(torch.as_tensor(np.asarray(value)).isfinite().all()):
            raise ConversionError(f"{name!r} holds values that are not finite as {found.dtype}; canonicalize first")
        if found[()].tobytes() != array.tobytes():
            found[...] = array
