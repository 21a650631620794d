"""A program of its own: print what an HDF5 file holds, and where.

The HDF5 library can crash on damaged bytes, or run for ever.  So it reads them in this short-lived process, with
bounded memory, and the caller reads the values itself, at the places that are printed.  Values without one place, in
chunks or in the header of their dataset, are unpacked into a second file.

usage: hdf5_index.py FILE UNPACKED LARGEST_SIZE
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any, BinaryIO

import h5py
import numpy as np

SPARE = 1 << 30
"""Memory for the program itself."""
RATIO = 1100
"""Deflate cannot expand further."""


def text(value: Any) -> Any:
    """Text, or a list of it, from any of the forms in which attributes hold it."""
    if isinstance(value, np.ndarray):
        return [text(item) for item in value.ravel().tolist()]
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def described(found: h5py.Dataset, unpacked: BinaryIO, limit: int) -> dict[str, Any]:
    """Shape, type and place of a dataset, or why it is not read."""
    if found.shape is None:
        return {"refused": "it is empty"}
    if found.external or found.is_virtual:
        return {"refused": "its values lie in other files"}
    dtype = found.dtype.str
    if dtype == "|V2" and "dtype" in found.attrs and text(found.attrs["dtype"]) == "bfloat16":
        dtype = "bfloat16"
    elif found.dtype.kind not in "fiub" or found.dtype.itemsize > 8:
        return {"refused": f"it holds values of type {found.dtype}; expected numbers of up to 8 bytes"}
    stored, offset = found.id.get_storage_size(), found.id.get_offset()
    room = stored if found.compression is None else stored * RATIO
    if found.nbytes > min(room, limit):
        return {"refused": f"it declares {found.nbytes} bytes of values, the file holds {stored}"}
    facts = {"shape": list(found.shape), "dtype": dtype, "offset": offset}
    if offset is None:
        facts["unpacked"] = unpacked.tell()
        unpacked.write(np.ascontiguousarray(found[()]).tobytes())
    return facts


def index(file: h5py.File, unpacked: BinaryIO, limit: int) -> dict[str, Any]:
    """Attributes of the file, names of weights by group, and all datasets but those of the optimizer."""
    attributes = {key: text(file.attrs[key]) for key in ("model_config", "keras_version") if key in file.attrs}
    weight_names: dict[str, list[str]] = {}
    tensors: dict[str, dict[str, Any]] = {}

    def visit(name: str, found: Any) -> None:
        if name.startswith("optimizer"):
            return
        if isinstance(found, h5py.Dataset):
            tensors[name] = described(found, unpacked, limit)
            return
        keys = [key for key in found.attrs if key.startswith("weight_names")]  # long lists are split and numbered
        if keys:
            parts = [text(found.attrs[key]) for key in sorted(keys, key=lambda key: int(key[12:] or 0))]
            weight_names[name] = [item for part in parts for item in part]

    file.visititems(visit)
    return {"attributes": attributes, "weight_names": weight_names, "tensors": tensors}


def main(path: str, spool: str, limit: int) -> None:
    """Print the index as JSON."""
    most = limit + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with h5py.File(path, "r") as file, open(spool, "wb") as unpacked:  # noqa: PTH123 (as h5py takes it)
        sys.stdout.write(json.dumps(index(file, unpacked, limit)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
