"""Build a zoo chunk by chunk, so that a killed build goes on where it stopped.

Beside the zoo ``NAME`` a folder ``NAME.build`` holds ``build.json``, what is being built, and one small zoo per
finished chunk, each renamed into place when complete. When all are there they are joined, the zoo is renamed into
place, and the folder goes away.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.zoos.engines import Chunk as Chunk
from experiments.zoos.engines import Make, current
from graphnfn.errors import ZooError
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo


def build_in_chunks(
    folder: str | Path,
    size: int,
    make: Make,
    *,
    chunk: int,
    about: Mapping[str, Any],
    progress: bool,
) -> Zoo:
    """Make the networks ``0 .. size - 1`` and write them as a zoo; call it again after a kill.

    Args:
        folder: of the zoo. If it holds this very zoo already, nothing is done.
        size: number of networks.
        make: makes networks by their numbers; what it makes must not depend on the range.
        chunk: networks made at once.
        about: JSON facts that say what is built (builder, seed, settings); kept in the zoo.
        progress: show a progress bar on stderr.

    Raises:
        ZooError: the folder, or an unfinished build beside it, holds something else.
    """
    folder = Path(folder)
    if size < 1 or chunk < 1:
        raise ZooError(f"got a size of {size} and chunks of {chunk} networks: both must be 1 at least")
    about = {**json.loads(json.dumps(about)), "size": size}
    parts = folder.with_name(f"{folder.name}.build")
    if _finished(folder, about):
        if (parts / "build.json").is_file():  # a kill may have come between the rename and the end
            shutil.rmtree(parts)
        return Zoo.open(folder)
    _claim(parts, {**about, "chunk": chunk})
    ranges = [range(start, min(start + chunk, size)) for start in range(0, size, chunk)]
    left = [numbers for numbers in ranges if not _path(parts, numbers).exists()]
    with _bar(progress) as bar:
        task = bar.add_task(f"building {folder.name}", total=size, completed=size - sum(map(len, left)))
        for numbers, made in current().each(make, left):
            Zoo.write(_path(parts, numbers), made.stacks, made.table)
            bar.advance(task, len(numbers))
    _join([Zoo.open(_path(parts, numbers)) for numbers in ranges], parts / "zoo", about)
    (parts / "zoo").rename(folder)
    shutil.rmtree(parts)
    return Zoo.open(folder)


def _path(parts: Path, numbers: range) -> Path:
    return parts / f"chunk-{numbers.start:07d}"


def _finished(folder: Path, about: Mapping[str, Any]) -> bool:
    """Whether the zoo is there; something else there is an error, before any network is trained."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if Zoo.open(folder).about != about:
        raise ZooError(f"{folder} holds another zoo: choose another folder, or remove this one first")
    return True


def _claim(parts: Path, build: Mapping[str, Any]) -> None:
    """Start the build folder, or go on in it."""
    note = parts / "build.json"
    draft = parts / "build.json.part"
    if not note.is_file():
        parts.mkdir(parents=True, exist_ok=True)
        if any(path != draft for path in parts.iterdir()):
            raise ZooError(f"{parts} is in the way: the build would keep its chunks there; move it or build elsewhere")
        draft.write_text(json.dumps(build), encoding="utf-8")
        draft.rename(note)
        return
    found = json.loads(note.read_text(encoding="utf-8"))
    if found != build:
        changed = sorted(key for key in {**found, **build} if found.get(key) != build.get(key))
        raise ZooError(
            f"{parts} holds an unfinished build with other {', '.join(changed)}: "
            "finish it with the same settings, choose another folder, or remove it"
        )
    shutil.rmtree(parts / "zoo", ignore_errors=True)


def _join(chunks: Sequence[Zoo], folder: Path, about: Mapping[str, Any]) -> None:
    specs = sorted({spec for zoo in chunks for spec in zoo.specs}, key=NetSpec.to_json)  # whatever the chunks were
    stacks: dict[Any, list[Stack]] = {spec: [] for spec in specs}
    tables = []
    for zoo in chunks:
        for stack in zoo.batch(slice(None)).stacks():
            stacks[stack.spec].append(stack)
        number = [specs.index(zoo.specs[s]) for s in zoo.spec_index.tolist()]
        tables.append(zoo.table.assign(spec=number))
    Zoo.write(folder, [Stack.join(s) for s in stacks.values()], pd.concat(tables, ignore_index=True), about=about)


def _bar(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("networks"))
    return Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), disable=not shown
    )
