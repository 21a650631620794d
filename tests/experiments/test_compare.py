"""The comparison as a whole: cells, resuming, tables, the page."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from experiments.cell import Cell
from experiments.compare import Comparison, compare
from experiments.cost import measure_apart
from experiments.errors import ExperimentError
from experiments.report import write_report
from experiments.results import CellStore, summarize
from experiments.runner import WORK, run_cells
from experiments.tables import comparison_table
from graphnfn.errors import ZooError

WORDS = ["compare.models=[native,statnn]", "compare.seeds=[0,1]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def done(tiny: list[str], folder: Path) -> Comparison:
    lines: list[str] = []
    (result,) = compare([*tiny, *WORDS], folder, lines.append)
    assert sum(line.startswith("[") for line in lines) == 4
    return result


def test_every_cell_is_a_row(done: Comparison, folder: Path) -> None:
    table = pd.read_parquet(folder / "results.parquet")
    found = sorted(zip(table["model"], table["seed"], strict=True))
    assert found == [(model, seed) for model in ("native", "statnn") for seed in (0, 1)]
    for column in (
        "commit", "wall_s", "cpu_s", "parameters", "step_ms", "peak_mb", "test_tau", "test_r2", "test_tau_2dec",
    ):  # fmt: skip
        assert len(table[column].dropna()) == 4, column
    assert len(pd.read_json(folder / "results.json")) == 4
    assert len(done.predictions) == 4 * table["test_networks"].iloc[0]


def test_finished_cells_are_not_run_again(done: Comparison, tiny: list[str], folder: Path) -> None:
    lines: list[str] = []
    (again,) = compare([*tiny, *WORDS], folder, lines.append)
    assert lines == ["4 of 4 cells are there already"]
    pd.testing.assert_frame_equal(again.table, done.table)


def test_folders_of_others_are_left_alone(tiny: list[str], tmp_path: Path) -> None:
    """Where results go into a folder that is in use."""
    note = tmp_path / "work" / "note.txt"
    note.parent.mkdir()
    note.write_text("mine")
    words = ["compare.models=[statnn]", "compare.seeds=[0]", "compare.workers=0", "trainer.epochs=1"]
    compare([*tiny, *words], tmp_path, lambda _: None)
    assert note.read_text() == "mine" and not (tmp_path / WORK).exists()


def test_a_lost_cell_is_run_again_and_only_it(done: Comparison, tiny: list[str], folder: Path) -> None:
    next(iter((folder / "cells").glob("*.json"))).unlink()
    lines: list[str] = []
    (again,) = compare([*tiny, *WORDS], folder, lines.append)
    assert lines[0] == "3 of 4 cells are there already" and len(lines) == 2
    assert again.table["test_tau"].tolist() == done.table["test_tau"].tolist()


def test_another_configuration_is_another_cell(done: Comparison, tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.save({"seed": 0}, Cell({"model": "a"}, done.predictions))
    again = store.load({"seed": 0})
    assert again is not None and again.row == {"model": "a"}
    pd.testing.assert_frame_equal(again.predictions, done.predictions)
    assert store.load({"seed": 1}) is None


def test_the_page_needs_nothing_else(done: Comparison, tmp_path: Path) -> None:
    page = write_report(done, tmp_path / "report.html").read_text(encoding="utf-8")
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all(link.startswith(("data:", "#")) for link in links)
    assert page.count("<svg") == 4 and "data:image/png;base64," in page
    assert "graphnfn compare" in page and done.about["commit"] in page
    assert not re.search(r"\$[a-z]", page), "a placeholder of the template is left"
    for model in ("native", "statnn"):
        assert page.count(f"<td>{model}</td>") == 2 + 2, "results, settings and a row per seed"


def test_the_terminal_table_has_the_best_model_first(done: Comparison) -> None:
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(comparison_table(done.table))
    text = console.export_text()
    order = [s.name for s in summarize(done.table)]
    assert text.index(order[0]) < text.index(order[1])
    assert f"{summarize(done.table)[0].mean['test_tau']:.3f}" in text


def test_a_missing_zoo_is_found_before_any_cell(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="no zoo at"):
        compare(["zoo=folder", f"zoo.folder={tmp_path / 'nothing'}", *WORDS], tmp_path / "out", lambda _: None)
    assert not (tmp_path / "out").exists()


def test_nothing_to_compare_is_an_error(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="must not be empty"):
        compare([*tiny, "compare.models=[]"], tmp_path, lambda _: None)


def test_an_error_in_a_cell_reaches_the_caller(tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, "compare.models=[statnn]", "compare.seeds=[0]", "model.build.hidden=8", "+model.build.depth=2"]
    with pytest.raises(ExperimentError, match="depth|cannot be composed"):
        compare(words, tmp_path, lambda _: None)


def test_the_cost_of_a_large_model(tiny: list[str]) -> None:
    cost = measure_apart([*tiny, "model=flat_mlp", "model.build.hidden=1024"])
    assert cost["step_ms_low"] <= cost["step_ms"] <= cost["step_ms_high"]
    four_copies = 4 * 4 * cost["parameters"] / 2**20
    assert 0.8 * four_copies < cost["peak_mb"] < 3 * four_copies, "weights, gradients and two moments of Adam"


def test_a_killed_worker_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = SimpleNamespace(set_num_threads=os._exit)  # what a worker calls first
    monkeypatch.setattr("experiments.runner.torch", dying)
    with pytest.raises(ExperimentError, match="a worker process was killed"):
        list(run_cells({("", "a", 0): []}, 1, tmp_path, "none"))


def test_a_failing_measurement_says_why(tiny: list[str]) -> None:
    with pytest.raises(ExperimentError, match="measuring the cost .* failed: .*depth"):
        measure_apart([*tiny, "model=statnn", "+model.build.depth=2"])
