"""Running cells in processes of their own: what is kept, what failed, what goes on."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig

from experiments.cell import Cell, run
from experiments.config import load
from experiments.errors import ExperimentError
from experiments.results import CellStore

Report = Callable[[str], None]
"""Takes one line of progress."""
Work = Callable[[DictConfig, Path], Cell]
"""What a cell does with its configuration and a folder for checkpoints."""
WORK = ".graphnfn-work"
"""Folder of checkpoints in that of results, which is removed in the end: a name that nobody else gives."""
K = TypeVar("K", bound=tuple[Any, ...])


@dataclass(frozen=True, kw_only=True)
class Options:
    """How cells are run.

    Args:
        workers: processes; 0 runs one cell after the other in this one.
        folder: for checkpoints; it is removed in the end.
        code: the commit, for the rows.
        report: told about every finished cell.
        line: a finished cell in a few words.
        work: what a cell does, a function of a module.
    """

    workers: int
    folder: Path
    code: str
    report: Report
    line: Callable[[Cell], str]
    work: Work = run


def kept_cells(store: CellStore, contents: dict[K, dict[str, Any]], code: str, report: Report) -> dict[K, Cell]:
    """The cells that a store holds already; tells how many, and which other code made some."""
    found = {key: cell for key, content in contents.items() if (cell := store.load(content)) is not None}
    if found:
        report(f"{len(found)} of {len(contents)} cells are there already")
        others = sorted({str(cell.row["commit"]) for cell in found.values()} - {code})
        if others:
            report(f"some are of other code, {', '.join(others)} (now {code}): another --output makes them afresh")
    return found


def failure(failed: dict[str, Exception], total: int) -> ExperimentError:
    """One error for all cells that failed."""
    what = "; ".join(f"{name}: {error}" for name, error in failed.items())
    error = ExperimentError(f"{len(failed)} of {total} cells failed, the others are kept; {what}")
    error.__cause__ = next(iter(failed.values()))
    return error


def finish(
    words: dict[K, list[str]], contents: dict[K, dict[str, Any]], store: CellStore, options: Options
) -> dict[K, Cell]:
    """All cells: those that a store holds, and the others, each kept as soon as it is done.

    Args:
        words: the overrides of each.
        contents: what each depends on.
        store: of finished cells.
        options: how to run the others.

    Raises:
        ExperimentError: cells failed, each named; the others have run and are kept.
    """
    found = kept_cells(store, contents, options.code, options.report)
    left = {key: cell for key, cell in words.items() if key not in found}
    failed: dict[str, Exception] = {}
    for key, cell in run_cells(left, options.workers, options.folder, options.code, options.work):
        if isinstance(cell, Exception):
            failed[title(key)] = cell
            options.report(f"failed: {title(key)}: {cell}")
            continue
        store.save(contents[key], cell)
        found[key] = cell
        options.report(f"[{len(found)}/{len(words)}] {title(key)}: {options.line(cell)}")
    if failed:
        raise failure(failed, len(words))
    return found


def run_cells(
    left: dict[K, list[str]], workers: int, folder: Path, code: str, work: Work = run
) -> Iterator[tuple[K, Cell | Exception]]:
    """Run cells in processes of one thread each, in the order in which they finish; errors of one stop no other.

    Args:
        left: the overrides of each.
        workers: processes; 0 runs one cell after the other in this one.
        folder: for checkpoints; it is removed in the end.
        code: the commit, for the rows.
        work: what a cell does, a function of a module.
    """
    if not left:
        return
    if workers == 0:
        for i, (key, words) in enumerate(left.items()):
            yield key, _here(work, words, folder / str(i), code)
        shutil.rmtree(folder, ignore_errors=True)
        return
    context = multiprocessing.get_context("spawn")
    size = min(workers, len(left))
    with ProcessPoolExecutor(size, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting: dict[Future[Cell], K] = {}
        for i, (key, words) in enumerate(left.items()):
            waiting[pool.submit(_run_cell, work, list(words), str(folder / str(i)), code)] = key
        try:
            for future in as_completed(waiting):
                yield waiting[future], _outcome(future)
        except BrokenProcessPool as error:
            raise ExperimentError(
                "a worker process was killed, probably for lack of memory: run the same command again, finished cells "
                "are kept, perhaps with compare.workers=1"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    shutil.rmtree(folder, ignore_errors=True)


def _outcome(future: Future[Cell]) -> Cell | Exception:
    try:
        return future.result()
    except BrokenProcessPool:
        raise
    except Exception as error:  # of one cell: the others go on
        return error


def _here(work: Work, words: list[str], folder: Path, code: str) -> Cell | Exception:
    try:
        return _run_cell(work, words, str(folder), code)
    except Exception as error:  # as in a process of its own
        return error


def _run_cell(work: Work, overrides: list[str], folder: str, code: str) -> Cell:
    cell = work(load(overrides), Path(folder))
    return Cell({**cell.row, "commit": code}, cell.predictions)


def title(key: tuple[Any, ...]) -> str:
    """A cell, as people read it."""
    *names, seed = key
    return f"{' '.join(names)} seed {seed}".strip()
