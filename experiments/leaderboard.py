"""The leaderboard: what a comparison found, case by case, with one column per kind of reader."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.compare import Comparison
from experiments.config import make
from experiments.data import open_zoo
from experiments.metrics import TITLES, goodness, tie_ceiling, tie_fraction, written
from experiments.results import ModelSummary, main_measure, moved_columns, summarize, write_text
from experiments.tables import with_spread

READS = {"weights": "weight-reading", "function": "function-probing", "images": "image-supervised"}
"""Kinds of readers, which are never compared with each other."""

_AHEAD = {True: "yes", False: "no", None: "one seed"}

Entry = dict[str, Any]


def write_leaderboard(done: Sequence[Comparison], folder: Path) -> Path:
    """Write ``leaderboard.json`` and ``leaderboard.md``.

    Args:
        done: the cases of one comparison.
        folder: where.

    Returns:
        The page.
    """
    found = leaderboard(done)
    write_text(folder / "leaderboard.json", json.dumps(found, indent=1, allow_nan=False) + "\n")
    page = folder / "leaderboard.md"
    write_text(page, markdown(found))
    return page


def leaderboard(done: Sequence[Comparison]) -> Entry:
    """Every case with its models, best first, and the margins of our models; for JSON."""
    about = done[0].about
    return {
        "command": about["command"],
        "machine": about["machine"],
        "cases": [_case(part) for part in done],
    }


def _case(part: Comparison) -> Entry:
    table = part.table
    measure, first = main_measure(table), table.iloc[0]
    zoo = open_zoo(part.config.zoo)
    rows = [_row(s, measure, moved_columns(table)) for s in summarize(table)]
    out = {
        "name": part.case or str(first["zoo"]), "zoo": str(first["zoo"]), "task": str(first["task"]),
        "measure": measure, "commit": part.about["commit"], "networks": len(zoo),
        "train": len(zoo.split("train")), "val": len(zoo.split("val")), "test": len(zoo.split("test")),
        "seeds": sorted(int(s) for s in table["seed"].unique()), "budget_s": _number(first["budget_s"]),
        "rows": rows, "margins": _margins(rows, measure),
    }  # fmt: skip
    if measure in ("tau", "r2"):
        labels = make(part.config.task).on(zoo).labels(zoo, zoo.split("test"))
        out |= {"tie_ceiling": tie_ceiling(labels), "tie_fraction": tie_fraction(labels)}
    return out


def _row(s: ModelSummary, measure: str, moved: dict[str, str]) -> Entry:
    name = f"test_{measure}"
    shifts = {size: _number(max(s.cells[f"moved_{size}dec"])) for size in moved}
    return {
        "model": s.name, "ours": s.ours, "reads": s.reads, "test": s.mean[name], "std": _number(s.std[name]),
        "values": [float(v) for v in s.cells[name]], "val": s.mean["val"],
        "others": {c: s.mean[c] for c in s.mean if c.removeprefix("test_") in TITLES and c != name},
        "decades": {size: s.mean[column] for size, column in moved.items()}, "shift": shifts,
        "parameters": round(s.mean["parameters"]), "cpu_s": s.mean["cpu_s"], "epochs": s.mean["epochs"],
        "history": [[[float(t), float(v)] for t, v in h] for h in s.cells["history"]],
    }  # fmt: skip


def _margins(rows: Sequence[Entry], measure: str) -> dict[str, Entry]:
    """Per kind of reader, our model with the best validation score against the best baseline on test.

    Ours is chosen without the test networks, theirs with them: no choice of ours makes the margin larger. A margin is
    positive where ours is better, also where that means a smaller value.
    """
    out, sign = {}, goodness(measure)
    for reads in READS:
        ours = [r for r in rows if r["ours"] and r["reads"] == reads]
        theirs = [r for r in rows if not r["ours"] and r["reads"] == reads]
        if not ours or not theirs:
            continue
        one, other = max(ours, key=lambda r: sign * r["val"]), max(theirs, key=lambda r: sign * r["test"])
        stds = [one["std"], other["std"]]
        spread = None if None in stds else max(stds)
        margin = sign * (one["test"] - other["test"])
        score = sign * min(max(sign * v for _, v in points) for points in other["history"])  # all of its seeds reach it
        out[reads] = {
            "ours": one["model"], "theirs": other["model"], "margin": margin, "spread": spread,
            "ahead": None if spread is None else bool(margin > spread), "score": score,
            "ours_cpu_s": _time_to(one["history"], score, sign),
            "theirs_cpu_s": _time_to(other["history"], score, sign),
        }  # fmt: skip
    return out


def _time_to(histories: Sequence[Sequence[Sequence[float]]], score: float, sign: float) -> float | None:
    """Median over seeds of the CPU seconds until the validation score is reached; None where that is never."""
    times = [next((t for t, v in points if sign * v >= sign * score), math.inf) for points in histories]
    middle = float(np.median(times))
    return middle if math.isfinite(middle) else None


def _number(value: Any) -> float | None:
    """For JSON, which has no other word for what is missing or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def markdown(found: Entry) -> str:
    """The page."""
    cases = found["cases"]
    seeds = max(len(c["seeds"]) for c in cases)
    lines = [
        "# Leaderboard",
        "",
        f"Made by `{found['command']}`; the numbers behind it are in `leaderboard.json`.",
        "",
        f"Test networks only, mean ± standard deviation over up to {seeds} seeds; the epoch is chosen on the "
        "validation networks. Weight-reading models see weights, function-probing models run the networks on inputs "
        "of their choice, image-supervised ones see the images that they stand for: compare within a kind. "
        "**Bold** are graphnfn's own models. *k dec*: the same networks under random group elements of k decades.",
        "",
        *_overview(cases),
    ]
    for case in cases:
        lines += _section(case)
    machine = ", ".join(f"{k}: {v}" for k, v in found["machine"].items())
    return "\n".join([*lines, f"Machine: {machine}. One thread per cell.", ""])


