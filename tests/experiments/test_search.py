"""The search for hyper-parameters: what it chooses, what it may see, and how a comparison takes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.board import document
from experiments.cell import train
from experiments.compare import compare
from experiments.config import load
from experiments.data import for_learning, open_zoo
from experiments.document import Text
from experiments.errors import ExperimentError
from experiments.leaderboard import leaderboard
from experiments.plan import cases, content
from experiments.search import choose, search
from graphnfn.errors import ZooError
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo

GRID = "['trainer.learning_rate=0 trainer.epochs=1','trainer.learning_rate=0.01 trainer.epochs=8']"
NOTHING, FAST = "learning_rate 0, epochs 1", "learning_rate 0.01, epochs 8"
MODELS = ["gated", "statnn"]


def words(tiny: list[str], grid: str = GRID) -> list[str]:
    plain = [w for w in tiny if not w.startswith(("trainer", "compare"))]
    named = [
        "compare.cost_networks=0",
        "compare.workers=0",
        f"compare.models=[{','.join(MODELS)}]",
        "compare.seeds=[0]",
    ]
    return [*plain, *named, "search.cpu_seconds=null", f"search.settings={grid}"]


@pytest.fixture(scope="module")
def blind_zoo(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny zoo with test networks that nobody can use: NaN weights, NaN labels."""
    zoo = Zoo.open(tiny_zoo)
    test = torch.from_numpy(zoo.table["split"].to_numpy() == "test")
    stack = zoo.batch(slice(None)).stacks()[0]
    spoil = [torch.where(test.view(-1, *[1] * (t.dim() - 1)), torch.nan, t) for t in (stack.nodes, *stack.blocks)]
    table = zoo.table.copy()
    table.loc[test.numpy(), ["score", "value"]] = np.nan
    folder = tmp_path_factory.mktemp("blind") / "zoo"
    Zoo.write(folder, [Stack(stack.spec, spoil[0], tuple(spoil[1:]))], table)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def asked(tiny: list[str], blind_zoo: Path) -> list[str]:
    return [w if not w.startswith("zoo.folder") else f"zoo.folder={blind_zoo}" for w in words(tiny)]


@pytest.fixture(scope="module")
def done(asked: list[str], folder: Path) -> dict:
    return search(asked, folder, lambda _: None)


def test_test_networks_are_not_read(done: dict, asked: list[str], tmp_path: Path) -> None:
    """It works where every test network is spoilt; a comparison, which reads them, does not."""
    assert all(np.isfinite(t["val"]) and t["val_networks"] == 8 for t in done["trials"])
    with pytest.raises(ZooError, match="8 networks have NaN"):
        compare(asked, tmp_path, lambda _: None)


def test_the_best_on_validation_is_chosen(done: dict, folder: Path) -> None:
    found = json.loads((folder / "search.json").read_text())
    assert found["chosen"] == done["chosen"] and len(found["trials"]) == 4
    for model in MODELS:
        scores = {t["setting"]: t["val"] for t in found["trials"] if t["model"] == model}
        best = max(scores, key=scores.get)  # type: ignore[arg-type]
        assert scores[FAST] != scores[NOTHING] and found["chosen"][""][model]["setting"] == best
        assert found["chosen"][""][model] | {"tried": 2, "val": scores[best]} == found["chosen"][""][model]
    page = (folder / "search.md").read_text()
    assert page.count("**") == 2 * len(MODELS) + 2 and "graphnfn search" in page


def test_the_score_is_that_of_training_on_the_same_networks(done: dict, tiny: list[str], tmp_path: Path) -> None:
    picked = next(t for t in done["trials"] if t["model"] == "gated" and t["setting"] == FAST)
    plain = [w for w in words(tiny) if not w.startswith("search")]
    config = load([*plain, "model=gated", "trainer.learning_rate=0.01", "trainer.epochs=8", "seed=0"])
    *_, fitted = train(config, tmp_path)
    assert fitted.best_score == pytest.approx(picked["val"], abs=1e-6)


def test_a_zoo_that_is_given_is_the_one_that_is_trained_on(tiny: list[str], tmp_path: Path) -> None:
    config = load([*(w for w in words(tiny) if not w.startswith("search")), "model=statnn", "trainer.epochs=1"])
    given = for_learning(open_zoo(config.zoo))
    assert len(given) < len(open_zoo(config.zoo))
    zoo, *_ = train(config, tmp_path, given)
    assert zoo is given


def test_every_model_gets_the_same_budget(done: dict, asked: list[str], tmp_path: Path) -> None:
    counts = pd.DataFrame(done["trials"]).groupby("model")["setting"].nunique()
    assert set(counts) == {2}
    short = [*asked, "search.cpu_seconds=1e-6", "compare.models=[statnn]"]
    assert {(t["budget_s"], t["epochs"]) for t in search(short, tmp_path, lambda _: None)["trials"]} == {(1e-6, 1)}


def test_trials_are_kept_one_by_one(done: dict, asked: list[str], folder: Path) -> None:
    lines: list[str] = []
    again = search(asked, folder, lines.append)
    assert lines == ["4 of 4 cells are there already"] and again["trials"] == done["trials"]
    next(iter((folder / "trials").glob("*.json"))).unlink()
    lines.clear()
    again = search(asked, folder, lines.append)
    assert lines[0] == "3 of 4 cells are there already" and len(lines) == 2
    assert again["chosen"] == done["chosen"]


