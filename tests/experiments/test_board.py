"""The pages of a leaderboard, and results that are stored beside a page."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from experiments.board import document, write_pages
from experiments.board_figures import _reached, _spread, palette
from experiments.board_parts import signed
from experiments.compare import Comparison, compare
from experiments.document import Fold, Heading, Picture, Table, Text, to_html, to_markdown
from experiments.errors import ExperimentError
from experiments.leaderboard import Entry, _records, dumps, leaderboard, read_leaderboard, write_leaderboard
from experiments.stored import store

MODELS = ["gated", "statnn", "flat_mlp", "native", "probegen", "combined", "forward_only"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("board") / "leaderboard"


@pytest.fixture(scope="module")
def done(tiny: list[str], folder: Path) -> list[Comparison]:
    plain = [w for w in tiny if not w.startswith(("task", "trainer", "compare"))]
    words = [*plain, "compare.cost_networks=0", "compare.workers=0", "compare.seeds=[0,1]", "trainer.epochs=2"]
    words.append(f"compare.models=[{','.join(MODELS)}]")
    words.append("+compare.cases.scores='task=fraction task.column=score'")
    words.append("+compare.cases.few='task=fraction task.column=score zoo.most_train=12'")
    return compare(words, folder, lambda _: None)


@pytest.fixture(scope="module")
def found(done: list[Comparison], folder: Path) -> Entry:
    write_leaderboard(done, folder)
    return read_leaderboard(folder / "leaderboard.json")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their figures, which take a second to draw."""
    for name in ("overview", "robustness", "time_to_score", "learning_curve"):
        monkeypatch.setattr(f"experiments.board.figures.{name}", lambda *_: "<svg></svg>")


def tables(entry: Entry) -> dict[str, Table]:
    """Tables by their first column's name."""
    parts = document({"here": entry})
    inside = [p for part in parts for p in (part.parts if isinstance(part, Fold) else [part])]
    return {str(p.head[0]): p for p in inside if isinstance(p, Table)}


@pytest.mark.usefixtures("undrawn")
def test_a_smaller_training_set_makes_a_learning_curve_and_no_section(found: Entry) -> None:
    assert [(c["name"], c["train"], c["whole"]) for c in found["cases"]] == [("scores", 32, True), ("few", 12, False)]
    assert len({c["curve"] for c in found["cases"]}) == 1
    text = to_markdown(document({"here": found}), "figures")
    assert "## scores" in text and "# few" not in text and "## Learning curves" in text
    table = tables(found)["Kendall τ with"]
    assert list(table.head[2:]) == ["12 networks", "32 networks"]
    small, large = ({r["model"]: r["test"] for r in c["rows"]} for c in reversed(found["cases"]))
    for name, _, few, all_ in table.rows:
        assert few.startswith(f"{small[name]:.3f}") and all_.startswith(f"{large[name]:.3f}")
    only = found | {"cases": found["cases"][:1]}
    assert "## Learning curves" not in to_markdown(document({"here": only}), "figures")


@pytest.mark.usefixtures("undrawn")
def test_ablations_have_their_own_table_and_win_nothing(found: Entry, done: list[Comparison]) -> None:
    table = tables(found)["model"]
    assert [row[0] for row in table.rows][:2] == ["combined", "forward_only"]
    tests = {r["model"]: r["test"] for r in found["cases"][0]["rows"]}
    assert table.rows[1][2] == f"{tests['forward_only'] - tests['combined']:+.3f}"
    assert all("forward_only" not in row[0] for row in tables(found)["function-probing"].rows)
    part = done[0]
    best = part.table.assign(val=part.table["val"].where(part.table["model"] != "forward_only", 2.0))
    margin = leaderboard([Comparison("", part.config, best, part.predictions, part.about)])["cases"][0]["margins"]
    assert margin["function"]["ours"] in ("native", "combined")


@pytest.mark.usefixtures("undrawn")
def test_the_distance_to_what_sees_images(done: list[Comparison], found: Entry) -> None:
    assert found["cases"][0]["distance"] is None
    part = done[0]
    seeing = part.table[part.table["model"] == "probegen"].assign(
        model="render", reads="images", test_tau=0.9, ours=False
    )
    case = leaderboard([Comparison("", part.config, pd.concat([part.table, seeing]), part.predictions, part.about)])
    distance = case["cases"][0]["distance"]
    tests = {r["model"]: r["test"] for r in case["cases"][0]["rows"]}
    assert distance["theirs"] == "render" and distance["margin"] == pytest.approx(tests[distance["ours"]] - 0.9)
    text = to_markdown(document({"here": case}), "figures")
    assert f"{distance['margin']:+.3f} to render" in text and "| image-supervised |" in text
    assert "image-supervised" not in case["cases"][0]["margins"]


