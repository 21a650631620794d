"""The search for hyper-parameters: a fixed grid, the same for every model, scored on validation networks only.

The grid is small and fixed, so there is nothing for a search library to decide: every setting of every model is
trained once per seed, with the same CPU time.  Test networks are left out of the zoo before anything else happens.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from experiments import provenance
from experiments.budget import History
from experiments.cell import Cell, train
from experiments.config import load, make
from experiments.data import for_learning, open_zoo
from experiments.errors import DivergedError, ExperimentError
from experiments.metrics import goodness, written
from experiments.plan import Case, cases, content
from experiments.results import CellStore, write_text
from experiments.runner import WORK, Options, Report, finish
from experiments.settings import setting_name

SEARCH = "search.json"

Trial = tuple[str, str, str, int]
"""Case, model, setting and seed."""
Row = dict[str, Any]


def search(overrides: Sequence[str], folder: Path, report: Report) -> Row:
    """Train every setting of every model in every case, and choose by the score on validation networks.

    Args:
        overrides: of the configuration; ``compare`` says which cases and models, ``search`` which settings and seeds
            and how long each is trained.
        folder: gets ``search.json`` and ``search.md``; trials in it are not run again.
        report: told about every finished trial.

    Returns:
        What ``search.json`` holds: ``chosen`` has per case and model a setting, its overrides and its score.

    Raises:
        ExperimentError: a configuration does not work, a trial failed (the others are kept), or all settings of a
            model diverged.
    """
    start = time.perf_counter()
    plan = cases(overrides)
    config = plan[0].config
    if not config.search.settings or not all(case.config.search.seeds for case in plan):
        raise ExperimentError("search.settings and search.seeds must not be empty")
    for case in plan:
        for_learning(open_zoo(case.config.zoo)).validate()
    words = dict(sorted((pair for case in plan for pair in _trials(case)), key=lambda pair: pair[0][3]))
    contents = {key: content(load(w)) | {"search": True} for key, w in words.items()}
    code = provenance.commit()
    store = CellStore(folder / "trials")
    workers = config.compare.workers
    options = Options(workers=workers, folder=folder / WORK, code=code, report=report, line=_line, work=trial)
    found = finish(words, contents, store, options)
    trials = [{"case": k[0], "model": k[1], "setting": k[2]} | found[k].row for k in words]
    settings = {setting_name(text): text for text in config.search.settings}
    result = {
        "command": shlex.join(["graphnfn", "search", *overrides, "--output", str(folder)]),
        "commit": ", ".join(sorted({str(t["commit"]) for t in trials})),
        "machine": provenance.machine(), "seconds": time.perf_counter() - start, "settings": settings,
        "seeds": {case.name: list(case.config.search.seeds) for case in plan}, "cpu_seconds": config.search.cpu_seconds,
        "chosen": choose(trials, settings), "trials": trials,
    }  # fmt: skip
    write_text(folder / SEARCH, json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_text(folder / "search.md", markdown(result))
    return result


def _line(cell: Cell) -> str:
    value = "diverged" if cell.row["val"] is None else written(cell.row["measure"], cell.row["val"])
    return f"validation {value} ({cell.row['cpu_s']:.0f} CPU s)"


def _trials(case: Case) -> Iterable[tuple[Trial, list[str]]]:
    node = case.config.search
    budget = [] if node.cpu_seconds is None else [f"trainer.cpu_seconds={node.cpu_seconds}"]
    for seed in node.seeds:
        for model in case.config.compare.models:
            for text in node.settings:
                setting = [*shlex.split(text), *budget, f"seed={seed}"]
                yield (case.name, model, setting_name(text), seed), [*case.cell_words(model), *setting]


def trial(config: DictConfig, folder: Path) -> Cell:
    """Train one setting without test networks; the score is that of its best epoch, None where it diverged."""
    zoo = for_learning(open_zoo(config.zoo))
    wall, cpu = time.perf_counter(), time.process_time()
    history = History()
    row: Row = {"seed": config.seed, "measure": make(config.task).measures[0], "budget_s": config.trainer.cpu_seconds}
    try:
        _, _, _, fitted = train(config, folder, zoo, callbacks=(history,))
        row |= {"val": fitted.best_score, "best_epoch": fitted.best_epoch, "epochs": fitted.epochs}
    except DivergedError:
        row |= {"val": None, "best_epoch": None, "epochs": len(history.points)}
    shutil.rmtree(folder, ignore_errors=True)
    row |= {"train_networks": len(zoo.split("train"))}
    row |= {"val_networks": len(zoo.split("val")), "wall_s": time.perf_counter() - wall}
    row |= {"cpu_s": time.process_time() - cpu}
    return Cell(row, pd.DataFrame(history.points, columns=["cpu_s", "val"]))


def choose(trials: Iterable[Row], settings: dict[str, str]) -> dict[str, dict[str, Row]]:
    """Per case and model, the setting with the best mean score; a diverged one is worse than all others.

    Raises:
        ExperimentError: all settings of a model diverged.

    Example:
        >>> of = {"case": "a", "model": "m", "measure": "tau"}
        >>> trials = [of | {"setting": "x", "val": 0.1}, of | {"setting": "y", "val": 0.7}]
        >>> choose(trials, {"x": "", "y": "trainer.epochs=2"})["a"]["m"]["setting"]
        'y'
    """
    scores: dict[str, dict[str, dict[str, list[float]]]] = {}
    signs: dict[str, float] = {}
    for t in trials:
        sign = signs[t["case"]] = goodness(t["measure"])
        of_model = scores.setdefault(t["case"], {}).setdefault(t["model"], {})
        of_model.setdefault(t["setting"], []).append(-math.inf if t["val"] is None else sign * t["val"])
    chosen: dict[str, dict[str, Row]] = {}
    for case, models in scores.items():
        for model, found in models.items():
            means = {name: sum(values) / len(values) for name, values in found.items()}
            best = max(means, key=lambda name: means[name])
            if not math.isfinite(means[best]):
                raise ExperimentError(f"all settings of {case} {model} diverged: add smaller rates to search.settings")
            row = {"setting": best, "words": settings[best], "val": signs[case] * means[best], "tried": len(means)}
            chosen.setdefault(case, {})[model] = row
    return chosen


def markdown(result: Row) -> str:
    """A table per case: models by settings, the chosen one in bold."""
    budget = "" if result["cpu_seconds"] is None else f", {result['cpu_seconds']:g} CPU seconds of training each"
    lines = ["# Search", "", f"Made by `{result['command']}`; commit {result['commit']}.", ""]
    lines += [
        f"Best score on the validation networks, mean over seeds{budget}. **Bold**: chosen.",
        "",
    ]
    for case, models in result["chosen"].items():
        lines += [
            f"## {case}".rstrip(),
            "",
            f"Seeds {result['seeds'][case]}.",
            "",
            "| model | " + " | ".join(result["settings"]) + " |",
        ]
        lines += ["|---|" + "---:|" * len(result["settings"])]
        for model, chosen in models.items():
            cells = []
            for name in result["settings"]:
                key = (case, model, name)
                here = [t for t in result["trials"] if (t["case"], t["model"], t["setting"]) == key]
                vals = [t["val"] for t in here]
                text = "diverged" if None in vals else written(here[0]["measure"], sum(vals) / len(vals))
                cells.append(f"**{text}**" if name == chosen["setting"] else text)
            lines.append(f"| {model} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)
