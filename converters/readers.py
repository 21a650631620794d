"""Which reader takes a source: by its type, or by what the path looks like."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from converters.loaded import Loaded
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
    if (folder / "adapter_config.json").is_file():
        return imported("converters.lora", "load_lora")(path)
    if path.is_dir() or (path.name.startswith(("model", "pytorch_model")) and (folder / "config.json").is_file()):
        return imported("converters.huggingface", "load_huggingface")(path)
    return None


def filled(module: nn.Module, tensors: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Loaded:
    """A module with the weights of a checkpoint, whose names may have a prefix such as ``module.``.

    Raises:
        ConversionError: a tensor of the module is missing in the checkpoint, or has another shape there.
    """
    wanted = module.state_dict()
    prefix = _prefix(list(wanted), list(tensors))
    names = {name: prefix + name for name in wanted}
    for name, value in wanted.items():
        got = tensors.get(names[name])
        if got is None or got.shape != value.shape:
            found = "nothing" if got is None else f"shape {tuple(got.shape)}"
            raise ConversionError(
                f"the module has {name!r} of shape {tuple(value.shape)}; the checkpoint has {found} there: give the "
                "module that this checkpoint was saved from"
            )
    module = copy.deepcopy(module)
    module.load_state_dict({name: tensors[names[name]] for name in wanted})
    return Loaded(module, inputs, names)


def _prefix(wanted: list[str], given: list[str]) -> str:
    """What stands before the module's names in the checkpoint."""
    first = wanted[0] if wanted else ""
    candidates = {name.removesuffix(first) for name in given if name.endswith(first)}
    fitting = [p for p in candidates if all(p + name in given for name in wanted)]
    return min(fitting, key=len, default="")
