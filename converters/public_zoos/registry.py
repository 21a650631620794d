"""The layouts by name, and their settings as words ``key=value``."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from converters.public_zoos.dwsnets import DWSNetsFmnistWriter, DWSNetsMnistWriter, DWSNetsReader
from converters.public_zoos.model_zoo import ModelZooReader
from converters.public_zoos.networks import Networks
from converters.public_zoos.nfn_siren import NFNSirenReader, NFNSirenWriter
from converters.public_zoos.sb3 import SB3Reader
from converters.public_zoos.small_cnn import SmallCNNZooReader
from converters.public_zoos.small_cnn_writer import SmallCNNZooWriter
from converters.public_zoos.wild_park import WildParkReader
from graphnfn.errors import ConversionError
from graphnfn.zoo import Zoo


class Reader(Protocol):
    """A frozen dataclass of settings that reads a public zoo."""

    def read(self, path: Path) -> Networks:
        """Read the zoo at a path."""
        ...


class Writer(Protocol):
    """A frozen dataclass of settings that writes a zoo of ours; it returns what to tell the official loaders."""

    def write(self, zoo: Zoo, folder: Path) -> str:
        """Write the zoo into a new folder."""
        ...


class Layout(NamedTuple):
    """A public layout: its reader, and its writer where there is one."""

    reader: type[Any]
    writer: type[Any] | None = None


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "small-cnn-zoo": Layout(SmallCNNZooReader, SmallCNNZooWriter),
        "dwsnets-mnist": Layout(DWSNetsReader, DWSNetsMnistWriter),
        "dwsnets-fmnist": Layout(DWSNetsReader, DWSNetsFmnistWriter),
        "nfn-siren": Layout(NFNSirenReader, NFNSirenWriter),
        "cnn-wild-park": Layout(WildParkReader),
        "model-zoo": Layout(ModelZooReader),
        "sb3": Layout(SB3Reader),
    }
)
"""Name on the command line -> layout."""


def import_zoo(layout: str, path: str | Path, folder: str | Path, settings: Sequence[str] = ()) -> Zoo:
    """Read a public zoo and write it as one of ours: memory-mapped weights, a table with labels and official splits.

    Args:
        layout: a key of :data:`LAYOUTS`.
        path: where the public zoo is.
        folder: of our zoo; must not exist yet, or be empty.
        settings: words ``key=value`` for the reader.

    Raises:
        ConversionError: layout or setting is unknown, or the files are missing, damaged or unsafe.
        ZooError: the folder is in use.

    Example:
        >>> sorted(LAYOUTS)[-1]
        'small-cnn-zoo'
    """
    reader: Reader = configured(_known(layout).reader, settings)
    return reader.read(Path(path)).write(Path(folder))


def export_zoo(layout: str, zoo: Zoo, folder: str | Path, settings: Sequence[str] = ()) -> str:
    """Write a zoo of ours in a public layout; returns what to tell the official loaders.

    Args:
        layout: a key of :data:`LAYOUTS`.
        zoo: with the table columns that the layout needs.
        folder: must not exist yet, or be empty.
        settings: words ``key=value`` for the writer.

    Raises:
        ConversionError: layout or setting is unknown, or the layout has no writer.
        ZooError: the zoo does not fit the layout, or the folder is in use.
    """
    kind = _known(layout).writer
    if kind is None:
        able = ", ".join(name for name, known in LAYOUTS.items() if known.writer)
        raise ConversionError(f"layout {layout!r} is read only; written are {able}")
    writer: Writer = configured(kind, settings)
    return writer.write(zoo, Path(folder))


def _known(layout: str) -> Layout:
    if layout not in LAYOUTS:
        raise ConversionError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    return LAYOUTS[layout]


def configured(kind: type[Any], settings: Sequence[str]) -> Any:
    """A dataclass of settings from words ``key=value``.

    Raises:
        ConversionError: a key is unknown, or a value is not of its type.

    Example:
        >>> configured(SmallCNNZooReader, ["steps=80,86"]).steps
        (80, 86)
    """
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    values = {}
    for word in settings:
        key, equals, text = word.partition("=")
        if not equals or key not in names:
            raise ConversionError(f"got {word!r}; expected key=value with a key of {', '.join(names)}")
        try:
            values[key] = _value(hints[key], text)
        except ValueError as error:
            raise ConversionError(f"{key}={text}: expected {hints[key]}") from error
    return kind(**values)


def _value(hint: Any, text: str) -> Any:
    if hint == tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))
    plain = [option for option in typing.get_args(hint) or (hint,) if option is not type(None)]
    return plain[0](text)
