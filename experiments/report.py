"""The report of a comparison: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import pandas as pd
import yaml
from matplotlib.figure import Figure

from experiments import figures
from experiments.compare import Comparison
from experiments.data import open_zoo
from experiments.metrics import tie_ceiling
from experiments.results import moved_columns, summarize, write_text
from graphnfn.plotting import plot
from graphnfn.spec import NetSpec
from graphnfn.zoo import Zoo

_NAMES = {"tau": "Kendall τ", "r2": "R²", "accuracy": "accuracy"}


def write_report(done: Comparison, path: Path) -> Path:
    """Write the page.

    Args:
        done: the comparison.
        path: of the page.
    """
    config = done.config
    zoo = open_zoo(config.zoo.folder, where=config.zoo.where, split_seed=config.zoo.split_seed)
    template = Template(files("experiments").joinpath("report.html").read_text(encoding="utf-8"))
    parts = {**_opening(done, zoo), **_results(done), **_predictions(done, zoo), **_data(done, zoo), **_origin(done)}
    write_text(path, template.substitute(parts))
    return path


def _opening(done: Comparison, zoo: Zoo) -> dict[str, str]:
    table, summary = done.table, summarize(done.table)
    measure, best = table["measure"].iloc[0], summary.index[0]
    seeds, first = table["seed"].nunique(), table.iloc[0]
    moved = list(moved_columns(table).items())
    facts = [
        (f"{len(zoo):,}", f"networks: {first['train_networks']} to train, {len(zoo.split('val'))} to choose the epoch, "
                          f"{first['test_networks']} to test"),
        (f"{len(summary)} × {seeds}", f"models × seeds, all on one split, at most {table['epochs'].max()} epochs"),
        (_number(summary, best, f"test_{measure}"), f"best test {_NAMES[measure]}, by {best}"),
    ]  # fmt: skip
    if moved:
        size, column = moved[-1]
        facts.append((_number(summary, best, column), f"the same after random re-parameterisations of {size} decades"))
    boxes = "".join(f'<div class="fact"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in facts)
    lead = (
        f"How well can {table['task'].iloc[0].replace('_', ' ')} be predicted from the weights of a network alone, and "
        "does the prediction survive when the same function is written with other weights?"
    )
    return {"title": f"graphnfn on {escape(str(table['zoo'].iloc[0]))}", "lead": escape(lead), "facts": boxes}


def _results(done: Comparison) -> dict[str, str]:
    table = done.table
    measure, own = table["measure"].iloc[0], [m for m in table["model"].unique() if _is_ours(table, m)]
    text = (
        f"Test networks only, mean ± standard deviation over {table['seed'].nunique()} seeds, best model first; the "
        f"epoch is chosen by {_NAMES[measure]} on the validation networks. Shaded rows are graphnfn's own models "
        f"({', '.join(own)}). The columns <i>k decades</i> see the same test networks under random elements of their "
        f"symmetry groups: permuted, sign-flipped, and rescaled by factors spread over k powers of ten "
        f"(mean of {done.config.repeats} draws). The function that a network computes is the same in all columns."
    )
    return {
        "results_text": text,
        "results": _summary_html(table),
        "robustness": figures.robustness(table),
        "robustness_text": f"{_NAMES[measure]} under random group elements. Lines are means, bands the range over seeds; "
        "solid lines are graphnfn's models, dashed ones baselines. Values below -0.3 are drawn at -0.3.",
        "cost": figures.quality_and_cost(table),
        "cost_text": "Quality against cost. Bars are standard deviations over seeds. Time is the median over training "
        "steps (forward, backward, optimiser) in a fresh process of one thread.",
    }


def _summary_html(table: pd.DataFrame) -> str:
    summary, measure = summarize(table), table["measure"].iloc[0]
    others = [c for c in ("tau", "r2") if f"test_{c}" in table and c != measure]
    columns = {f"test_{c}": _NAMES[c] for c in (measure, *others)}
    columns |= {c: f"{_NAMES[measure]}<br>{size} decades" for size, c in moved_columns(table).items()}
    costs = {
        "parameters": "parameters",
        "step_ms": "CPU ms<br>per step",
        "peak_mb": "peak MB",
        "wall_s": "seconds<br>to train",
    }
    head = "".join(f"<th>{name}</th>" for name in ("model", *columns.values(), *costs.values()))
    best, rows = {c: summary[(c, "mean")].max() for c in columns}, []
    for model in summary.index:
        cells = []
        for c in columns:
            mean, std = summary.loc[model, (c, "mean")], summary.loc[model, (c, "std")]
            pm = "" if pd.isna(std) else f' <span class="pm">± {_short(std)}</span>'
            mark = ' class="best"' if mean >= best[c] - 5e-4 else ""
            cells.append(f"<td{mark}>{_short(mean)}{pm}</td>")
        cells += [f"<td>{summary.loc[model, (c, 'mean')]:,.0f}</td>" for c in costs]
        kind = ' class="ours"' if _is_ours(table, model) else ""
        rows.append(f"<tr{kind}><td>{escape(str(model))}</td>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _predictions(done: Comparison, zoo: Zoo) -> dict[str, str]:
    table = done.table
    if table["measure"].iloc[0] == "accuracy":
        text = "Which classes the best model confuses, summed over seeds."
        return {"predictions": figures.confusion(table, done.predictions), "predictions_text": text}
    text = (
        f"Predicted against true {table['task'].iloc[0].replace('_', ' ')} of the test networks, seed "
        f"{table['seed'].iloc[0]}; the line is a perfect prediction."
    )
    return {
        "predictions": figures.scatters(table, done.predictions, _spec_names(zoo)),
        "predictions_text": escape(text),
    }


def _data(done: Comparison, zoo: Zoo) -> dict[str, str]:
    table = done.table
    column = table["task"].iloc[0]
    labels = zoo.labels(column)
    ceiling = ""
    if table["measure"].iloc[0] != "accuracy":
        best = tie_ceiling(zoo.labels(column, zoo.split("test")))
        ceiling = f" Because some labels are equal, τ on the test networks cannot exceed {best:.4f}."
    text = (
        f"Zoo <code>{escape(str(done.config.zoo.folder))}</code>: {len(zoo):,} networks of {len(zoo.specs)} "
        f"architecture{'s' if len(zoo.specs) > 1 else ''} with {zoo.specs[0].num_params:,} parameters each." + ceiling
    )
    median = int(labels.float().sub(labels.float().median()).abs().argmin())
    graph = zoo.batch([median])
    drawn = _png(plot(graph, title=f"network {median} of the zoo"))
    return {
        "data_text": text,
        "histogram": figures.label_histogram(labels.numpy(), zoo.spec_index.numpy(), _spec_names(zoo), column),
        "histogram_text": f"The labels: {escape(column)} of all networks.",
        "network": drawn,
        "network_text": f"One network as the metanetworks see it, {escape(column)} {float(labels[median]):.3g}: "
        f"{graph.num_nodes} neurons, {graph.num_edges} bundles of weights.",
    }


def _origin(done: Comparison) -> dict[str, str]:
    about, table = done.about, done.table
    cells_s, seconds = float(table["wall_s"].sum()), float(about["seconds"])
    facts = {
        "commit": about["commit"],
        "seeds": ", ".join(map(str, sorted(table["seed"].unique()))),
        "time": f"{seconds:.0f} s for this command; {cells_s:.0f} s of training in {len(table)} cells, one thread each, "
        f"{done.config.compare.workers} at once",
        **about["machine"],
    }
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    return {
        "command": escape(about["command"]),
        "provenance": f'<table class="facts-table">{rows}</table>',
        "config": escape(yaml.safe_dump(about["config"], sort_keys=False)),
        "cells": table.to_html(index=False, border=0, float_format=lambda v: f"{v:.4g}"),
    }


def _spec_names(zoo: Zoo) -> list[str]:
    """What tells the architectures of a zoo apart: their activations, or a number."""
    names = [_activations(spec) for spec in zoo.specs]
    return names if len(set(names)) == len(names) else [f"architecture {i}" for i in range(len(names))]


def _activations(spec: NetSpec) -> str:
    hidden = [str(a) for g in spec.groups if g.role == "hidden" for a in g.activations]
    return ", ".join(dict.fromkeys(hidden))


def _is_ours(table: pd.DataFrame, model: str) -> bool:
    return bool(table.loc[table["model"] == model, "ours"].iloc[0])


def _number(summary: pd.DataFrame, model: str, column: str) -> str:
    return f"{summary.loc[model, (column, 'mean')]:.3f}"


def _short(value: float) -> str:
    """Three decimals, or powers of ten where that would be a row of digits."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1e}"


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="neuron graph" src="data:image/png;base64,{code}">'
