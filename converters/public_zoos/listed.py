"""Lists of splits: JSON that names files by paths of the machine that wrote it, found by the end of their paths."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from graphnfn.errors import ConversionError

SPLITS = ("train", "val", "test")
_MOST_BYTES = 1 << 28


class Entry(NamedTuple):
    """A file of a zoo, its split, and what the list tells of it."""

    file: Path
    split: str
    facts: dict[str, Any]


def listed(splits: Path, root: Path, columns: tuple[str, ...]) -> list[Entry]:
    """The files in a list of splits, in its order.

    Args:
        splits: ``{"train": [path, ...], ...}`` or ``{"train": {"path": [...], column: [...], ...}, ...}``.
        root: folder of the zoo.
        columns: of the second form, those to take; absent ones are left out.

    Raises:
        ConversionError: the list is missing or damaged, leads out of the folder, or names a missing file or one twice.
    """
    content = read_splits(splits)
    entries = [
        Entry(resolved(root, name), split, facts)
        for split in SPLITS
        for name, facts in _lines(content.get(split, []), splits, columns)
    ]
    file, times = Counter(e.file for e in entries).most_common(1)[0] if entries else (splits, 1)
    if times > 1:
        raise ConversionError(f"{splits}: lists {file} twice; a network belongs to one split")
    return entries


def read_splits(path: Path) -> dict[str, Any]:
    """The object in a JSON file of splits.

    Raises:
        ConversionError: it is missing, too large, or no JSON object.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConversionError(f"{path}: has {path.stat().st_size} bytes; expected at most {_MOST_BYTES}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except ConversionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: missing or no JSON ({str(error)[:200]}); give the file of splits") from error
    if not isinstance(content, dict) or not set(content) & set(SPLITS):
        raise ConversionError(f'{path}: expected {{"train": ..., "val": ..., "test": ...}}')
    return content


def _lines(part: Any, splits: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    whole = part if isinstance(part, dict) else {"path": part}
    names = whole.get("path")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ConversionError(f"{splits}: expected lists of paths under 'train', 'val' and 'test'")
    known = {c: whole[c] for c in columns if c in whole}
    for column, values in known.items():
        if not isinstance(values, list) or len(values) != len(names):
            raise ConversionError(f"{splits}: {len(names)} paths need as many entries of {column!r}")
    for i, name in enumerate(names):
        yield name, {column: values[i] for column, values in known.items()}


def resolved(root: Path, name: str) -> Path:
    """The file below ``root`` whose path ends like ``name``, as much of it as possible."""
    path = PurePosixPath(name)
    parts = path.parts[1:] if path.is_absolute() else path.parts
    if ".." in parts or not parts:
        raise ConversionError(f"{name[:100]!r} in the list of splits leads out of the folder: correct it")
    for k in range(len(parts)):
        file = root.joinpath(*parts[k:])
        if _is_file(file):
            return file
    raise ConversionError(f"{name[:200]!r} is listed, but {root} has no such file: copy the whole zoo")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system
        return False
