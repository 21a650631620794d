"""Figures of the report, as inline SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.metrics import SMALLER, TITLES, written
from experiments.results import ModelSummary, main_measure, moved_columns, summarize

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
_OURS = ("#0b4f8a", "#1f84c7", "#5fb3d9", "#17a39a")
_OTHERS = ("#d9480f", "#a6761d", "#8c8c8c", "#b5367a")
_KINDS = ("#1f84c7", "#e8871e", "#5a9e4b", "#b5367a")
FLOOR = -0.3
"""Lower values of a measure are drawn here."""
CEILING = 1.0
"""Larger values are drawn here, where less is better."""
_STYLE: Any = {
    "font.size": 10, "font.family": "sans-serif", "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.8,
    "axes.axisbelow": True, "svg.fonttype": "path", "svg.hashsalt": "graphnfn",
}  # fmt: skip


def colours(summaries: Sequence[ModelSummary]) -> dict[str, str]:
    """A colour per model: blue to green for ours, warm or grey for the others."""
    names = sorted((s.ours, s.name) for s in summaries)
    ours, others = [[name for own, name in names if own == wanted] for wanted in (True, False)]
    picked = {name: _OURS[i % len(_OURS)] for i, name in enumerate(ours)}
    return {**picked, **{name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}}


def svg(figure: Figure) -> str:
    """A figure as an ``<svg>`` element to put into a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def robustness(table: pd.DataFrame) -> str:
    """The main measure against the size of the group elements, mean and range over seeds."""
    measure, moved, summaries = main_measure(table), moved_columns(table), summarize(table)
    sizes = [0.0, *(float(size) for size in moved)]
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        palette, ends = colours(summaries), []
        for s in summaries:
            values = s.cells[[f"test_{measure}", *moved.values()]].to_numpy(dtype=float)
            values = np.minimum(values, CEILING) if measure in SMALLER else np.maximum(values, FLOOR)
            colour = palette[s.name]
            axes.fill_between(sizes, values.min(0), values.max(0), color=colour, alpha=0.13, linewidth=0)
            axes.plot(sizes, values.mean(0), "-" if s.ours else "--", marker="o", ms=4, color=colour, lw=2)
            ends.append((float(values.mean(0)[-1]), s.name, colour))
        _label_ends(axes, sizes[-1], ends)
        axes.set_xticks(sizes, ["as\ntrained", *(f"{size:g}" for size in sizes[1:])])
        axes.set_xlim(-0.1, sizes[-1] * 1.38)
        axes.set_xlabel("decades of the random group element's scales")
        axes.set_ylabel(f"test {TITLES[measure]}")
        return svg(figure)


