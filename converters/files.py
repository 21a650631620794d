"""Write tensors into a copy of a checkpoint file, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from converters.readers import imported

_WRITERS = {
    ".onnx": ("converters.onnx", "write_onnx"),
    ".h5": ("converters.keras", "write_keras"),
    ".hdf5": ("converters.keras", "write_keras"),
    ".keras": ("converters.keras", "write_keras"),
    ".npz": ("converters.npz", "write_npz"),
}


def write_like(like: Path, tensors: Mapping[str, Tensor], target: Path) -> None:
    """A copy of the file ``like`` with other tensors; everything else in it stays as it is.

    The file appears whole or not at all.

    Raises:
        ConversionError: a tensor has another shape than in ``like``, or the file cannot be read.
    """
    if like.is_dir():
        adapter = (like / "adapter_config.json").is_file()
        writer = ("converters.lora", "write_lora") if adapter else ("converters.huggingface", "write_huggingface")
    else:
        writer = _WRITERS.get(like.suffix, ("converters.checkpoints", "write_checkpoint"))
    imported(*writer)(like, tensors, target)
