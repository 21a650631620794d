"""The files of a zoo folder: memory-mapped weight stacks, and a write that happens whole or not at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from graphnfn.errors import ZooError

SPEC, TABLE, WEIGHTS = "spec.json", "table.parquet", "weights.safetensors"
SHARD = "weights-{:05d}.safetensors"

Rows = slice | Tensor
"""Consecutive rows as a slice with both ends, or any rows as a LongTensor."""


@dataclass(frozen=True)
class WeightFiles:
    """Stacked parameters by key, ``[networks, *shape]``, as memory-mapped pieces that follow one another.

    Args:
        pieces: per key, its part of every file, in the order of the files.
    """

    pieces: Mapping[str, tuple[Tensor, ...]]

    @staticmethod
    def open(folder: Path) -> WeightFiles:
        """Map ``weights.safetensors`` or the shards ``weights-*.safetensors``; reads their headers only.

        Raises:
            ZooError: there is no weights file, or one is damaged.
        """
        whole = folder / WEIGHTS
        paths = [whole] if whole.is_file() else sorted(folder.glob("weights-*.safetensors"))
        if not paths:
            raise ZooError(f"{folder} has no {WEIGHTS} and no {SHARD.format(0)}: copy the whole folder, or rebuild it")
        pieces: dict[str, list[Tensor]] = {}
        for path in paths:
            try:
                with safe_open(path, "pt") as file:
                    for key in file.keys():
                        pieces.setdefault(key, []).append(file.get_tensor(key))
            except (SafetensorError, OSError) as error:
                raise ZooError(
                    f"{path} is not a complete safetensors file ({error}): it is truncated or of another format; "
                    "copy it again or rebuild the zoo"
                ) from error
        for key, parts in pieces.items():
            if any(p.dim() < 1 or p.shape[1:] != parts[0].shape[1:] for p in parts):
                got = [tuple(p.shape) for p in parts]
                raise ZooError(f"tensor {key!r} has shapes {got} in {folder}: expected stacks of one shape per network")
        return WeightFiles({key: tuple(parts) for key, parts in pieces.items()})

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a whole stack, networks first."""
        parts = self.pieces[key]
        return (sum(len(p) for p in parts), *parts[0].shape[1:])

    def take(self, key: str, rows: Rows) -> Tensor:
        """Some networks of a stack: a view for a slice within one file, a copy otherwise."""
        parts = self.pieces[key]
        if len(parts) == 1:
            return parts[0][rows] if isinstance(rows, slice) else parts[0].index_select(0, rows)  # copies row by row
        starts = [0, *accumulate(len(p) for p in parts)]
        if isinstance(rows, slice):
            bounds = [(max(rows.start - s, 0), min(rows.stop - s, len(p))) for s, p in zip(starts, parts, strict=False)]
            inside = [p[a:b] for (a, b), p in zip(bounds, parts, strict=True) if a < b]
            return inside[0] if len(inside) == 1 else torch.cat(inside)
        out = parts[0].new_empty(len(rows), *parts[0].shape[1:])
        for start, part in zip(starts, parts, strict=False):
            here = (rows >= start) & (rows < start + len(part))
            out[here] = part[rows[here] - start]
        return out


def as_run(rows: Tensor) -> Rows:
    """Consecutive ascending rows as a slice, others as they are."""
    first, last = int(rows[0]), int(rows[-1])
    run = last - first == rows.shape[0] - 1 and torch.equal(rows, torch.arange(first, last + 1))
    return slice(first, last + 1) if run else rows


def read_description(folder: Path) -> dict[str, Any]:
    """The content of ``spec.json``.

    Raises:
        ZooError: the folder or the file is missing, or the file is no JSON object.
    """
    if not folder.is_dir():
        raise ZooError(f"no zoo at {folder}: the folder does not exist. Check the path, or build one first")
    path = folder / SPEC
    if not path.is_file():
        raise ZooError(
            f"{folder} has no {SPEC}, so it is not a zoo: it holds {sorted(p.name for p in folder.iterdir())[:8]}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ZooError(f"{path} is not JSON ({error}): restore it or rebuild the zoo") from error
    if not isinstance(content, dict):
        raise ZooError(f"{path} holds a {type(content).__name__}: expected an object; see graphnfn.zoo for the layout")
    return content


@contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder that takes its place as ``folder`` when all went well: readers never see half of it.

    Raises:
        ZooError: the folder is in use.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ZooError(f"{folder} exists and is not empty: choose another folder, or remove this one first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        new = Path(name) / "zoo"
        new.mkdir()
        yield new
        new.rename(folder)


def write_folder(
    folder: Path, description: Mapping[str, Any], shards: Sequence[Mapping[str, Tensor]], table: pd.DataFrame
) -> None:
    """Write all files into a hidden folder beside ``folder``, then rename it: the zoo appears whole or not at all.

    Raises:
        ZooError: the folder is there already.
    """
    with fresh_folder(folder) as new:
        (new / SPEC).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        table.to_parquet(new / TABLE, index=False)
        for i, tensors in enumerate(shards):
            save_file(dict(tensors), new / (WEIGHTS if len(shards) == 1 else SHARD.format(i)))
