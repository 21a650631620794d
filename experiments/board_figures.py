"""Figures of the leaderboard, from its data: lines of every model, a panel per kind of reader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from experiments.figures import CEILING, FAINT, FLOOR, STYLE, svg
from experiments.leaderboard import READS, REFERENCES, Entry
from experiments.metrics import SMALLER, TITLES, goodness

_OURS = ("#0b4f8a", "#1f84c7", "#17a39a", "#6a51a3", "#5fb3d9")
_OTHERS = (
    "#d9480f", "#a6761d", "#b5367a", "#5a9e4b", "#e8871e", "#8c6d31", "#c2185b", "#7f7f7f", "#bcbd22", "#9c755f",
    "#e15759", "#4e7d4e", "#b07aa1",
)  # fmt: skip
_REFERENCE = "#1f2933"
_WIDTH, _HEIGHT = 5.6, 4.2

Colours = dict[str, str]
"""By the names of models."""


@dataclass(frozen=True)
class Line:
    """One model's line.

    Args:
        row: the model's entry.
        x, y: its points.
        low, high: the range over seeds; empty where there is none.
    """

    row: Entry
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def palette(rows: Iterable[Entry]) -> Colours:
    """A colour per model: cold for ours, warm for others, black for trivial references."""
    names = sorted({(bool(r["ours"]), str(r["model"])) for r in rows})
    ours = [n for own, n in names if own]
    others = [n for own, n in names if not own and n not in REFERENCES]
    found = dict(zip(ours, _enough(_OURS, "YlGnBu", len(ours)), strict=True))
    found |= zip(others, _enough(_OTHERS, "YlOrRd", len(others)), strict=True)
    return found | {n: _REFERENCE for _, n in names if n in REFERENCES}


def _enough(chosen: Sequence[str], more: str, count: int) -> list[str]:
    """So many different colours; those of a colour map follow where the chosen ones do not suffice."""
    shades = colormaps[more](np.linspace(0.4, 0.95, max(0, count - len(chosen))))
    return [*chosen[:count], *(to_hex(shade) for shade in shades)]


def robustness(case: Entry, colours: Colours) -> str:
    """The score against the size of random group elements."""
    sizes, measure = [0.0, *(float(s) for s in case["rows"][0]["decades"])], case["measure"]

    def line(row: Entry) -> Line:
        ranges = [[min(row["values"]), max(row["values"])], *row["ranges"].values()]
        low, high = ([limited(measure, r[i]) for r in ranges] for i in (0, 1))
        return Line(row, sizes, [limited(measure, v) for v in (row["test"], *row["decades"].values())], low, high)

    def finish(axes: Axes) -> None:
        axes.set_xticks(sizes, ["as\ntrained", *(f"{s:g}" for s in sizes[1:])])
        axes.set_xlabel("decades of the random group element's scales")

    return _panels([case], colours, line, finish, f"test {TITLES[case['measure']]}")


def limited(measure: str, value: float) -> float:
    """A score, or the worst one that is drawn."""
    return min(value, CEILING) if measure in SMALLER else max(value, FLOOR)


def time_to_score(case: Entry, colours: Colours) -> str:
    """The best validation score so far against CPU seconds of training, median over seeds."""
    sign = goodness(case["measure"])

    def line(row: Entry) -> Line:
        end = max(points[-1][0] for points in row["history"])
        end = max(end, float(row["cpu_s"]))
        start = min(points[0][0] for points in row["history"])
        times = np.geomspace(max(start, 1e-2), max(end, start * 1.01), 80)
        values = [np.median([_reached(points, t, sign) for points in row["history"]]) for t in times]
        kept = [(float(t), float(v)) for t, v in zip(times, values, strict=True) if math.isfinite(v)]
        return Line(row, *(list(part) for part in zip(*kept, strict=True)))

    def finish(axes: Axes) -> None:
        axes.set_xscale("log")
        _plain_ticks(axes)
        axes.set_xlabel("CPU seconds of training (one thread)")

    return _panels([case], colours, line, finish, f"best validation {TITLES[case['measure']]} so far")


def _reached(points: Sequence[Sequence[float]], seconds: float, sign: float) -> float:
    """The best score after so many seconds; infinitely bad before the first epoch."""
    return sign * max((sign * v for t, v in points if t <= seconds), default=-math.inf)


def learning_curve(cases: Sequence[Entry], colours: Colours) -> str:
    """The test score against the number of training networks."""
    cases = sorted(cases, key=lambda c: c["train"])
    sizes = [c["train"] for c in cases]
    found = [{r["model"]: r for r in c["rows"]} for c in cases]

    def line(row: Entry) -> Line:
        here = [(n, rows[row["model"]]) for n, rows in zip(sizes, found, strict=True) if row["model"] in rows]
        low, high = [min(r["values"]) for _, r in here], [max(r["values"]) for _, r in here]
        return Line(row, [n for n, _ in here], [r["test"] for _, r in here], low, high)

    def finish(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
        axes.set_xlabel("training networks")

    return _panels(cases[-1:], colours, line, finish, f"test {TITLES[cases[-1]['measure']]}")


def overview(cases: Sequence[Entry], colours: Colours) -> str:
    """Every model's test score in every case, mean and seeds, a panel per case."""
    columns = min(2, len(cases))
    lines = math.ceil(len(cases) / columns)
    most = max(sum(not r["ablates"] for r in c["rows"]) for c in cases)
    with rc_context(STYLE):
        figure = Figure(figsize=(6.2 * columns, (0.9 + 0.26 * most) * lines), layout="constrained")
        panels = list(np.atleast_1d(figure.subplots(lines, columns)).ravel())
        for axes, case in zip(panels, cases, strict=False):
            _dots(axes, case, colours)
        for axes in panels[len(cases) :]:
            axes.set_axis_off()
        return svg(figure)


