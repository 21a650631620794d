"""The leaderboard as data: what a comparison found, case by case, with one column per kind of reader."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.compare import Comparison
from experiments.config import fingerprint, plain
from experiments.data import open_zoo
from experiments.errors import ExperimentError
from experiments.metrics import TITLES, goodness, tie_ceiling, tie_fraction, written
from experiments.provenance import portable
from experiments.results import ModelSummary, main_measure, moved_columns, summarize, write_text

READS = {"weights": "weight-reading", "function": "function-probing", "images": "image-supervised"}
"""Kinds of readers, which are never compared with each other."""

REFERENCES = ("statnn", "render_then_classify", "edit/constant")
"""Trivial models that every other one must beat."""

BOARD = "leaderboard.json"
_FORMAT = "graphnfn-leaderboard"

Entry = dict[str, Any]


def write_leaderboard(done: Sequence[Comparison], folder: Path) -> Path:
    """Write ``leaderboard.json``, and the pages that show it: ``leaderboard.md`` and ``leaderboard.html``.

    Args:
        done: the cases of one comparison.
        folder: where.

    Returns:
        The HTML page.
    """
    from experiments.board import write_pages

    found = leaderboard(done)
    write_text(folder / BOARD, dumps(found))
    return write_pages({folder.name: found}, folder / "leaderboard.md")[1]


def dumps(found: Entry) -> str:
    """As JSON, a line per entry of a table."""
    text = json.dumps(found, indent=1, allow_nan=False)
    loaded = json.loads(text)
    cases = loaded.pop("cases")
    head = json.dumps(loaded, indent=1).removesuffix("\n}")
    parts = []
    for case in cases:
        rows = case.pop("rows")
        top = json.dumps(case).removesuffix("}")
        parts.append(f' {top}, "rows": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]}")
    return f'{head},\n "cases": [\n' + ",\n".join(parts) + "\n]}\n"


def read_leaderboard(path: Path) -> Entry:
    """A file that :func:`write_leaderboard` wrote.

    Raises:
        ExperimentError: it is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExperimentError(f"{path} is no {BOARD} of `graphnfn compare` ({error})") from error
    return found


def leaderboard(done: Sequence[Comparison]) -> Entry:
    """Every case with its models, best first, and the margins of our models; for JSON."""
    about = done[0].about
    return {
        "format": _FORMAT,
        "command": portable(about["command"]),
        "machine": about["machine"],
        "search": _search(done[0]),
        "cases": [_case(part) for part in done],
    }


def _search(part: Comparison) -> Entry | None:
    """How the settings were chosen, where they were searched."""
    path = part.config.compare.get("settings")
    if path is None:
        return None
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    return {
        "command": portable(found["command"]), "commit": found["commit"], "settings": list(found["settings"]),
        "seeds": found["seeds"], "cpu_seconds": found["cpu_seconds"],
    }  # fmt: skip


def _case(part: Comparison) -> Entry:
    table = part.table
    measure, first = main_measure(table), table.iloc[0]
    zoo = open_zoo(part.config.zoo)
    rows = [_row(s, measure, moved_columns(table)) for s in summarize(table)]
    config = plain(part.config)
    most = config["zoo"].pop("most_train")
    out = {
        "name": part.case or str(first["zoo"]), "zoo": str(first["zoo"]), "task": str(first["task"]),
        "measure": measure, "commit": part.about["commit"], "networks": len(zoo),
        "train": len(zoo.split("train")), "val": len(zoo.split("val")), "test": len(zoo.split("test")),
        "seeds": sorted(int(s) for s in table["seed"].unique()), "budget_s": _number(first["budget_s"]),
        "whole": most is None, "curve": fingerprint({name: config[name] for name in ("zoo", "task")}),
        "rows": rows, "margins": _margins(rows, measure), "distance": _distance(rows, goodness(measure)),
    }  # fmt: skip
    if measure in ("tau", "r2"):
        same = (part.predictions["model"] == first["model"]) & (part.predictions["seed"] == first["seed"])
        labels = torch.tensor(part.predictions.loc[same, "label"].tolist())
        out |= {"tie_ceiling": tie_ceiling(labels), "tie_fraction": tie_fraction(labels)}
    return out


def updated(case: Entry, part: Entry) -> Entry:
    """A case with the models of another run of it, in place of their earlier rows or beside the others.

    Args:
        case: as it was.
        part: the same case with some models, of a later commit.

    Raises:
        ExperimentError: networks, seeds, budget or sizes of group elements are not the same.
    """
    same = ("name", "zoo", "task", "measure", "networks", "train", "val", "test", "seeds", "budget_s", "curve")
    other = [f"{key} {part[key]} for {case[key]}" for key in same if part[key] != case[key]]
    here, there = (list(one["rows"][0]["decades"]) for one in (case, part))
    if here != there:
        other.append(f"decades {there} for {here}")
    if other:
        raise ExperimentError(
            f"case {case['name']!r} was another one: {', '.join(other)}; run it again with all models"
        )
    sign, fresh = goodness(case["measure"]), {row["model"] for row in part["rows"]}
    rows = [row for row in case["rows"] if row["model"] not in fresh] + part["rows"]
    rows.sort(key=lambda row: -sign * row["test"])
    commits = sorted({*case["commit"].split(", "), *part["commit"].split(", ")})
    found = case | {"rows": rows, "commit": ", ".join(commits)}
    return found | {"margins": _margins(rows, case["measure"]), "distance": _distance(rows, sign)}


