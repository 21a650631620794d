"""What a reader of a public layout gives, and how a zoo is read and written network by network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from graphnfn.errors import ConversionError, ZooError
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo

_AT_ONCE = 1024


class Network(NamedTuple):
    """One network: its architecture, its tensors under the names of the spec, and its row of the table."""

    spec: NetSpec
    tensors: Mapping[str, Tensor]
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Networks:
    """The networks of a public zoo in memory.

    Args:
        stacks: one per architecture.
        table: one row per network, with a column ``spec``.
        about: facts about the zoo as a whole.
    """

    stacks: tuple[Stack, ...]
    table: pd.DataFrame
    about: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Zoo:
        """Write them as a zoo of ours and open it.

        Raises:
            ZooError: the folder is in use.
        """
        Zoo.write(folder, self.stacks, self.table, about=self.about)
        return Zoo.open(folder)


def collect(networks: Iterable[Network], about: Mapping[str, Any]) -> Networks:
    """Networks one after the other, stacked by their architecture; their order is kept.

    Raises:
        ZooError: there is none.
    """
    parts: dict[NetSpec, list[Mapping[str, Tensor]]] = {}
    rows: list[dict[str, Any]] = []
    numbers: dict[NetSpec, int] = {}
    for network in networks:
        number = numbers.setdefault(network.spec, len(numbers))
        parts.setdefault(network.spec, []).append(network.tensors)
        rows.append({**network.row, "spec": number})
    if not rows:
        raise ZooError("no network was found: check the path and the layout")
    stacks = tuple(
        Stack.pack(spec, {name: torch.stack([t[name] for t in some]) for name in spec.params})
        for spec, some in parts.items()
    )
    names = dict.fromkeys(name for row in rows for name in row)
    table = pd.DataFrame({name: _column([row.get(name) for row in rows]) for name in names})
    return Networks(stacks, table, dict(about))


def _column(values: list[Any]) -> list[Any]:
    """Values of one kind: text where the files mix numbers and text, or hold numbers too large for a column."""
    kinds = {type(value) for value in values} - {type(None)}
    large = any(isinstance(v, int) and abs(v) >= 1 << 63 for v in values)
    if len(kinds) <= 1 and not large or (kinds <= {int, float} and not large):
        return values
    return [None if value is None else str(value) for value in values]


def each_network(zoo: Zoo) -> Iterator[tuple[int, NetSpec, dict[str, Tensor]]]:
    """``(row, spec, tensors)`` of all networks of a zoo, not always in the order of the rows."""
    for start in range(0, len(zoo), _AT_ONCE):
        graph = zoo.batch(slice(start, start + _AT_ONCE))
        for stack, places in zip(graph.stacks(), graph.members(), strict=True):
            tensors = stack.unpack()
            for k, place in enumerate(places.tolist()):
                yield start + place, stack.spec, {name: tensor[k].clone() for name, tensor in tensors.items()}


def require_folder(path: Path) -> None:
    """Raises a ConversionError if there is no such folder."""
    if not path.is_dir():
        raise ConversionError(f"{path}: no such folder; give the folder that holds the public zoo")


def require_finite(name: str, tensor: Tensor) -> None:
    """Raises a ConversionError if a tensor is not of finite floating point numbers."""
    if not tensor.is_floating_point():
        raise ConversionError(f"{name} has type {tensor.dtype}; expected floating point weights")
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise ConversionError(f"{name} has {bad} NaN or infinite entries: leave this network out, or repair it")


def is_number(value: Any) -> bool:
    """Whether a value from a file is a number that a column of a table can hold.

    Example:
        >>> is_number(0.5), is_number(True), is_number(10**400), is_number("0.5")
        (True, True, False, False)
    """
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)


def whole_number(value: Any, what: str) -> int:
    """A label that may be a number, its text, or a tensor of one number.

    Raises:
        ConversionError: it is none of these.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not text.removeprefix("-").isdecimal() or not text.isascii() or len(text) > 18:
        raise ConversionError(f"{what} is {value!r:.40}; expected a whole number")
    return int(text)
