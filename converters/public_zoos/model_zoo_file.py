"""Preprocessed model zoos: one ``.pt`` file with three data set objects, read as inert records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from converters.public_zoos.inert import Inert, load_inert
from graphnfn.errors import ConversionError

_PARTS = {"trainset": "train", "valset": "val", "testset": "test"}


class Stored(NamedTuple):
    """A network in such a file: a state dict or a flat vector, and its properties."""

    state: dict[str, Tensor] | Tensor
    split: str
    trial: str
    epoch: int | None
    facts: dict[str, Any]


def stored_networks(path: Path) -> Iterator[Stored]:
    """All networks of ``{"trainset": ..., "valset": ..., "testset": ...}``, in order.

    Raises:
        ConversionError: the file is damaged or unsafe, or is something else.
    """
    content = load_inert(path)
    if not isinstance(content, Mapping) or not set(content) & set(_PARTS):
        raise ConversionError(f"{path}: expected data sets under {', '.join(_PARTS)}")
    for name, split in _PARTS.items():
        if name in content:
            yield from _networks(content[name], split, path)


def _networks(data: Any, split: str, path: Path) -> Iterator[Stored]:
    state = data.state if isinstance(data, Inert) else None
    states = state.get("data_in") if isinstance(state, Mapping) else None
    if states is None or not isinstance(states, (list, Tensor)) or not isinstance(state, Mapping):
        raise ConversionError(
            f"{path}: the data set of {split} has no 'data_in', the networks; is it of another version?"
        )
    properties = {k: v for k, v in (state.get("properties") or {}).items() if isinstance(v, list)}
    paths, epochs = state.get("paths") or [], state.get("epochs") or []
    if any(len(values) != len(states) for values in (*properties.values(), *filter(None, (paths, epochs)))):
        raise ConversionError(f"{path}: {len(states)} networks in {split}, but not as many of {list(properties)}")
    for i, network in enumerate(states):
        if not isinstance(network, (dict, Tensor)):
            raise ConversionError(f"{path}: network {i} of {split} is a {type(network).__name__}; expected tensors")
        facts = {name: values[i] for name, values in properties.items()}
        trial = str(paths[i].args[-1]) if paths and isinstance(paths[i], Inert) and paths[i].args else ""
        yield Stored(network, split, trial, epochs[i] if epochs else None, facts)
