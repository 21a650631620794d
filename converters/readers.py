"""Which reader takes a source: by its type, or by what the path looks like."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from converters.checkpoints import Checkpoint, plain_names, read_checkpoint, tensor_names
from converters.huggingface.files import WEIGHTS, read_weights, weight_files
from converters.loaded import Loaded
from converters.lora import ADAPTERS, adapter_pairs
from converters.sources import SUFFIXES, read_tensors
from graphnfn.errors import ConversionError

_READERS: dict[str, tuple[str, str]] = {
    ".onnx": ("converters.onnx", "load_onnx"),
    ".h5": ("converters.keras", "load_keras"),
    ".hdf5": ("converters.keras", "load_keras"),
    ".keras": ("converters.keras", "load_keras"),
}
"""Suffix -> module and function."""


def imported(module: str, function: str) -> Callable[..., Any]:
    """A reader or writer, imported when it is needed: most users need few of them."""
    return getattr(importlib.import_module(module), function)


def read_network(source: Any) -> Loaded | None:
    """A source that tells its own architecture, as a module that runs; None for all others.

    Raises:
        ConversionError: it is damaged, or uses what its reader does not support.
    """
    if type(source).__module__.startswith("sklearn."):
        return imported("converters.sklearn", "load_sklearn")(source)
    if not isinstance(source, (str, Path)):
        return None
    path = Path(source)
    if path.suffix in _READERS:
        return imported(*_READERS[path.suffix])(path)
    folder = path if path.is_dir() else path.parent
    if (folder / "adapter_config.json").is_file() or _is_adapter(path):
        return imported("converters.lora", "load_lora")(path)
    if path.is_dir() or (path.name.startswith(("model", "pytorch_model")) and (folder / "config.json").is_file()):
        return imported("converters.huggingface", "load_huggingface")(path)
    return None


def own_tensors(loaded: Loaded) -> dict[str, Tensor]:
    """The tensors of a network under its source's names."""
    return {loaded.names.get(name, name): tensor for name, tensor in loaded.module.state_dict().items()}


def file_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors in a file or folder, also those that no network reads.

    Raises:
        ConversionError: it is missing, damaged, unsafe, or of an unknown kind.
    """
    if path.is_dir():
        return read_weights(weight_files(path, (*WEIGHTS, *ADAPTERS)))
    if path.suffix == ".npz":
        return imported("converters.npz", "read_npz")(path)
    if path.suffix in _READERS:
        return own_tensors(imported(*_READERS[path.suffix])(path))
    return read_tensors(path)


def filled(module: nn.Module, source: str | Path | Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Loaded:
    """A module with the weights of a checkpoint, whose names may have a prefix such as ``module.``.

    Raises:
        ConversionError: a tensor of the module is missing in the checkpoint, or has another shape there.
    """
    wanted = module.state_dict()
    if isinstance(source, (str, Path)) and Path(source).suffix == ".npz":
        source = file_tensors(Path(source))
    checkpoint = read_checkpoint(source) if isinstance(source, (str, Path)) else _held(source)
    names = checkpoint.named(wanted)
    for name, value in wanted.items():
        got = checkpoint.tensors[names[name]]
        if got.shape != value.shape:
            raise ConversionError(
                f"the module has {name!r} of shape {tuple(value.shape)}; the checkpoint has shape {tuple(got.shape)} "
                "there: give the module that this checkpoint was saved from"
            )
    module = copy.deepcopy(module)
    module.load_state_dict({name: checkpoint.tensors[names[name]] for name in wanted})
    return Loaded(module, inputs, names)


def _held(tensors: Mapping[str, Tensor]) -> Checkpoint:
    return Checkpoint(dict(tensors), plain_names(tensors), {})


def _is_adapter(path: Path) -> bool:
    return path.is_file() and path.suffix in SUFFIXES and bool(adapter_pairs(tensor_names(path)))
