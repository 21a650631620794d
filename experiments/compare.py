"""The comparison: every model with every seed in every case, cell by cell, then a table per case."""

from __future__ import annotations

import json
import multiprocessing
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig

from experiments import provenance
from experiments.cell import Cell, run
from experiments.config import fingerprint, load, plain
from experiments.cost import measure_apart
from experiments.data import open_zoo
from experiments.errors import ExperimentError
from experiments.metrics import written
from experiments.plan import Case, Key, cases, content
from experiments.results import CellStore, write_results, write_text

COSTS = "costs.json"

Report = Callable[[str], None]
"""Takes one line of progress."""


@dataclass(frozen=True)
class Comparison:
    """A finished comparison on one zoo and task.

    Args:
        case: its name; empty where there is one only.
        config: what was asked.
        table: a row per cell.
        predictions: of every cell on the test networks.
        about: provenance: command, commit, machine, times.
    """

    case: str
    config: DictConfig
    table: pd.DataFrame
    predictions: pd.DataFrame
    about: dict[str, Any]


def compare(overrides: Sequence[str], folder: Path, report: Report) -> list[Comparison]:
    """Run all cells that ``folder`` does not hold yet, measure costs, write the results tables.

    Args:
        overrides: of the configuration; the node ``compare`` says what to run.
        folder: for cells and results; every case of several has a folder of its own in it.
        report: told about every finished step.

    Returns:
        A comparison per case.

    Raises:
        GraphNFNError: a configuration or a zoo does not work; found before the first cell is run where possible.
            Cells that failed are named after all others have run.
    """
    start = time.perf_counter()
    plan = cases(overrides)
    # seed by seed: an interrupted comparison has seen every case and model
    words = dict(sorted((pair for case in plan for pair in case.cells()), key=lambda pair: pair[0][2]))
    contents = {key: content(load(cell)) for key, cell in words.items()}
    for case in plan:
        open_zoo(case.config.zoo).validate()
    code = provenance.commit()
    store = CellStore(folder / "cells")
    found = {key: cell for key in words if (cell := store.load(contents[key])) is not None}
    if found:
        report(f"{len(found)} of {len(words)} cells are there already")
        others = sorted({str(cell.row["commit"]) for cell in found.values()} - {code})
        if others:
            report(f"some are of other code, {', '.join(others)} (now {code}): another --output makes them afresh")
    left = {key: cell for key, cell in words.items() if key not in found}
    failed: dict[str, Exception] = {}
    for key, cell in _run_cells(left, plan[0].config.compare.workers, folder / "work", code):
        if isinstance(cell, Exception):
            failed[_title(key)] = cell
            report(f"failed: {_title(key)}: {cell}")
            continue
        store.save(contents[key], cell)
        found[key] = cell
        report(_line(key, cell, len(found), len(words)))
    if failed:
        what = "; ".join(f"{title}: {error}" for title, error in failed.items())
        first = next(iter(failed.values()))
        raise ExperimentError(f"{len(failed)} of {len(words)} cells failed, the others are kept; {what}") from first
    done = []
    for case in plan:
        place = folder / case.name
        costs = _costs(case, folder / COSTS, report)
        cells = [Cell(found[k].row | {"case": case.name}, found[k].predictions) for k, _ in case.cells()]
        table = write_results(place, cells, costs)
        about = {
            "command": shlex.join(["graphnfn", "compare", *overrides, "--output", str(folder)]),
            "commit": ", ".join(sorted({str(c.row["commit"]) for c in cells})),
            "machine": provenance.machine(),
            "seconds": time.perf_counter() - start,
            "config": plain(case.config),
        }
        write_text(place / "about.json", json.dumps(about, indent=1) + "\n")
        predictions = pd.concat([c.predictions for c in cells], ignore_index=True)
        done.append(Comparison(case.name, case.config, table, predictions, about))
    return done


def _run_cells(
    left: dict[Key, list[str]], workers: int, folder: Path, code: str
) -> Iterator[tuple[Key, Cell | Exception]]:
    """Run cells in processes of one thread each, in the order in which they finish; errors of one stop no other."""
    if not left:
        return
    context = multiprocessing.get_context("spawn")
    size = min(workers, len(left))
    with ProcessPoolExecutor(size, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting: dict[Future[Cell], Key] = {}
        for i, (key, words) in enumerate(left.items()):
            waiting[pool.submit(_run_cell, list(words), str(folder / str(i)), code)] = key
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


def _run_cell(overrides: list[str], folder: str, code: str) -> Cell:
    cell = run(load(overrides), Path(folder))
    return Cell({**cell.row, "commit": code}, cell.predictions)


def _title(key: Key) -> str:
    case, model, seed = key
    return f"{case} {model} seed {seed}".strip()


def _line(key: Key, cell: Cell, done: int, total: int) -> str:
    row = cell.row
    measure = row["measure"]
    score = written(measure, row[f"test_{measure}"])
    return f"[{done}/{total}] {_title(key)}: test {measure} {score} ({row['wall_s']:.0f} s)"


def _costs(case: Case, path: Path, report: Report) -> dict[str, dict[str, Any]]:
    """Per model, the cost of a step; measured one after the other, while nothing else of ours runs."""
    if not case.config.compare.cost_networks:
        return {}
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    costs = {}
    for model in case.config.compare.models:
        words = case.cell_words(model)
        key = fingerprint(content(load(words)) | {"cost_networks": case.config.compare.cost_networks})
        if key not in known:
            known[key] = measure_apart(words)
            write_text(path, json.dumps(known, indent=1) + "\n")
            report(f"cost of {_title((case.name, model, 0))}: {known[key]['step_ms']:.0f} ms of CPU per step")
        costs[model] = known[key]
    return costs
