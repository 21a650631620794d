"""``write_onnx``: an ONNX file with other tensors."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import GraphProto, TensorProto, numpy_helper
from torch import Tensor

from converters.onnx.files import read_model
from converters.onnx.tensors import TYPED, TYPES, array_of, declared_bytes, external
from graphnfn.errors import ConversionError


def write_onnx(like_path: str | Path, tensors: Mapping[str, Any], target: str | Path) -> None:
    """A copy of an ONNX file in which some tensors have other values; types and layout stay, all else stays.

    Args:
        like_path: the file that is copied.
        tensors: name of an initialiser or of a Constant node's output -> tensor or array of the same shape.
        target: where the copy goes; it appears whole or not at all.  Values that lie in other files go beside it
            under the same names, so it must not be in the folder of ``like_path`` then.

    Raises:
        ConversionError: the file is no ONNX model, has no tensor of such a name and shape, or its type cannot hold
            the values.
    """
    source, target = Path(like_path), Path(target)
    model, _ = read_model(source)
    stored = _stored(model.graph)
    outside: dict[Path, list[tuple[int, bytes]]] = {}
    files = {external(t, source.parent)[0] for t in stored.values() if t.data_location == TensorProto.EXTERNAL}
    home = source.parent.resolve()
    if files and target.parent.resolve() == home:
        raise ConversionError(f"{source} keeps tensors in other files ({min(files).name}); write to another folder")
    for name, value in tensors.items():
        if name not in stored:
            raise ConversionError(f"{source} has no tensor {name!r}; give names of initialisers or constants")
        data = _bytes(stored[name], value)
        if stored[name].data_location == TensorProto.EXTERNAL:
            path, start = external(stored[name], source.parent)
            outside.setdefault(path, []).append((start, data))
        else:
            _assign(stored[name], data, source.parent)
    for path in sorted(files):
        copy = target.parent / path.relative_to(home)
        copy.parent.mkdir(parents=True, exist_ok=True)
        _write(copy, lambda temporary, path=path: _patched(path, outside.get(path, []), temporary))
    _write(target, lambda temporary: temporary.write_bytes(model.SerializeToString()))


def _stored(graph: GraphProto) -> dict[str, TensorProto]:
    """All tensors by the names that they have in the network."""
    found = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and len(node.output) == 1:
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


def _bytes(tensor: TensorProto, value: Any) -> bytes:
    """The values in the type of the tensor."""
    declared_bytes(tensor)
    given = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    shape = tuple(tensor.dims)
    if tuple(given.shape) != shape:
        raise ConversionError(f"{tensor.name!r} has shape {tuple(given.shape)}; the file has {shape} there")
    cast = given.to(TYPES[tensor.data_type]).contiguous()
    if cast.is_floating_point() and bool(given.isfinite().all()) and not bool(cast.isfinite().all()):
        raise ConversionError(f"{tensor.name!r} holds values that are not finite as {cast.dtype}; canonicalize first")
    return cast.reshape(-1).view(torch.uint8).numpy().tobytes()


def _assign(tensor: TensorProto, data: bytes, folder: Path) -> None:
    """Put values into the field that holds them now; nothing changes where they are the same."""
    array_of(tensor, folder)  # the file's own values must be whole
    if tensor.raw_data or not getattr(tensor, TYPED[tensor.data_type]):
        tensor.raw_data = data
        return
    changed = numpy_helper.to_array(TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=data))
    values = changed.reshape(-1)
    if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        values = values.view(np.uint16)
    field = getattr(tensor, TYPED[tensor.data_type])
    del field[:]
    field.extend(values.tolist())


def _patched(path: Path, changes: list[tuple[int, bytes]], temporary: Path) -> None:
    shutil.copyfile(path, temporary)
    with temporary.open("r+b") as file:
        for start, data in changes:
            file.seek(start)
            file.write(data)


def _write(target: Path, fill: Any) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    os.close(handle)
    temporary = Path(name)
    try:
        fill(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