def test_a_comparison_takes_what_was_chosen(done: dict, tiny: list[str], folder: Path, tmp_path: Path) -> None:
    picked = {m: done["chosen"][""][m] for m in MODELS}
    given = [*words(tiny), f"compare.settings={folder / 'search.json'}"]
    (part,) = compare(given, tmp_path, lambda _: None)
    rates = {NOTHING: 0.0, FAST: 0.01}
    for _, row in part.table.iterrows():
        assert row["setting"] == picked[row["model"]]["setting"]
        assert row["learning_rate"] == rates[row["setting"]]
        assert row["val"] == pytest.approx(picked[row["model"]]["val"], abs=1e-6)
    board = leaderboard([part])
    assert board["search"]["settings"] == [NOTHING, FAST] and "graphnfn search" in board["search"]["command"]
    assert all(r["setting"] == picked[r["model"]]["setting"] for r in board["cases"][0]["rows"])
    (origin,) = [p.text for p in document({"here": board}) if isinstance(p, Text) and "made by" in p.text]
    assert "Settings were chosen on validation networks among 2, trained with seeds [0]" in origin
    board["search"]["seeds"] = {"a": [0, 1], "b": [0], "c": [0, 1]}
    (origin,) = [p.text for p in document({"here": board}) if isinstance(p, Text) and "made by" in p.text]
    assert "trained with seeds [0, 1] for a, c and [0] for b, the same" in origin


def test_a_case_may_have_seeds_of_its_own(tiny: list[str], tmp_path: Path) -> None:
    given = words(tiny, "['trainer.learning_rate=0.01 trainer.epochs=1']")
    two = ["+compare.cases.a='search.seeds=[0,1]'", "+compare.cases.b=''"]
    found = search([*given, *two, "compare.models=[statnn]"], tmp_path, lambda _: None)
    assert found["seeds"] == {"a": [0, 1], "b": [0]}
    assert sorted((t["case"], t["seed"]) for t in found["trials"]) == [("a", 0), ("a", 1), ("b", 0)]
    text = (tmp_path / "search.md").read_text()
    assert "## a\n\nSeeds [0, 1]." in text and "## b\n\nSeeds [0]." in text


def test_the_setting_is_part_of_a_cells_key(tiny: list[str], tmp_path: Path) -> None:
    keys = []
    for name, rate in (("a", 0.1), ("b", 0.1)):
        chosen = {m: {"setting": name, "words": f"trainer.learning_rate={rate}"} for m in MODELS}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"chosen": {"": chosen}}))
        (case,) = cases([*words(tiny), f"compare.settings={path}"])
        keys.append(content(load(case.cell_words("gated"))))
    assert keys[0]["setting"] == "a" and keys[0] != keys[1]
    assert keys[0]["trainer"] == keys[1]["trainer"] and keys[0]["trainer"]["learning_rate"] == 0.1
    (plain,) = cases(words(tiny))
    assert "setting" not in content(load(plain.cell_words("gated")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["compare.models=[gated,native]"], "no setting of native"),
        (["compare.settings_of=other"], "no case 'other'"),
        (["trainer.learning_rate=0.1"], "trainer.learning_rate is given and chosen"),
        (["compare.settings=nowhere.json"], "is no search.json"),
    ],
)
def test_settings_that_do_not_fit(done: dict, tiny: list[str], folder: Path, change: list[str], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        cases([*words(tiny), f"compare.settings={folder / 'search.json'}", *change])


def test_one_case_may_take_the_settings_of_another(done: dict, tiny: list[str], folder: Path) -> None:
    few = "+compare.cases.few='zoo.most_train=9 compare.settings_of=\"\"'"
    (case,) = cases([*words(tiny), f"compare.settings={folder / 'search.json'}", few])
    assert f"setting='{done['chosen']['']['gated']['setting']}'" in case.cell_words("gated")


def test_unsearched_models_keep_their_settings(done: dict, tiny: list[str], folder: Path) -> None:
    both = [*words(tiny), f"compare.settings={folder / 'search.json'}", "compare.models=[gated,native]"]
    (case,) = cases([*both, "compare.unsearched=[native]"])
    assert case.cell_words("native") == [*case.words, "model=native", *case.overrides]
    assert f"setting='{done['chosen']['']['gated']['setting']}'" in case.cell_words("gated")


def test_a_diverged_setting_loses(tiny: list[str], tmp_path: Path) -> None:
    grid = "['trainer.learning_rate=1e30','trainer.learning_rate=0']"
    one = [*words(tiny, grid), "compare.models=[gated]"]
    found = search(one, tmp_path / "a", lambda _: None)
    assert {t["setting"]: t["val"] is None for t in found["trials"]} == {
        "learning_rate 1e30": True,
        "learning_rate 0": False,
    }
    assert found["chosen"][""]["gated"]["setting"] == "learning_rate 0"
    assert "diverged" in (tmp_path / "a" / "search.md").read_text()
    with pytest.raises(ExperimentError, match="all settings of .*gated diverged"):
        choose([{"case": "", "model": "gated", "measure": "tau", "setting": "wild", "val": None}], {"wild": ""})


def test_a_search_without_settings_is_an_error(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="must not be empty"):
        search(words(tiny, "[]"), tmp_path, lambda _: None)


@pytest.mark.parametrize(("measure", "best"), [("tau", ("y", 0.6)), ("mse", ("x", 0.5))])
def test_scores_are_means_over_seeds_and_may_be_errors(measure: str, best: tuple[str, float]) -> None:
    rows = [("x", 0.9), ("x", 0.1), ("y", 0.6), ("y", 0.6), ("z", 0.95 if measure == "tau" else 0.0), ("z", None)]
    trials = [{"case": "a", "model": "m", "measure": measure, "setting": s, "val": v} for s, v in rows]
    chosen = choose(trials, dict.fromkeys("xyz", ""))["a"]["m"]
    assert chosen == {"setting": best[0], "words": "", "val": pytest.approx(best[1]), "tried": 3}
