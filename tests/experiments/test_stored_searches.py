"""Settings in the repository are what the tables of searches say, and what stored comparisons were trained with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from experiments.plan import cases

RESULTS = Path(__file__).parents[2] / "docs" / "results"
SEARCHES = sorted((RESULTS / "search").glob("*.json"))


def bold(page: str) -> dict[tuple[str, str], tuple[str, float]]:
    """(case, model) -> the setting in bold and its score."""
    found, case, head = {}, "", []
    for line in page.splitlines():
        if line.startswith("## "):
            case = line[3:]
        elif case and line.startswith("| "):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if cells[0] == "model":
                head = cells
                continue
            (at,) = (k for k, cell in enumerate(cells) if cell.startswith("**"))
            found[case, cells[0]] = head[at], float(cells[at].strip("*"))
    return found


def test_there_are_two() -> None:
    assert [path.stem for path in SEARCHES] == ["given_search", "own_search"]


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_a_table_says_what_was_chosen(path: Path) -> None:
    stored = json.loads(path.read_text())
    said = bold((RESULTS / f"{path.stem}.md").read_text())
    chosen = {(case, model): row for case, models in stored["chosen"].items() for model, row in models.items()}
    assert chosen.keys() == said.keys()
    for key, row in chosen.items():
        assert (row["setting"], row["val"]) == said[key], key
        assert row["words"] == stored["settings"][row["setting"]]


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_stored_comparisons_were_trained_with_it(path: Path) -> None:
    stored, checked = json.loads(path.read_text()), 0
    for result in sorted(RESULTS.glob("*.json")):
        board = json.loads(result.read_text())
        if board["search"] is None or board["search"]["command"] != stored["command"]:
            continue
        planned = {c.name: c for c in cases([f"compare={result.stem}", f"compare.settings={path}"])}
        for case in board["cases"]:
            chosen = planned[case["name"]].settings
            for row in case["rows"]:
                if row["model"] in chosen:
                    assert row["setting"] == chosen[row["model"]].name, (result.stem, case["name"], row["model"])
                    checked += 1
    assert checked > 20


COMMANDS = re.findall(
    r"^graphnfn compare compare=(\S+) (?:\$(GIVEN|OWN))?", (RESULTS / "README.md").read_text(), flags=re.MULTILINE
)


def test_all_stored_comparisons_have_a_command() -> None:
    assert {plan for plan, _ in COMMANDS} == {path.stem for path in RESULTS.glob("*.json")}


@pytest.mark.parametrize(("plan", "search"), [c for c in COMMANDS if c[1]], ids=lambda value: value)
def test_the_commands_find_a_setting_for_every_model(plan: str, search: str) -> None:
    """A model that joins a plan is searched first, or named in ``compare.unsearched``."""
    path = RESULTS / "search" / f"{search.lower()}_search.json"
    for case in cases([f"compare={plan}", f"compare.settings={path}"]):
        kept = set(case.config.compare.unsearched)
        assert {*case.settings, *kept} >= set(case.config.compare.models)
