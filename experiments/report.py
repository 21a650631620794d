"""The report of a comparison: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import math
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from torch import Tensor

from experiments import figures
from experiments.compare import Comparison
from experiments.config import make
from experiments.data import open_zoo
from experiments.editing import EditTask
from experiments.metrics import SMALLER, TITLES, goodness, tie_ceiling, written
from experiments.results import main_measure, moved_columns, summarize, write_text
from experiments.tasks import Task
from graphnfn.plotting import plot
from graphnfn.spec import NetSpec
from graphnfn.zoo import Zoo


def write_report(done: Comparison, path: Path) -> Path:
    """Write the page.

    Args:
        done: the comparison.
        path: of the page.
    """
    config = done.config
    zoo = open_zoo(config.zoo)
    template = Template(files("experiments").joinpath("report.html").read_text(encoding="utf-8"))
    style = files("experiments").joinpath("page.css").read_text(encoding="utf-8")
    parts = {**_opening(done, zoo), **_results(done), **_predictions(done, zoo), **_data(done, zoo), **_origin(done)}
    write_text(path, template.substitute(parts, style=style))
    return path


def _opening(done: Comparison, zoo: Zoo) -> dict[str, str]:
    table, summaries = done.table, summarize(done.table)
    measure, best, first = main_measure(table), summaries[0], table.iloc[0]
    seeds, epochs = table["seed"].nunique(), table["epochs"].max()
    counts = f"networks: {first['train_networks']} to train, {len(zoo.split('val'))} to choose the epoch, "
    facts = [
        (f"{len(zoo):,}", f"{counts}{first['test_networks']} to test"),
        (f"{len(summaries)} × {seeds}", f"models × seeds, all on one split, at most {epochs:.3g} epochs"),
        (_short(best.mean[f"test_{measure}"], measure), f"best test {TITLES[measure]}, by {best.name}"),
    ]
    for size, column in list(moved_columns(table).items())[-1:]:
        words = f"the same after random re-parameterisations of {size} decades"
        facts.append((_short(best.mean[column], measure), words))
    boxes = "".join(f'<div class="fact"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in facts)
    what = f"How well can {_words(first['task'])} be predicted from the weights of a network alone"
    if measure == "mse":
        what = f"How well can networks of images be edited ({_words(first['task'])})"
    lead = f"{what}, and does the result survive when the same function is written with other weights?"
    return {"title": f"graphnfn on {escape(str(first['zoo']))}", "lead": escape(lead), "facts": boxes}


def _results(done: Comparison) -> dict[str, str]:
    table = done.table
    name, own = TITLES[main_measure(table)], [s.name for s in summarize(table) if s.ours]
    seeds, draws = _count(table["seed"].nunique(), "seed"), _count(done.config.repeats, "draw")
    text = (
        f"Test networks only, mean ± standard deviation over {seeds}, best model first; the epoch is chosen by {name} "
        f"on the validation networks. Shaded rows are graphnfn's own models ({', '.join(own)}). The columns <i>k "
        "decades</i> see the same test networks under random elements of their symmetry groups: permuted, "
        f"sign-flipped, and rescaled by factors spread over k powers of ten (mean of {draws}). The function computed "
        "is the same in all columns. Networks whose neurons have no positive scales, such as tanh networks, are "
        "permuted and sign-flipped only. <i>Largest shift</i> is the largest change of a raw prediction under the "
        "largest elements, relative to the standard deviation of the predictions."
    )
    return {
        "results_text": text,
        "results": _summary_html(table),
        "robustness": figures.robustness(table),
        "robustness_text": f"{name} under random group elements. Lines are means, bands the range over seeds; "
        f"solid lines are graphnfn's models, dashed ones baselines. {_cut(table)}",
        "cost": figures.quality_and_cost(table),
        "cost_text": f"Quality against cost. Bars are standard deviations over seeds. {_time_text(table)}",
    }


def _cut(table: pd.DataFrame) -> str:
    if main_measure(table) in SMALLER:
        return f"Values above {figures.CEILING} are drawn there."
    return f"Values below {figures.FLOOR} are drawn there."


def _time_text(table: pd.DataFrame) -> str:
    if "step_ms" not in table:
        return "Time is that of the whole training, one thread."
    return "Time is the median over training steps (forward, backward, optimiser) in a fresh process of one thread."


def _summary_html(table: pd.DataFrame) -> str:
    summaries, measure = summarize(table), main_measure(table)
    others = [c for c in TITLES if f"test_{c}" in table and c != measure]
    columns = {f"test_{c}": TITLES[c] for c in (measure, *others)}
    moved = moved_columns(table)
    columns |= {c: f"{TITLES[measure]}<br>{_count(size, 'decade')}" for size, c in moved.items()}
    shift = [f"moved_{size}dec" for size in moved][-1:]
    costs = {"parameters": "parameters", "step_ms": "CPU ms<br>per step", "peak_mb": "peak<br>MB"}
    costs["cpu_s"] = "CPU seconds<br>in all"
    costs = {c: head for c, head in costs.items() if c in table}
    head = "".join(
        f"<th>{name}</th>"
        for name in ("model", *columns.values(), *("largest<br>shift" for _ in shift), *costs.values())
    )
    kinds = {c: measure if c in moved.values() else c.removeprefix("test_") for c in columns}
    signs = {c: goodness(kind) for c, kind in kinds.items()}
    best, rows = {c: max(sign * s.mean[c] for s in summaries) for c, sign in signs.items()}, []
    for s in summaries:
        cells = []
        for c in columns:
            kind = kinds[c]
            pm = "" if math.isnan(s.std[c]) else f' <span class="pm">± {_short(s.std[c], kind)}</span>'
            near = 0.0 if kind in SMALLER else 5e-4
            mark = ' class="best"' if signs[c] * s.mean[c] >= best[c] - near else ""
            cells.append(f"<td{mark}>{_short(s.mean[c], kind)}{pm}</td>")
        cells += [f"<td>{max(s.cells[c].tolist()):.0e}</td>" for c in shift]
        cells += [f"<td>{s.mean[c]:,.0f}</td>" for c in costs]
        owner = ' class="ours"' if s.ours else ""
        rows.append(f"<tr{owner}><td>{escape(s.name)}</td>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _predictions(done: Comparison, zoo: Zoo) -> dict[str, str]:
    table = done.table
    if main_measure(table) == "accuracy":
        text = "Which classes the best model confuses, summed over seeds."
        return {"predictions": figures.confusion(table, done.predictions), "predictions_text": text}
    text = (
        f"Predicted against true {_words(table['task'].tolist()[0])} of the test networks, seed "
        f"{table['seed'].tolist()[0]}; the line is a perfect prediction."
    )
    if main_measure(table) == "mse":
        text = (
            f"Squared error of every test network after the edit against that of leaving it alone, seed "
            f"{table['seed'].tolist()[0]}; below the line the edit helps."
        )
    return {
        "predictions": figures.scatters(table, done.predictions, _spec_names(zoo)),
        "predictions_text": escape(text),
    }


def _data(done: Comparison, zoo: Zoo) -> dict[str, str]:
    task = make(done.config.task).on(zoo)
    column, labels = task.column, _numbers(task, zoo, torch.arange(len(zoo)))
    kinds = f"{len(zoo.specs)} architectures" if len(zoo.specs) > 1 else "one architecture"
    sizes = " or ".join(f"{n:,}" for n in sorted({spec.num_params for spec in zoo.specs}))
    folder = escape(str(done.config.zoo.folder))
    text = f"Zoo <code>{folder}</code>: {len(zoo):,} networks of {kinds} with {sizes} parameters each."
    if main_measure(done.table) in ("tau", "r2"):
        best = tie_ceiling(_numbers(task, zoo, zoo.split("test")))
        text += f" Because some labels are equal, τ on the test networks cannot exceed {best:.4f}."
    middle = int(labels.float().sub(labels.float().median()).abs().argmin())
    graph = zoo.batch([middle])
    return {
        "data_text": text,
        "histogram": figures.label_histogram(labels.numpy(), zoo.spec_index.numpy(), _spec_names(zoo), column),
        "histogram_text": f"The labels: {escape(_words(column))} of all networks."
        if main_measure(done.table) != "mse"
        else "Squared error of leaving the networks alone.",
        "network": _png(plot(graph, title=f"network {middle} of the zoo")),
        "network_text": "One network as the metanetworks see it, "
        f"{escape(_words(column))} {float(labels[middle]):.3g}: {graph.num_nodes} neurons, "
        f"{graph.num_edges} bundles of weights.",
    }


def _numbers(task: Task, zoo: Zoo, rows: Tensor) -> Tensor:
    """A number per network: its label, or for edits the error of leaving it alone."""
    labels = task.labels(zoo, rows)
    return task.pairs(labels[:, 0], labels)[0] if isinstance(task, EditTask) else labels


def _origin(done: Comparison) -> dict[str, str]:
    about, table = done.about, done.table
    cells_s, seconds = sum(table["wall_s"].tolist()), float(about["seconds"])
    facts = {
        "commit": about["commit"],
        "seeds": ", ".join(map(str, sorted(table["seed"].unique()))),
        "time": f"{seconds:.0f} s for this command; {cells_s:.0f} s of training in {len(table)} cells, one thread "
        f"each, {done.config.compare.workers} at once",
        **about["machine"],
    }
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    return {
        "command": escape(about["command"]),
        "settings": _settings_html(table),
        "provenance": f'<table class="facts-table">{rows}</table>',
        "config": escape(yaml.safe_dump(about["config"], sort_keys=False)),
        "cells": table.to_html(index=False, border=0, float_format=lambda v: f"{v:.4g}"),
    }


def _settings_html(table: pd.DataFrame) -> str:
    """How each model was trained."""
    columns = ("epochs", "batch_size", "learning_rate", "weight_decay", "best_epoch", "val")
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in ("model", *columns))
    rows = []
    for s in summarize(table):
        cells = "".join(f"<td>{s.mean[c]:.3g}</td>" for c in columns)
        rows.append(f"<tr><td>{escape(s.name)}</td>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _spec_names(zoo: Zoo) -> list[str]:
    """What tells the architectures of a zoo apart: their activations, or a number."""
    names = [_activations(spec) for spec in zoo.specs]
    return names if len(set(names)) == len(names) else [f"architecture {i}" for i in range(len(names))]


def _activations(spec: NetSpec) -> str:
    hidden = [str(a) for g in spec.groups if g.role == "hidden" for a in g.activations]
    return ", ".join(dict.fromkeys(hidden))


def _count(number: object, noun: str) -> str:
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"


def _words(column: object) -> str:
    return str(column).replace("_", " ")


def _short(value: float, measure: str = "") -> str:
    """As measures are written, or in powers of ten where that would be a row of digits."""
    return written(measure, value) if abs(value) < 100 else f"{value:.1e}"


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="neuron graph" src="data:image/png;base64,{code}">'