_MARKERS = {"weights": "o", "function": "D", "images": "s"}


def _dots(axes: Axes, case: Entry, colours: Colours) -> None:
    shown = [r for r in reversed(case["rows"]) if not r["ablates"]]
    rows = [r for kind in reversed(READS) for r in shown if r["reads"] == kind]
    edge = -0.5
    for kind in list(reversed(READS)):
        count = sum(r["reads"] == kind for r in rows)
        if 0 < count < len(rows) and edge >= 0:
            axes.axhline(edge, color=FAINT, lw=0.8)
        edge += count
    for y, row in enumerate(rows):
        colour = colours[row["model"]]
        axes.plot(row["values"], [y] * len(row["values"]), "|", color=colour, ms=8, alpha=0.7)
        axes.plot([row["test"]], [y], _MARKERS[row["reads"]], color=colour, ms=6)
    axes.set_yticks(range(len(rows)), [r["model"] for r in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(colours[row["model"]])
        label.set_fontweight("bold" if row["ours"] else "normal")
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_title(case["name"])
    axes.set_xlabel(f"test {TITLES[case['measure']]}")


def _panels(
    cases: Sequence[Entry], colours: Colours, line: Callable[[Entry], Line], finish: Callable[[Axes], None], label: str
) -> str:
    """A panel per kind of reader with a line per model, all with the same scales."""
    rows = [r for c in cases for r in c["rows"] if not r["ablates"]]
    kinds = [kind for kind in READS if any(r["reads"] == kind for r in rows)]
    with rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH * len(kinds), _HEIGHT), layout="constrained")
        panels = list(np.atleast_1d(figure.subplots(1, len(kinds), sharex=True, sharey=True)).ravel())
        ends = []
        for axes, kind in zip(panels, kinds, strict=True):
            here = [line(r) for r in rows if r["reads"] == kind]
            ends.append([(one.x[-1], one.y[-1], one.row) for one in here])
            for one in here:
                _draw(axes, one, colours[one.row["model"]])
            axes.set_title(READS[kind])
            axes.tick_params(labelleft=True)
            finish(axes)
        panels[0].set_ylabel(label)
        for axes, found in zip(panels, ends, strict=True):
            _name(axes, found, colours)
        return svg(figure)


def _draw(axes: Axes, one: Line, colour: str) -> None:
    ours, reference = one.row["ours"], one.row["model"] in REFERENCES
    if one.low:
        axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.12, linewidth=0)
    marker = "o" if len(one.x) < 12 else ""
    style = "-" if ours else ":" if reference else "--"
    axes.plot(one.x, one.y, style, marker=marker, ms=4, color=colour, lw=2.4 if ours or reference else 1.4)


def _name(axes: Axes, ends: Sequence[tuple[float, float, Entry]], colours: Colours) -> None:
    """Names right of the panel, in the order of the lines' ends, joined to them."""
    low, high = axes.get_ylim()
    gap = max((high - low) / 21, 1e-9)
    at = _spread([y for _, y, _ in sorted(ends, key=lambda e: e[1])], gap, low, high)
    for (x, y, row), height in zip(sorted(ends, key=lambda e: e[1]), at, strict=True):
        colour = colours[row["model"]]
        axes.annotate(
            row["model"], (x, y), (1.03, (height - low) / (high - low)), textcoords="axes fraction", color=colour,
            va="center", fontsize=8.5, fontweight="bold" if row["ours"] else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.4, "lw": 0.8, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip
    axes.set_ylim(low, high)


def _spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending heights moved apart to ``gap`` at least, and inside the limits as far as there is room.

    Example:
        >>> _spread([0.0, 0.1, 0.9], 0.5, 0.0, 1.0)
        [0.0, 0.5, 1.0]
    """
    out: list[float] = []
    for i, height in enumerate(heights):
        lowest = low if not out else out[-1] + gap
        out.append(max(lowest, min(height, high - gap * (len(heights) - 1 - i))))
    return out


def _plain_ticks(axes: Axes) -> None:
    """Numbers instead of powers on a logarithmic axis."""
    low, high = axes.get_xlim()
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