def _overview(cases: Sequence[Entry]) -> list[str]:
    head = ["case", "kind", "ours, chosen on validation", "test", "best baseline on test", "test", "margin", "ahead"]
    head += ["CPU s to the baseline's validation score"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for case in cases:
        tests = {r["model"]: r for r in case["rows"]}
        for reads, m in case["margins"].items():
            one, other = tests[m["ours"]], tests[m["theirs"]]
            times = " against ".join("never" if t is None else f"{t:.0f}" for t in (m["ours_cpu_s"], m["theirs_cpu_s"]))
            measure = case["measure"]
            scores = [_score(one, measure), m["theirs"], _score(other, measure)]
            margin = ("+" if m["margin"] >= 0 else "") + written(measure, m["margin"])
            cells = [case["name"], READS[reads], f"**{m['ours']}**", *scores, margin, _AHEAD[m["ahead"]], times]
            lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", "*ahead*: the margin is larger than either standard deviation over seeds.", ""]


def _section(case: Entry) -> list[str]:
    measure = TITLES[case["measure"]]
    budget = f", {case['budget_s']:.0f} CPU seconds of training per model and seed" if case["budget_s"] else ""
    facts = f"{case['train']} networks to train, {case['val']} to choose the epoch, {case['test']} to test{budget}."
    if "tie_ceiling" in case:
        facts += f" {case['tie_fraction']:.1%} of pairs are ties: τ cannot exceed {case['tie_ceiling']:.4f}."
    lines = [f"## {case['name']}", "", f"{measure} of {case['task']} on {case['zoo']}: {facts}", ""]
    sizes = list(case["rows"][0]["decades"])
    others = list(case["rows"][0]["others"])
    for reads, title in READS.items():
        rows = [r for r in case["rows"] if r["reads"] == reads]
        if not rows:
            continue
        extra = [TITLES[c.removeprefix("test_")] for c in others]
        head = [title, measure, *extra, *(f"{size} dec" for size in sizes), "parameters", "epochs", "CPU s"]
        lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        for r in rows:
            name = f"**{r['model']}**" if r["ours"] else r["model"]
            cells = [name, _score(r, case["measure"]), *(f"{r['others'][c]:.3f}" for c in others)]
            cells += [written(case["measure"], r["decades"][size]) for size in sizes]
            cells += [f"{r['parameters']:,}", f"{r['epochs']:.0f}", f"{r['cpu_s']:.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return [*lines, f"Commit {case['commit']}.", ""]


def _score(row: Entry, measure: str) -> str:
    return with_spread(row["test"], row["std"], measure)