def test_the_page_needs_nothing_else(found: Entry, folder: Path) -> None:
    page = (folder / "leaderboard.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert [link for link in links if not link.startswith("#")] == ["leaderboard.json"]
    assert page.count("<svg") == page.count("<figure") == 4, "overview, robustness, time, learning curve"
    for model in MODELS:
        assert f">{model}<" in page
    text = (folder / "leaderboard.md").read_text()
    pictures = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(pictures) == 4 and all((folder / p).is_file() for p in pictures)


def test_results_are_stored_and_make_the_same_page_again(found: Entry, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "leaderboard.md"
    paths = store([folder], page)
    assert [p.name for p in paths] == ["leaderboard.md", "leaderboard.html"]
    before = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert sorted(p.name for p in before if p.suffix == ".json") == ["leaderboard.json"]
    figures = tmp_path / "docs" / "results" / "figures"
    page.write_text(page.read_text() + "\n![of an earlier page](results/figures/old.svg)\n")
    for name in ("old.svg", "own.svg"):
        (figures / name).write_text("<svg/>")
    store([], page)
    (figures / "own.svg").unlink()  # of no page: it has to be there still
    assert before == {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.usefixtures("undrawn")
def test_every_number_is_that_of_the_stored_file(found: Entry, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "leaderboard.md"
    store([folder], page)
    kept = tmp_path / "results" / "leaderboard.json"
    changed = copy.deepcopy(found)
    changed["cases"][0]["rows"][0]["test"] = 0.123456
    assert "0.123" not in page.read_text()
    kept.write_text(dumps(changed))
    store([], page)
    assert "0.123" in page.read_text() and "0.123" in page.with_suffix(".html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_case_is_shown_from_the_first_comparison_that_has_it(found: Entry) -> None:
    other = copy.deepcopy(found)
    other["cases"][0]["rows"][0]["test"] = 0.123456
    other["cases"].append(other["cases"][0] | {"name": "more", "curve": "another"})
    text = to_markdown(document({"one": found, "two": other}, "results"), "figures")
    assert text.count("\n## scores\n") == 1 and text.count("\n## more\n") == 1
    assert "results/one.json" in text and "results/two.json" in text


@pytest.mark.usefixtures("undrawn")
def test_one_seed_has_no_spread_and_every_commit_is_named_once(found: Entry) -> None:
    one = copy.deepcopy(found)
    for case, commit in zip(one["cases"], ("aaa", "aaa, bbb"), strict=True):
        case["seeds"], case["commit"] = [0], commit
    text = to_markdown(document({"one": one}), "figures")
    assert "networks only, one seed;" in text and "standard deviation over up to" not in text
    assert "commit aaa, bbb." in text
    assert "standard deviation over up to 2 seeds" in to_markdown(document({"two": found}, "results"), "figures")


def test_no_folder_of_the_machine_is_stored(found: Entry, tiny_zoo: Path, folder: Path) -> None:
    text = (folder / "leaderboard.json").read_text()
    assert str(tiny_zoo.parent) not in text and str(folder) not in text
    assert "zoo.folder=PATH/tiny" in found["command"] and "+compare.cases.few=" in found["command"]


@pytest.mark.parametrize("text", ["{}", "[]", "nothing", '{"format": "other", "cases": []}'])
def test_what_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "leaderboard.json").write_text(text)
    with pytest.raises(ExperimentError, match="is no leaderboard.json of"):
        store([tmp_path], tmp_path / "docs" / "page.md")
    assert not (tmp_path / "docs").exists()


def test_nothing_stored_or_a_wrong_name(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="holds no results yet"):
        store([], tmp_path / "page.md")
    with pytest.raises(ExperimentError, match="ends with .md"):
        store([], tmp_path / "page.html")


def test_histories_keep_what_was_better_than_before() -> None:
    points = [[1.0, 0.5], [2.0, 0.4], [3.0, 0.7], [4.0, 0.7]]
    kept = _records(points, 1.0)
    assert kept == [[1.0, 0.5], [3.0, 0.7]] and _records(points, -1.0) == [[1.0, 0.5], [2.0, 0.4]]
    assert [_reached(kept, t, 1.0) for t in (0.5, 1.0, 2.9, 9.0)] == [float("-inf"), 0.5, 0.5, 0.7]
    assert [_reached(points, t, -1.0) for t in (0.5, 9.0)] == [float("inf"), 0.4]


@pytest.mark.usefixtures("undrawn")
def test_where_less_is_better(done: list[Comparison]) -> None:
    """The same numbers as errors: order, choice, margin and its sign turn round."""
    part = done[0]
    names = {c: c.replace("tau", "mse") for c in part.table.columns}
    table = part.table.drop(columns=[c for c in names if "r2" in c]).rename(columns=names).assign(measure="mse")
    (case,) = leaderboard([Comparison("", part.config, table, part.predictions, part.about)])["cases"]
    tests = {r["model"]: r["test"] for r in case["rows"]}
    assert list(tests.values()) == sorted(tests.values())
    margin = case["margins"]["weights"]
    others = {m: v for m, v in tests.items() if m in ("statnn", "flat_mlp")}
    assert margin["theirs"] == min(others, key=others.__getitem__)
    assert margin["margin"] == pytest.approx(tests[margin["theirs"]] - tests["gated"])
    text = to_markdown(document({"here": {"machine": {}, "command": "", "search": None, "cases": [case]}}), "figures")
    assert f"{tests['gated']:.2e}" in text and "| MSE |" in text


@pytest.mark.usefixtures("undrawn")
def test_the_page_names_models_that_no_search_was_made_for(found: Entry) -> None:
    board = copy.deepcopy(found)
    board["search"] = {"command": "search", "commit": "c", "settings": ["a"], "seeds": {"": [0]}, "cpu_seconds": 1}

    def page() -> str:
        return to_markdown(document({"here": board}), "figures")

    for case in board["cases"]:
        for row in case["rows"]:
            row["setting"] = "a"
    assert "the same for every model: `search`" in page()
    for row in board["cases"][0]["rows"]:
        row["setting"] = None if row["model"] in ("statnn", "gated") else "a"
    assert "the same for every model but those as configured (gated, statnn in scores): `search`" in page()


def test_differences_have_one_sign() -> None:
    assert [signed(d, "tau") for d in (0.25, -0.25, 0.0, -0.0)] == ["+0.250", "-0.250", "+0.000", "+0.000"]
    assert signed(-0.0, "mse") == signed(0.0, "mse")


def test_labels_keep_their_order_and_distance() -> None:
    at = _spread([0.1, 0.11, 0.12, 5.0], 0.2, 0.0, 1.0)
    assert at == sorted(at) and all(b - a >= 0.2 - 1e-12 for a, b in zip(at, at[1:], strict=False)) and at[-1] <= 1.0


def test_colours_tell_ours_from_others(found: Entry) -> None:
    rows = found["cases"][0]["rows"]
    colours = palette(rows)
    ours = {colours[r["model"]] for r in rows if r["ours"]}
    assert not ours & {colours[r["model"]] for r in rows if not r["ours"]}
    many = [{"ours": own, "model": f"{own}{k}"} for own in (True, False) for k in range(20)]
    assert len(set(palette(many).values())) == len(many)


def test_marks_are_the_same_in_both_forms() -> None:
    parts = [Heading("A & B", 1), Text("**x** *y* `a*b*c<d>` [z](w.json)"), Fold("more", [Table(["m"], [["**n**"]])])]
    html = to_html(parts)
    assert "<title>A &amp; B</title>" in html and "<b>x</b> <i>y</i>" in html and "<code>a*b*c&lt;d&gt;</code>" in html
    assert '<a href="w.json">z</a>' in html and "<td><b>n</b></td>" in html
    text = to_markdown([*parts, Picture("p", "<svg/>", "seen *well*")], "figures")
    assert "# A & B" in text and "| **n** |" in text and "![seen well](figures/p.svg)" in text


@pytest.mark.usefixtures("undrawn")
def test_pages_of_nothing_but_ours(found: Entry, tmp_path: Path) -> None:
    ours = copy.deepcopy(found)
    for case in ours["cases"]:
        case["rows"] = [r for r in case["rows"] if r["ours"]]
        case["margins"] = {}
    page, html = write_pages({"here": ours}, tmp_path / "page.md")
    assert "## Ablations" in page.read_text() and "At a glance" not in html.read_text()
    assert json.loads(dumps(ours)) == ours


def part_of(found: Entry, model: str, **changes: object) -> Entry:
    """A later run of the case of all networks with one model of better scores; ``decades`` is changed in its row."""
    case = next(c for c in found["cases"] if c["whole"])
    row = next(r for r in case["rows"] if r["model"] == model) | {"test": 0.9, "std": 0.01, "val": 0.99}
    row |= {key: changes.pop(key) for key in ("decades",) if key in changes}
    return copy.deepcopy(found) | {"cases": [copy.deepcopy(case) | {"rows": [row], "commit": "fff"} | changes]}


@pytest.mark.usefixtures("undrawn")
def test_a_smaller_training_set_alone_in_its_comparison_makes_a_section(found: Entry) -> None:
    alone = copy.deepcopy(found) | {"cases": [copy.deepcopy(c) for c in found["cases"] if not c["whole"]]}
    parts = document({"here": found, "long": alone})
    assert [p.text for p in parts if isinstance(p, Heading) and p.text in ("scores", "few")] == ["scores", "few"]


@pytest.mark.usefixtures("undrawn")
def test_models_take_their_places_in_stored_cases(found: Entry, folder: Path, tmp_path: Path) -> None:
    page, part = tmp_path / "page.md", tmp_path / "part.json"
    store([folder], page)
    part.write_text(dumps(part_of(found, "gated")))
    store([part], page, update=True)
    after = read_leaderboard(tmp_path / "results" / "leaderboard.json")
    assert [p.name for p in (tmp_path / "results").glob("*.json")] == ["leaderboard.json"]
    for case, before in zip(after["cases"], found["cases"], strict=True):
        if not case["whole"]:
            assert case == before
            continue
        assert [r for r in case["rows"] if r["model"] != "gated"] == [
            r for r in before["rows"] if r["model"] != "gated"
        ]
        assert case["rows"][0]["model"] == "gated" and case["rows"][0]["test"] == 0.9
        assert case["commit"] == ", ".join(sorted({"fff", before["commit"]}))
        other = max(r["test"] for r in case["rows"] if not r["ours"] and r["reads"] == "weights")
        assert case["margins"]["weights"]["margin"] == pytest.approx(0.9 - other)


@pytest.mark.usefixtures("undrawn")
def test_a_new_case_is_added_to_the_comparison_of_its_folders_name(found: Entry, folder: Path, tmp_path: Path) -> None:
    page, part = tmp_path / "page.md", tmp_path / "leaderboard" / "leaderboard.json"
    part.parent.mkdir()
    store([folder], page)
    before = read_leaderboard(tmp_path / "results" / "leaderboard.json")
    both = part_of(found, "gated", name="new")
    both["cases"] += part_of(found, "statnn")["cases"]
    part.write_text(dumps(both))
    store([part], page, update=True)
    after = read_leaderboard(tmp_path / "results" / "leaderboard.json")
    assert [c["name"] for c in after["cases"]] == [*(c["name"] for c in before["cases"]), "new"]
    assert after["cases"][-1] == both["cases"][0] and after | {"cases": []} == before | {"cases": []}
    (statnn,) = (
        r for c in after["cases"] if c["whole"] for r in c["rows"] if r["model"] == "statnn" and r["test"] == 0.9
    )
    assert statnn["val"] == 0.99


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": 3}, "train 3 for"),
        ({"budget_s": 7.0}, "budget_s 7.0 for"),
        ({"name": "new"}, "has a case 'new'"),
        ({"decades": {"9": 0.5}}, r"decades \['9'\] for"),
    ],  # fmt: skip
)
def test_models_of_another_case_are_refused(
    found: Entry, folder: Path, tmp_path: Path, changes: dict, message: str, undrawn: None
) -> None:
    page, part = tmp_path / "page.md", tmp_path / "part.json"
    store([folder], page)
    before = (tmp_path / "results" / "leaderboard.json").read_bytes()
    part.write_text(dumps(part_of(found, "gated", **changes)))
    with pytest.raises(ExperimentError, match=message):
        store([part], page, update=True)
    assert (tmp_path / "results" / "leaderboard.json").read_bytes() == before


def test_a_comparison_of_an_ablation_alone_has_a_page(found: Entry, tmp_path: Path) -> None:
    case = next(c for c in found["cases"] if c["whole"])
    alone = [r for r in case["rows"] if r["ablates"]]
    assert [r["model"] for r in alone] == ["forward_only"]
    part = copy.deepcopy(found) | {"cases": [case | {"rows": alone, "margins": {}, "distance": None}]}
    page, _ = write_pages({"part": part}, tmp_path / "page.md")
    assert "forward_only" in page.read_text()
