"""The comparison: every model with every seed on one zoo, cell by cell, then one table and one page."""

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
from experiments.results import CellStore, write_results, write_text

COSTS = "costs.json"

Key = tuple[str, int]
"""Model and seed."""

Report = Callable[[str], None]
"""Takes one line of progress."""


@dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Args:
        config: what was asked.
        table: a row per cell.
        predictions: of every cell on the test networks.
        about: provenance: command, commit, machine, times.
    """

    config: DictConfig
    table: pd.DataFrame
    predictions: pd.DataFrame
    about: dict[str, Any]


def compare(overrides: Sequence[str], folder: Path, report: Report) -> Comparison:
    """Run all cells that ``folder`` does not hold yet, measure costs, write the results tables.

    Args:
        overrides: of the configuration; ``compare.models``, ``compare.seeds`` say what to run.
        folder: for cells and results.
        report: told about every finished step.

    Raises:
        GraphNFNError: the configuration or the zoo does not work; found before the first cell is run where possible.
    """
    start = time.perf_counter()
    config = load(overrides)
    models, seeds = list(config.compare.models), list(config.compare.seeds)
    if not models or not seeds:
        raise ExperimentError("compare.models and compare.seeds must not be empty")
    cells = {(m, s): [*overrides, f"model={m}", f"seed={s}"] for s in seeds for m in models}
    configs = {key: load(words) for key, words in cells.items()}
    open_zoo(config.zoo).validate()
    code = provenance.commit()
    store = CellStore(folder / "cells")
    contents = {key: _content(c, code) for key, c in configs.items()}
    found = {key: cell for key in cells if (cell := store.load(contents[key])) is not None}
    if found:
        report(f"{len(found)} of {len(cells)} cells are there already")
    left = {key: words for key, words in cells.items() if key not in found}
    for key, cell in _run_cells(left, config.compare.workers, folder / "work", code):
        store.save(contents[key], cell)
        found[key] = cell
        report(_line(cell, len(found), len(cells)))
    costs = _costs([*overrides], models, code, folder / COSTS, report)
    ordered = [found[key] for key in cells]
    table = write_results(folder, ordered, costs)
    about = {
        "command": shlex.join(["graphnfn", "compare", *overrides, "--output", str(folder)]),
        "commit": code,
        "machine": provenance.machine(),
        "seconds": time.perf_counter() - start,
        "config": plain(config),
    }
    write_text(folder / "about.json", json.dumps(about, indent=1) + "\n")
    return Comparison(config, table, pd.concat([c.predictions for c in ordered], ignore_index=True), about)


def _content(config: DictConfig, code: str) -> dict[str, Any]:
    """What a cell depends on: its configuration, and the commit of the code."""
    return {key: value for key, value in plain(config).items() if key != "compare"} | {"commit": code}


def _run_cells(left: dict[Key, list[str]], workers: int, folder: Path, code: str) -> Iterator[tuple[Key, Cell]]:
    """Run cells in processes of one thread each, in the order in which they finish."""
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
                yield waiting[future], future.result()
        except BrokenProcessPool as error:
            raise ExperimentError(
                "a worker process was killed, probably for lack of memory: run the same command again, finished cells "
                "are kept, perhaps with compare.workers=1"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    shutil.rmtree(folder, ignore_errors=True)


def _run_cell(overrides: list[str], folder: str, code: str) -> Cell:
    cell = run(load(overrides), Path(folder))
    return Cell({**cell.row, "commit": code}, cell.predictions)


def _line(cell: Cell, done: int, total: int) -> str:
    row = cell.row
    measure = row["measure"]
    return (
        f"[{done}/{total}] {row['model']} seed {row['seed']}: test {measure} {row[f'test_{measure}']:.3f} "
        f"({row['wall_s']:.0f} s)"
    )


def _costs(overrides: list[str], models: list[str], code: str, path: Path, report: Report) -> dict[str, dict[str, Any]]:
    """Per model, the cost of a step; measured one after the other, while nothing else of ours runs."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    costs = {}
    for model in models:
        words = [*overrides, f"model={model}"]
        key = fingerprint(_content(load(words), code))
        if key not in known:
            known[key] = measure_apart(words)
            write_text(path, json.dumps(known, indent=1) + "\n")
            report(f"cost of {model}: {known[key]['step_ms']:.0f} ms of CPU per step")
        costs[model] = known[key]
    return costs