def _row(s: ModelSummary, measure: str, moved: dict[str, str]) -> Entry:
    name = f"test_{measure}"
    shifts = {size: _number(max(s.cells[f"moved_{size}dec"])) for size in moved}
    first = s.cells.iloc[0]
    return {
        "model": s.name, "ours": s.ours, "reads": s.reads, "ablates": _word(first.get("ablates")),
        "test": s.mean[name], "std": _number(s.std[name]), "values": [float(v) for v in s.cells[name]],
        "val": s.mean["val"],
        "others": {c: s.mean[c] for c in s.mean if c.removeprefix("test_") in TITLES and c != name},
        "decades": {size: s.mean[column] for size, column in moved.items()}, "shift": shifts,
        "ranges": {size: [float(min(s.cells[c])), float(max(s.cells[c]))] for size, c in moved.items()},
        "parameters": round(s.mean["parameters"]), "cpu_s": s.mean["cpu_s"], "epochs": s.mean["epochs"],
        "members": s.mean.get("members", 1.0),  # tables from before there were any do not say
        "setting": _word(first.get("setting")), "learning_rate": s.mean["learning_rate"],
        "weight_decay": s.mean["weight_decay"], "history": [_records(h, goodness(measure)) for h in s.cells["history"]],
    }  # fmt: skip


def _records(history: Sequence[Sequence[float]], sign: float) -> list[list[float]]:
    """CPU seconds and validation score of the epochs that were better than all before."""
    found: list[list[float]] = []
    for seconds, score in history:
        if not found or sign * score > sign * found[-1][1]:
            found.append([round(float(seconds), 3), float(score)])
    return found


def _margins(rows: Sequence[Entry], measure: str) -> dict[str, Entry]:
    """Per kind of reader, our model with the best validation score against the best baseline on test.

    Ours is chosen without the test networks, theirs with them: no choice of ours makes the margin larger. Ablations
    take no part. A margin is positive where ours is better, also where that means a smaller value. Ours is ahead where
    the margin is larger than either deviation over seeds, and not 0 in the digits that tables show.
    """
    out, sign = {}, goodness(measure)
    for reads in READS:
        ours = [r for r in rows if r["ours"] and r["reads"] == reads and not r["ablates"]]
        theirs = [r for r in rows if not r["ours"] and r["reads"] == reads]
        if not ours or not theirs:
            continue
        one, other = max(ours, key=lambda r: sign * r["val"]), max(theirs, key=lambda r: sign * r["test"])
        stds = [one["std"], other["std"]]
        spread = None if None in stds else max(stds)
        margin = sign * (one["test"] - other["test"])
        ahead = None if spread is None else bool(margin > spread and float(written(measure, margin)) > 0)
        score = sign * min(sign * points[-1][1] for points in other["history"])  # all of its seeds reach it
        out[reads] = {
            "ours": one["model"], "theirs": other["model"], "margin": margin, "spread": spread,
            "ahead": ahead, "score": score,
            "ours_cpu_s": _time_to(one["history"], score, sign),
            "theirs_cpu_s": _time_to(other["history"], score, sign),
        }  # fmt: skip
    return out


def _distance(rows: Sequence[Entry], sign: float) -> Entry | None:
    """How far our best model on validation, from weights alone, is from the best model that sees images."""
    ours = [r for r in rows if r["ours"] and r["reads"] != "images" and not r["ablates"]]
    theirs = [r for r in rows if r["reads"] == "images"]
    if not ours or not theirs:
        return None
    one, other = max(ours, key=lambda r: sign * r["val"]), max(theirs, key=lambda r: sign * r["test"])
    return {"ours": one["model"], "theirs": other["model"], "margin": sign * (one["test"] - other["test"])}


def _time_to(histories: Sequence[Sequence[Sequence[float]]], score: float, sign: float) -> float | None:
    """Median over seeds of the CPU seconds until the validation score is reached; None where that is never."""
    times = [next((t for t, v in points if sign * v >= sign * score), math.inf) for points in histories]
    middle = float(np.median(times))
    return middle if math.isfinite(middle) else None


def _word(value: Any) -> str | None:
    """A text; pandas may have made a number of a missing one."""
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    """For JSON, which has no other word for what is missing or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)
