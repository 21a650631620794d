"""Width transfer: models trained on networks of one width, tested on networks of others."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from experiments import provenance
from experiments.building import ensure_zoo
from experiments.cell import CHUNK, Cell, train
from experiments.config import load, plain
from experiments.data import open_zoo, predict
from experiments.errors import ExperimentError
from experiments.metrics import finite, written
from experiments.plan import content
from experiments.results import CellStore
from experiments.runner import WORK, Options, Report, finish
from graphnfn.errors import GraphNFNError
from graphnfn.zoo import Zoo

PLAN = "+transfer=digits"
NUMBERS = 64 * 5000
"""Weights of all networks that are read at once."""
Key = tuple[str, str, int]
"""Case, name of the model and seed."""


@dataclass(frozen=True)
class Case:
    """One training zoo, and a test zoo per width.

    Args:
        name: of the case.
        train: overrides of the training.
        models: names of models, with overrides behind them.
        tests: by width, overrides that name a zoo, whose networks of split test are read.
    """

    name: str
    train: tuple[str, ...]
    models: tuple[str, ...]
    tests: Mapping[int, tuple[str, ...]]


def cases(config: DictConfig) -> list[Case]:
    """The cases of a plan, see ``experiments/conf/transfer``."""
    found = []
    for name, node in config.transfer.cases.items():
        tests = {int(width): tuple(shlex.split(node.test.replace("{width}", str(width)))) for width in node.widths}
        models = tuple(node.get("models") or config.transfer.models)
        found.append(Case(str(name), tuple(shlex.split(node.train)), models, tests))
    return found


def transfer(overrides: Sequence[str], folder: Path, report: Report) -> dict[str, Any]:
    """Train every model with every seed at one width, and measure it at all widths.

    Zoos that are missing are built; cells that the folder holds are not run again.

    Args:
        overrides: of the configuration; the node ``transfer`` says what to run.
        folder: for cells.
        report: told about every finished step.

    Returns:
        What ``docs/transfer.json`` holds: ``rows``, one per cell with measures by width, ``zoos`` and provenance.

    Raises:
        GraphNFNError: the plan does not compose, a zoo cannot be built, or cells failed; the others are kept.
    """
    start = time.perf_counter()
    chosen = [] if any(word.lstrip("+").startswith("transfer=") for word in overrides) else [PLAN]
    config = load([*chosen, *overrides])
    plan = cases(config)
    if not plan or not config.transfer.seeds or not all(case.models and case.tests for case in plan):
        raise ExperimentError("transfer.cases, transfer.models, transfer.seeds and widths must not be empty")
    for case in plan:
        for words in (case.train, *case.tests.values()):
            if ensure_zoo(zoo := load(words)):
                report(f"built {zoo.zoo.folder}")
            open_zoo(zoo.zoo).validate()
    # seed by seed: an interrupted run has seen every model
    words = {key: cell for seed in config.transfer.seeds for key, cell in _cells(plan, int(seed))}
    contents = {key: _content(load(cell)) for key, cell in words.items()}
    code = provenance.commit()
    workers, work = config.transfer.workers, folder / WORK
    options = Options(workers=workers, folder=work, code=code, report=report, line=_line, work=run)
    found = finish(words, contents, CellStore(folder / "cells"), options)
    rows = [{"case": k[0], "name": k[1], **found[k].row} for k in words]
    return {
        "command": shlex.join(["graphnfn", "transfer", *overrides, "-o", "docs/transfer.md"]),
        "commit": ", ".join(sorted({str(row["commit"]) for row in rows})),
        "machine": provenance.machine(), "seconds": time.perf_counter() - start,
        "trained_at": config.transfer.trained_at, "seeds": list(config.transfer.seeds),
        "zoos": {case.name: _zoos(case) for case in plan}, "rows": rows,
    }  # fmt: skip


def _cells(plan: Sequence[Case], seed: int) -> Iterator[tuple[Key, list[str]]]:
    for case in plan:
        tests = ",".join(f"{width}:{json.dumps(list(words))}" for width, words in case.tests.items())
        for text in case.models:
            model, *settings = shlex.split(text)
            name = ", ".join([model, *(word.rpartition(".")[2] for word in settings)])
            words = [*case.train, f"model={model}", *settings, f"seed={seed}", f"+tests={{{tests}}}"]
            yield (case.name, name, seed), words


def _content(config: DictConfig) -> dict[str, Any]:
    """What a cell depends on: its own configuration, and the zoos that it is tested on."""
    tests = {str(width): plain(load(words))["zoo"] for width, words in plain(config)["tests"].items()}
    return {**content(config), "tests": tests}


def _line(cell: Cell) -> str:
    measure, widths = cell.row["measure"], cell.row["widths"]
    parts = [f"{w}: {written(measure, m[measure]) if measure in m else 'refused'}" for w, m in widths.items()]
    return f"{measure} {', '.join(parts)}"


def run(config: DictConfig, folder: Path) -> Cell:
    """Train at one width and measure at all; a width that the model refuses to read has a reason and no measure."""
    start = time.process_time()
    zoo, task, model, fitted = train(config, folder)
    cpu = time.process_time() - start
    shutil.rmtree(folder, ignore_errors=True)
    model.eval()
    widths, tables = {}, []
    for width, words in plain(config)["tests"].items():
        other = open_zoo(load(words).zoo)
        rows = other.split("test")
        labels = task.labels(other, rows)
        try:
            prediction = finite(task.predict(predict(model, other, rows, batch_size=_at_once(other))))
        except GraphNFNError as error:
            widths[str(width)] = {"refused": " ".join(str(error).split())}
            continue
        widths[str(width)] = task.measure(prediction, labels)
        label, shown = task.pairs(prediction, labels)
        columns = {"row": rows.numpy(), "label": label.numpy(), "prediction": shown.numpy()}
        tables.append(pd.DataFrame(columns).assign(width=int(width)))
    row = {
        "model": config.model.name, "ours": config.model.ours, "reads": config.model.reads, "task": task.column,
        "seed": config.seed, "measure": task.measures[0], "val": fitted.best_score, "epochs": fitted.epochs,
        "cpu_s": cpu, "parameters": sum(p.numel() for p in model.parameters()),
        "train_networks": len(zoo.split("train")), "widths": widths,
    }  # fmt: skip
    return Cell(row, pd.concat(tables) if tables else pd.DataFrame())


def _at_once(zoo: Zoo) -> int:
    """Networks per batch: fewer where they are large, so that edge features fit into memory."""
    return max(1, min(CHUNK, NUMBERS // max(spec.num_params for spec in zoo.specs)))


def _zoos(case: Case) -> dict[str, Any]:
    """Per width, how many networks are read, and what is known of them."""
    facts = {}
    for width, words in case.tests.items():
        zoo = open_zoo(load(words).zoo)
        table = zoo.table.iloc[zoo.split("test").numpy()]
        known = [column for column in ("test_accuracy", "psnr") if column in table]
        quality = {c: [float(table[c].mean()), float(table[c].std())] for c in known}
        facts[str(width)] = {"networks": len(table), "folder": OmegaConf.select(load(words), "zoo.folder"), **quality}
    return facts
