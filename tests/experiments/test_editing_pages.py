"""Leaderboard and report where less is better."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from experiments.cell import Cell, run
from experiments.compare import Comparison
from experiments.config import load
from experiments.leaderboard import leaderboard, write_leaderboard
from experiments.report import write_report
from experiments.results import main_measure, summarize, write_results


@pytest.fixture(scope="module")
def done(sirens: list[str], tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder, cells = tmp_path_factory.mktemp("pages"), []
    words = [*sirens, "task=contrast", "compare.models=[edit/descent,edit/native,edit/nfn_hnp]", "compare.seeds=[0]"]
    for model in ("descent", "native", "nfn_hnp"):
        cell = run(load([*words, f"model=edit/{model}", "trainer.epochs=2"]), folder / model)
        cells.append(Cell({**cell.row, "commit": "none", "reads": "weights"}, cell.predictions))
    table = write_results(folder, cells, {})
    predictions = pd.concat([c.predictions for c in cells], ignore_index=True)
    about = {"command": "none", "commit": "none", "machine": {}, "seconds": 1.0, "config": {}}
    return Comparison("", load([*words, "model=edit/native"]), table, predictions, about)


def with_errors(done: Comparison, **errors: float) -> Comparison:
    """The comparison as if the models had reached these test errors, and twice as much on validation."""
    table = done.table.copy()
    table["test_mse"] = [errors[str(name).removeprefix("edit/")] for name in table["model"]]
    table["val"] = 2 * table["test_mse"]
    table["history"] = [[[1.0, 1.0], [2.0, v]] for v in table["val"]]
    return Comparison(done.case, done.config, table, done.predictions, done.about)


def test_the_smallest_error_comes_first(done: Comparison) -> None:
    part = with_errors(done, descent=0.2, native=0.3, nfn_hnp=0.25)
    assert main_measure(part.table) == "mse"
    assert [s.name for s in summarize(part.table)] == ["edit/descent", "edit/nfn_hnp", "edit/native"]


@pytest.mark.parametrize(("ours", "margin", "seconds"), [(0.2, 0.05, 2.0), (0.3, -0.05, None)])
def test_margins_are_positive_where_ours_is_smaller(done: Comparison, ours: float, margin: float, seconds) -> None:
    found = leaderboard([with_errors(done, descent=0.9, native=ours, nfn_hnp=0.25)])["cases"][0]["margins"]["weights"]
    assert found["ours"] == "edit/native" and found["margin"] == pytest.approx(margin)
    assert found["theirs_cpu_s"] == 2.0 and found["ours_cpu_s"] == seconds and found["score"] == 0.5


def test_pages_are_written(done: Comparison, tmp_path: Path) -> None:
    page = write_leaderboard([done], tmp_path)
    rows = json.loads(page.with_suffix(".json").read_text())["cases"][0]["rows"]
    assert [r["test"] for r in rows] == sorted(r["test"] for r in rows)
    assert "MSE of contrast on sirens" in page.read_text() and "e-0" in page.read_text()
    text = write_report(done, tmp_path / "report.html").read_text()
    assert "below the line the edit helps" in text and "share of MSE removed" in text
    best = f"{min(done.table['test_mse']):.2e}"
    assert f'<td class="best">{best}' in text
