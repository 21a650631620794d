"""The comparison: every model with every seed in every case, cell by cell, then a table per case."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from experiments import provenance
from experiments.cell import Cell
from experiments.config import fingerprint, load, plain
from experiments.cost import measure_apart
from experiments.data import open_zoo
from experiments.metrics import written
from experiments.plan import Case, cases, content
from experiments.results import CellStore, write_results, write_text
from experiments.runner import WORK, Options, Report, finish, title

COSTS = "costs.json"


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
    for case in plan:
        open_zoo(case.config.zoo).validate()
    # seed by seed: an interrupted comparison has seen every case and model
    words = dict(sorted((pair for case in plan for pair in case.cells()), key=lambda pair: pair[0][2]))
    contents = {key: content(load(cell)) for key, cell in words.items()}
    code = provenance.commit()
    store = CellStore(folder / "cells")
    workers = plan[0].config.compare.workers
    options = Options(workers=workers, folder=folder / WORK, code=code, report=report, line=_line)
    found = finish(words, contents, store, options)
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


def _line(cell: Cell) -> str:
    row = cell.row
    measure = row["measure"]
    return f"test {measure} {written(measure, row[f'test_{measure}'])} ({row['wall_s']:.0f} s)"


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
            report(f"cost of {title((case.name, model, 0))}: {known[key]['step_ms']:.0f} ms of CPU per step")
        costs[model] = known[key]
    return costs