def _label_ends(axes: Axes, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names beside the ends of the lines, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    gap, at = (high - low) / 19, -math.inf
    for value, model, colour in sorted(ends):
        at = max(value, at + gap)
        axes.annotate(
            model, (x, value), (x * 1.06, at), color=colour, va="center", fontweight="bold", fontsize=9,
            arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.35, "lw": 0.8, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip


def quality_and_cost(table: pd.DataFrame) -> str:
    """The main measure against the CPU time of a training step, or of the training where no step was timed."""
    measure, summaries = main_measure(table), summarize(table)
    column = "step_ms" if "step_ms" in table else "cpu_s"
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        palette = colours(summaries)
        for s in summaries:
            x, y, std = s.mean[column], s.mean[f"test_{measure}"], s.std[f"test_{measure}"]
            bar, marker = None if math.isnan(std) else std, "o" if s.ours else "s"
            axes.errorbar(x, y, yerr=bar, fmt=marker, ms=8, color=palette[s.name], capsize=3, label=s.name)
        axes.set_xscale("log")
        axes.margins(x=0.15, y=0.15)
        ticks = [t for t in (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if _inside(t, axes.get_xlim())]
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel("CPU seconds of training (one thread)")
        if column == "step_ms":
            networks = round(summaries[0].mean["cost_networks"])
            axes.set_xlabel(f"CPU ms per training step ({networks} networks, one thread)")
        axes.set_ylabel(f"test {TITLES[measure]}")
        figure.legend(loc="outside right center", frameon=False)
        return svg(figure)


def scatters(table: pd.DataFrame, predictions: pd.DataFrame, spec_names: Sequence[str]) -> str:
    """Predicted against true values of the first seed, a panel per model."""
    measure, summaries = main_measure(table), summarize(table)
    seed, palette = table["seed"].tolist()[0], colours(summaries)
    columns = min(4, len(summaries))
    lines = math.ceil(len(summaries) / columns)
    labels = predictions["label"].tolist()
    ends = [min(labels), max(labels)]
    with rc_context(_STYLE):
        figure = Figure(figsize=(2.75 * columns, 2.9 * lines + 0.3), layout="constrained")
        panels = list(np.atleast_1d(figure.subplots(lines, columns, sharex=True, sharey=True)).ravel())
        for panel, s in zip(panels, summaries, strict=False):
            rows = predictions[(predictions["model"] == s.name) & (predictions["seed"] == seed)]
            for i, name in enumerate(spec_names):
                part = rows[rows["spec"] == i]
                style = {"s": 13, "alpha": 0.6, "color": _KINDS[i % len(_KINDS)], "lw": 0, "label": name}
                panel.scatter(part["label"], part["prediction"], **style)
            panel.plot(ends, ends, color=FAINT, lw=1, zorder=0)
            value = s.cells.loc[s.cells["seed"] == seed, f"test_{measure}"].tolist()[0]
            panel.set_title(f"{s.name}  ({TITLES[measure]} {written(measure, value)})", color=palette[s.name])
            panel.set_aspect("equal", adjustable="box")
        for panel in panels[len(summaries) :]:
            panel.set_axis_off()
        for panel in panels[max(0, len(summaries) - columns) : len(summaries)]:
            panel.set_xlabel("true")
            panel.tick_params(labelbottom=True)
        for panel in panels[::columns]:
            panel.set_ylabel("predicted")
        if len(spec_names) > 1:
            spare = len(panels) > len(summaries)
            where = {"loc": "center" if spare else "lower right", "frameon": False, "title": "activation"}
            panels[-1 if spare else 0].legend(*panels[0].get_legend_handles_labels(), **where)
        return svg(figure)


def confusion(table: pd.DataFrame, predictions: pd.DataFrame) -> str:
    """True against predicted class of the best model, summed over seeds, in shares of the true class."""
    model = summarize(table)[0].name
    rows = predictions[predictions["model"] == model]
    counts = pd.crosstab(rows["label"], rows["prediction"], normalize="index")
    counts = counts.reindex(columns=counts.index, fill_value=0.0)
    with rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(5.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(counts, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(counts)), [str(c) for c in counts.columns])
        axes.set_yticks(range(len(counts)), [str(c) for c in counts.index])
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_title(model)
        figure.colorbar(image, label="share of the true class")
        return svg(figure)


def label_histogram(labels: np.ndarray, groups: np.ndarray, names: Sequence[str], column: str) -> str:
    """How the labels of a zoo are spread."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        axes = figure.add_subplot()
        few = len(np.unique(labels)) <= 20
        bins = np.arange(labels.min(), labels.max() + 2) - 0.5 if few else np.linspace(labels.min(), labels.max(), 33)
        parts = [labels[groups == i] for i in range(len(names))]
        axes.hist(
            parts,
            bins=list(bins),
            stacked=True,
            color=[_KINDS[i % len(_KINDS)] for i in range(len(names))],
            label=names,
        )
        axes.set_xlabel(column)
        axes.set_ylabel("networks")
        if len(names) > 1:
            axes.legend(frameon=False)
        return svg(figure)


def _inside(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]
