"""Width transfer: a cell per model and seed, every width measured or refused, a page that shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.config import load
from experiments.data import open_zoo
from experiments.errors import ExperimentError
from experiments.transfer import cases, transfer
from experiments.transfer_page import figure, scores, write

MODELS = "transfer.models=[native,'native +model.build.reference_width=4',flat_mlp]"
TRAIN = "zoo=digits_siren zoo.builder=digits-siren-w4 zoo.size=24 zoo.split_seed=null task=label trainer.epochs=2"
TEST = "zoo=digits_siren zoo.builder=digits-siren-w{width} zoo.size=24 zoo.split_seed=null"


def words(folder: Path) -> list[str]:
    where = f"zoo.folder={folder}/w"
    return [
        "transfer.seeds=[0,1]", "transfer.workers=0", "~transfer.cases.cnn-accuracy", MODELS, "transfer.trained_at=4",
        "~transfer.cases.siren-label.models", "transfer.cases.siren-label.widths=[4,6]",
        f"transfer.cases.siren-label.train='{TRAIN} {where}4'",
        f"transfer.cases.siren-label.test='{TEST} {where}{{width}}'",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("transfer")
    done = transfer(words(folder), folder / "run", lambda _: None)
    lines: list[str] = []
    again = transfer(words(folder), folder / "run", lines.append)
    assert any("6 of 6 cells are there" in line for line in lines)
    assert again["rows"] == done["rows"]
    return json.loads(json.dumps(done)) | {"folder": str(folder)}


def test_every_cell_has_every_width(found: dict) -> None:
    names = ["native", "native, reference_width=4", "flat_mlp"]
    assert [(r["name"], r["seed"]) for r in found["rows"]] == [(n, s) for s in (0, 1) for n in names]
    assert all(set(r["widths"]) == {"4", "6"} for r in found["rows"])
    for row in found["rows"]:
        assert "accuracy" in row["widths"]["4"]
        assert ("refused" in row["widths"]["6"]) == (row["name"] == "flat_mlp")


def test_a_reference_changes_no_training_at_its_width(found: dict) -> None:
    for seed in (0, 1):
        rows = {r["name"]: r for r in found["rows"] if r["seed"] == seed}
        plain, read = rows["native"], rows["native, reference_width=4"]
        assert plain["val"] == read["val"] and plain["widths"]["4"] == read["widths"]["4"]


def test_no_test_image_was_trained_on(found: dict) -> None:
    zoos = {w: open_zoo(load(["zoo=folder", f"zoo.folder={found['folder']}/w{w}"]).zoo) for w in (4, 6)}
    trained = set(zoos[4].labels("image", zoos[4].split("train")).tolist())
    tested = set(zoos[6].labels("image", zoos[6].split("test")).tolist())
    assert tested and not trained & tested
    assert [g.size for g in zoos[6].specs[0].groups] == [2, 6, 6, 1]
    assert found["zoos"]["siren-label"]["6"]["networks"] == len(tested)


def test_the_page(found: dict, tmp_path: Path) -> None:
    page = tmp_path / "transfer.md"
    assert write(found, page) == [page, tmp_path / "transfer_siren-label.svg"]
    text = page.read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| flat_mlp")]
    assert row.endswith("| - |") and row.count("-") == 1
    assert "| **native** | weights |" in text or "| **native** | function |" in text
    mean = sum(scores(found["rows"], "native", "6", "accuracy")) / 2
    assert f"{mean:.3f}±" in text
    assert "![siren-label](transfer_siren-label.svg)" in text
    assert figure(found["rows"], 4).startswith("<svg")


def test_plans_that_ask_for_nothing() -> None:
    for word in ("transfer.seeds=[]", "transfer.cases.cnn-accuracy.widths=[]", "transfer.models=[]"):
        with pytest.raises(ExperimentError, match="must not be empty"):
            transfer([word], Path("unused"), lambda _: None)


def test_the_plan_composes() -> None:
    config = load(["+transfer=digits"])
    for case in cases(config):
        assert load(case.train).zoo.builder.endswith("-w16")
        assert {int(load(words).zoo.builder.rpartition("w")[2]) for words in case.tests.values()} == set(case.tests)
        for text in case.models:
            load(["model=" + text.split()[0], *text.split()[1:]])
    assert "transfer" not in load()
