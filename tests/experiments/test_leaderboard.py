"""Comparisons of several cases, with budgets, and their leaderboard."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.board import document
from experiments.budget import within_budget
from experiments.cell import prepare
from experiments.compare import Comparison, compare
from experiments.config import load, make
from experiments.data import open_zoo
from experiments.document import to_markdown
from experiments.errors import ExperimentError
from experiments.leaderboard import Entry, leaderboard, write_leaderboard
from experiments.models import count_parameters
from experiments.plan import cases


def markdown(found: Entry) -> str:
    return to_markdown(document({"here": found}), "figures")


def board(tiny: list[str], *models: str) -> list[str]:
    """Two cases of the same zoo; the words of a case come before those of the user, who gave a task already."""
    plain = [w for w in tiny if not w.startswith(("task", "trainer", "compare.cost"))]
    scores, classes = "task=fraction task.column=score trainer.epochs=3", "task=label trainer.epochs=2"
    names = ",".join(models)
    given = ["compare.cost_networks=0", "compare.workers=0", "compare.seeds=[0,1]", f"compare.models=[{names}]"]
    return [*plain, *given, f"+compare.cases.scores='{scores}'", f"+compare.cases.classes='{classes}'"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("board")


@pytest.fixture(scope="module")
def done(tiny: list[str], folder: Path) -> list[Comparison]:
    return compare(board(tiny, "native", "gated", "statnn"), folder, lambda _: None)


def test_every_case_has_its_own_tables(done: list[Comparison], folder: Path) -> None:
    assert [part.case for part in done] == ["scores", "classes"]
    for part, measure in zip(done, ("tau", "accuracy"), strict=True):
        table = pd.read_parquet(folder / part.case / "results.parquet")
        assert len(table) == 6 and set(table["measure"]) == {measure} and set(table["case"]) == {part.case}
        assert "step_ms" not in table


def test_the_history_says_what_each_epoch_reached(done: list[Comparison]) -> None:
    row = done[0].table.iloc[0]
    times, scores = zip(*row["history"], strict=True)
    assert len(times) == row["epochs"] == 3 and sorted(times) == list(times) and times[0] > 0
    assert max(scores) == pytest.approx(row["val"], abs=1e-6)


def test_kinds_of_readers_are_kept_apart(done: list[Comparison], folder: Path) -> None:
    found = json.loads(write_leaderboard(done, folder).with_suffix(".json").read_text())
    case = found["cases"][0]
    assert {r["model"]: r["reads"] for r in case["rows"]} == {
        "native": "function", "gated": "weights", "statnn": "weights",
    }  # fmt: skip
    assert set(case["margins"]) == {"weights"}, "no baseline here runs the networks"
    margin = case["margins"]["weights"]
    tests = {r["model"]: r["test"] for r in case["rows"]}
    assert margin["margin"] == pytest.approx(tests["gated"] - tests["statnn"])
    assert margin["ahead"] == (margin["margin"] > margin["spread"])
    text = (folder / "leaderboard.md").read_text()
    assert "## scores" in text and "## classes" in text and "| **gated** |" in text and found["command"] in text


@pytest.mark.parametrize(("lead", "ahead"), [(2e-5, False), (2e-2, True), (-2e-2, False)])
def test_a_lead_that_tables_do_not_show_is_none(done: list[Comparison], lead: float, ahead: bool) -> None:
    part = done[0]
    scores = {"statnn": 0.5, "gated": 0.5 + lead}
    table = part.table.assign(test_tau=[scores.get(m, 0.1) + 1e-6 * s for m, s in zip(*_names(part), strict=True)])
    found = leaderboard([Comparison("", part.config, table, part.predictions, part.about)])
    margin = found["cases"][0]["margins"]["weights"]
    assert margin["margin"] == pytest.approx(lead, abs=1e-9) and margin["spread"] < 1e-5
    assert margin["ahead"] is ahead and f"| {'yes' if ahead else 'no'} |" in markdown(found)


def _names(part: Comparison) -> tuple[pd.Series, pd.Series]:
    return part.table["model"], part.table["seed"]


def test_our_model_is_chosen_on_validation(done: list[Comparison]) -> None:
    """A model of ours that is better on test only must not be the one compared."""
    part = done[0]
    table = part.table.copy()
    lucky = table[table["model"] == "gated"].assign(model="lucky", test_tau=1.0, val=-1.0)
    found = leaderboard([Comparison("", part.config, pd.concat([table, lucky]), part.predictions, part.about)])
    assert found["cases"][0]["margins"]["weights"]["ours"] == "gated"
    assert "lucky" in markdown(found)


def test_one_seed_proves_nothing(done: list[Comparison]) -> None:
    part = done[0]
    single = Comparison("", part.config, part.table[part.table["seed"] == 0], part.predictions, part.about)
    found = leaderboard([single])
    assert found["cases"][0]["margins"]["weights"]["ahead"] is None and "| one seed |" in markdown(found)
    assert list(found["cases"][0]["rows"][0]["others"]) == ["test_r2"]


def test_a_failing_cell_stops_no_other(tiny: list[str], tmp_path: Path) -> None:
    words = [*board(tiny, "statnn"), "+compare.cases.bad='task=fraction task.column=value'"]
    lines: list[str] = []
    with pytest.raises(ExperimentError, match="2 of 6 cells failed, the others are kept; bad statnn seed"):
        compare(words, tmp_path, lines.append)
    assert sum(line.startswith("failed: bad") for line in lines) == 2 and len(lines) == 6
    assert len(list((tmp_path / "cells").glob("*.json"))) == 4


def test_a_case_without_models_is_an_error(tiny: list[str]) -> None:
    with pytest.raises(ExperimentError, match="must not be empty"):
        cases([*tiny, "+compare.cases.a='compare.models=[]'"])


@pytest.mark.parametrize("name", ["cells", "a.b", "'a/b'"])
def test_a_case_names_a_folder(tiny: list[str], name: str) -> None:
    with pytest.raises(ExperimentError, match="a case names a folder|cannot be composed"):
        cases([*tiny, f"+compare.cases={{{name}: 'task=label'}}"])


def test_a_case_with_an_open_quote_is_one_clear_error(tiny: list[str]) -> None:
    with pytest.raises(ExperimentError, match="compare.cases.a is .* expected overrides .No closing quotation"):
        cases([*tiny, "+compare.cases.a='task=label \"x'"])


def test_cells_of_other_code_are_said_to_be_so(tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, "compare.cost_networks=0", "compare.workers=0", "compare.seeds=[0]", "compare.models=[statnn]"]
    compare(words, tmp_path, lambda _: None)
    (path,) = (tmp_path / "cells").glob("*.json")
    kept = json.loads(path.read_text())
    kept["row"]["commit"] = "elsewhere"
    path.write_text(json.dumps(kept))
    lines: list[str] = []
    (again,) = compare(words, tmp_path, lines.append)
    assert lines[0] == "1 of 1 cells are there already" and "other code, elsewhere" in lines[1]
    assert again.about["commit"] == "elsewhere"


def test_a_baseline_reaches_its_own_score(done: list[Comparison], folder: Path) -> None:
    for case in leaderboard(done)["cases"]:
        for margin in case["margins"].values():
            assert margin["theirs_cpu_s"] is not None


def test_what_is_not_finite_is_nothing_in_json(done: list[Comparison], tmp_path: Path) -> None:
    part = done[0]
    broken = part.table.assign(moved_2dec=float("inf"))
    page = write_leaderboard([Comparison("", part.config, broken, part.predictions, part.about)], tmp_path)
    found = json.loads(page.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert found["cases"][0]["rows"][0]["shift"] == {"2": None}


def test_a_budget_lowers_the_epochs_and_leaves_the_model_alone(tiny: list[str]) -> None:
    config = load([*tiny, "model=gated", "trainer.epochs=100000"])
    zoo, task, model = prepare(config)
    count_parameters(model, zoo.batch([0]))
    before = {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    free = make(config.trainer)
    assert within_budget(free, model, task, zoo).epochs == 100000
    few, more = (
        within_budget(
            make(load([*tiny, "trainer.epochs=100000", f"trainer.cpu_seconds={s}"]).trainer), model, task, zoo
        )
        for s in (2, 20)
    )
    assert 1 < few.epochs < more.epochs < 100000
    assert within_budget(make(load([*tiny, "trainer.cpu_seconds=1e-6"]).trainer), model, task, zoo).epochs == 1
    for name, value in before.items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ExperimentError, match="more than 0"):
        make(load([*tiny, "trainer.cpu_seconds=0"]).trainer)


def test_fewer_training_networks(tiny: list[str]) -> None:
    whole, few = (open_zoo(load([*tiny, f"zoo.most_train={n}"]).zoo) for n in ("null", 5))
    assert len(few.split("train")) == 5 and len(few.split("test")) == len(whole.split("test"))
    with pytest.raises(ExperimentError, match="1 or more"):
        open_zoo(load([*tiny, "zoo.most_train=0"]).zoo)
