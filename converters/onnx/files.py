"""Open an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from converters.onnx.tensors import MAX_BYTES
from graphnfn.errors import ConversionError

OPSETS = (7, 28)
"""Versions of the standard operators that are read."""


def read_model(path: Path) -> tuple[onnx.ModelProto, int]:
    """The model in a file and the version of its operators; values in other files are not read yet.

    Raises:
        ConversionError: the file is missing, too large, damaged, or of a version that is not supported.
    """
    if not path.is_file():
        raise ConversionError(f"{path}: no such file; expected an ONNX model (.onnx)")
    if path.stat().st_size > MAX_BYTES:
        raise ConversionError(f"{path}: has {path.stat().st_size} bytes; the limit is {MAX_BYTES}")
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ConversionError(f"{path}: damaged or no ONNX file ({error}); download or export it again") from error
    if not model.HasField("graph") or not model.graph.node:
        raise ConversionError(f"{path}: holds no graph of operators; expected an ONNX model")
    if model.functions:
        name = model.functions[0].name
        raise ConversionError(
            f"{path}: defines functions of its own ({name!r}); inline them first: onnx.inliner.inline_local_functions"
        )
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not versions or not OPSETS[0] <= max(versions) <= OPSETS[1]:
        got = max(versions) if versions else "none"
        raise ConversionError(f"{path}: operator set {got}; supported are {OPSETS[0]} to {OPSETS[1]}: export again")
    return model, max(versions)
