"""The results table: one row per cell, kept cell by cell so that a comparison can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.cell import Cell
from experiments.config import fingerprint
from experiments.metrics import goodness

TABLE, JSON_TABLE, PREDICTIONS = "results.parquet", "results.json", "predictions.parquet"
_COSTS = ("step_ms", "step_ms_low", "step_ms_high", "peak_mb", "cost_networks")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a Parquet file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    table.to_parquet(partial, index=False)
    partial.replace(path)


@dataclass(frozen=True)
class CellStore:
    """Finished cells in a folder, each under the fingerprint of its configuration.

    Args:
        folder: where they are.
    """

    folder: Path

    def load(self, content: dict[str, Any]) -> Cell | None:
        """A finished cell of exactly this configuration, or None."""
        name = fingerprint(content)
        row, predictions = self.folder / f"{name}.json", self.folder / f"{name}.parquet"
        if not row.is_file():
            return None
        return Cell(json.loads(row.read_text(encoding="utf-8"))["row"], pd.read_parquet(predictions))

    def save(self, content: dict[str, Any], cell: Cell) -> None:
        """Keep a finished cell; its row comes last and marks it as whole."""
        name = fingerprint(content)
        write_table(self.folder / f"{name}.parquet", cell.predictions)
        text = json.dumps({"row": cell.row, "config": content}, indent=1)
        write_text(self.folder / f"{name}.json", text + "\n")


def write_results(folder: Path, cells: Iterable[Cell], costs: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Write ``results.parquet``, ``results.json`` and ``predictions.parquet``.

    Args:
        folder: where.
        cells: all of them.
        costs: per model, what :func:`experiments.cost.measure` found; empty where it was not asked.

    Returns:
        The table: a row per cell, with the cost of its model.
    """
    cells = list(cells)
    rows = [{**c.row, **{name: costs[c.row["model"]][name] for name in _COSTS if costs}} for c in cells]
    table = pd.DataFrame(rows)
    write_table(folder / TABLE, table)
    write_text(folder / JSON_TABLE, f"{table.to_json(orient='records', indent=1)}\n")
    write_table(folder / PREDICTIONS, pd.concat([c.predictions for c in cells], ignore_index=True))
    return table


@dataclass(frozen=True)
class ModelSummary:
    """One model's cells, over seeds.

    Args:
        name: of the model.
        ours: whether it is one of graphnfn's own.
        reads: "weights", "function" where it runs the networks on inputs of its choice, or "images".
        mean: per numeric column.
        std: per numeric column; NaN where there is one seed.
        cells: its rows of the table.
    """

    name: str
    ours: bool
    reads: str
    mean: dict[str, float]
    std: dict[str, float]
    cells: pd.DataFrame


def main_measure(table: pd.DataFrame) -> str:
    """The measure that chose the epochs."""
    return str(table["measure"].tolist()[0])


def summarize(table: pd.DataFrame) -> list[ModelSummary]:
    """Every model over its seeds, the best first.

    Example:
        >>> row = {"model": "a", "measure": "tau", "ours": True, "reads": "weights"}
        >>> rows = [row | {"test_tau": t} for t in (0.5, 0.7)]
        >>> round(summarize(pd.DataFrame(rows))[0].mean["test_tau"], 2)
        0.6
    """
    out = []
    for name in dict.fromkeys(table["model"].tolist()):
        cells = table.loc[table["model"] == name]
        numbers = cells.select_dtypes("number")
        means = {str(c): float(numbers[c].mean()) for c in numbers.columns}
        with np.errstate(invalid="ignore"):  # where a prediction overflowed, the shift is infinite
            stds = {str(c): float(numbers[c].std()) for c in numbers.columns}
        first = cells.iloc[0]
        out.append(ModelSummary(str(name), bool(first["ours"]), str(first["reads"]), means, stds, cells))
    key = f"test_{main_measure(table)}"
    return sorted(out, key=lambda s: -goodness(main_measure(table)) * s.mean[key])


def moved_columns(table: pd.DataFrame) -> dict[str, str]:
    """The columns of the main measure under group elements, by the size of these.

    Example:
        >>> moved_columns(pd.DataFrame({"measure": ["tau"], "test_tau": [0.8], "test_tau_2dec": [0.7]}))
        {'2': 'test_tau_2dec'}
    """
    start = f"test_{main_measure(table)}_"
    names = [str(c) for c in table.columns]
    return {c.removeprefix(start).removesuffix("dec"): c for c in names if c.startswith(start)}
