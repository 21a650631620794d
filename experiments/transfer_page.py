"""The page docs/transfer.md, from what :mod:`experiments.transfer` measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from experiments.board_figures import palette
from experiments.figures import FLOOR, STYLE, svg
from experiments.leaderboard import READS
from experiments.metrics import TITLES
from experiments.provenance import portable
from experiments.results import write_text
from experiments.tables import with_spread

Row = dict[str, Any]

_HEAD = """# Width transfer

Trained on networks of hidden width {trained_at}, tested on networks of other widths on the same task. Made by
`{command}`; the JSON file beside this page holds every number.

- commit {commit}, seeds {seeds}
- {processor}, {cores} cores; {packages}

{spread}; test networks are the same for all models and seeds. **Bold**: ours.
`reference_width=16` reads every hidden group as if it had 16 neurons: weights relative to their fan-in, sums over
neurons as means, spread and maximum as those of 16 of the neurons on average; at width 16 it is the same model. A dash:
the model reads networks of one width only. Settings are those of `experiments/conf/model`, none is searched for this.
"""


def write(found: Mapping[str, Any], output: Path) -> list[Path]:
    """Write the page, and a figure per case beside it.

    Args:
        found: of :func:`experiments.transfer.transfer`.
        output: the page, a Markdown file.

    Returns:
        All files.
    """
    parts, files = [_head(found)], [output]
    for case in found["zoos"]:
        rows = [row for row in found["rows"] if row["case"] == case]
        picture = output.with_name(f"{output.stem}_{case}.svg")
        write_text(picture, figure(rows, int(found["trained_at"])) + "\n")
        parts.append(_section(case, rows, found["zoos"][case], picture.name))
        files.append(picture)
    write_text(output, "\n".join(parts))
    return files


def _head(found: Mapping[str, Any]) -> str:
    facts = {**found, **found["machine"], "command": portable(found["command"])}
    one = "One seed, so no spread: small differences mean nothing"
    spread = one if len(found["seeds"]) == 1 else "Mean±standard deviation over seeds of the training"
    return _HEAD.format(**facts | {"seeds": ", ".join(map(str, found["seeds"])), "spread": spread})


def _section(case: str, rows: list[Row], zoos: Mapping[str, Any], picture: str) -> str:
    measure, widths = rows[0]["measure"], list(zoos)
    networks = ", ".join(f"{zoo['networks']} of width {w}" for w, zoo in zoos.items())
    lines = [f"## {case}", "", f"{rows[0]['train_networks']} training networks; tested on {networks}."]
    for column in ("test_accuracy", "psnr"):
        if all(column in zoo for zoo in zoos.values()):
            quality = ", ".join(f"{zoo[column][0]:.3g}±{zoo[column][1]:.2g}" for zoo in zoos.values())
            lines.append(f"Their {column}, mean and deviation by width: {quality}.")
    lines += ["", f"![{case}]({picture})", ""]
    for name in [measure, *(m for m in _measures(rows) if m != measure)]:
        lines += [f"### {TITLES.get(name, name)}", "", _table(rows, widths, name), ""]
    return "\n".join(lines)


def _measures(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(m for row in rows for found in row["widths"].values() for m in found if m != "refused"))


def _table(rows: list[Row], widths: list[str], measure: str) -> str:
    lines = [f"| model | reads | {' | '.join(widths)} |", "|---|---|" + "---:|" * len(widths)]
    names = list(dict.fromkeys(row["name"] for row in rows))
    values = {name: {w: scores(rows, name, w, measure) for w in widths} for name in names}

    def best(name: str) -> float:
        means = [fmean(v) for v in values[name].values() if v]
        return -fmean(means) if len(means) == len(widths) else math.inf

    for name in sorted(names, key=best):
        row = next(r for r in rows if r["name"] == name)
        cells = [_cell(values[name][w], measure) for w in widths]
        shown = f"**{name}**" if row["ours"] else name
        lines.append(f"| {shown} | {row['reads']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float], measure: str) -> str:
    if not values:
        return "-"
    return with_spread(fmean(values), stdev(values) if len(values) > 1 else None, measure)


def scores(rows: list[Row], name: str, width: str, measure: str) -> list[float]:
    """One model's scores at a width, one per seed; none where it refuses the width.

    Example:
        >>> rows = [{"name": "a", "widths": {"16": {"tau": 0.5}, "64": {"refused": "one width only"}}}]
        >>> scores(rows, "a", "16", "tau"), scores(rows, "a", "64", "tau")
        ([0.5], [])
    """
    found = [row["widths"][width] for row in rows if row["name"] == name and width in row["widths"]]
    return [float(f[measure]) for f in found if measure in f]


def figure(rows: list[Row], trained_at: int) -> str:
    """The main measure against the width, a panel per kind of reader; ``<svg>``."""
    measure, names = rows[0]["measure"], list(dict.fromkeys(row["name"] for row in rows))
    widths = list(rows[0]["widths"])
    about = {name: next(r for r in rows if r["name"] == name) for name in names}
    colours = palette([{"ours": r["ours"], "model": name} for name, r in about.items()])
    kinds = [kind for kind in READS if any(r["reads"] == kind for r in rows)]
    with rc_context(STYLE):
        drawn = Figure(figsize=(5.6 * len(kinds), 5.0), layout="constrained")
        panels = drawn.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for axes, kind in zip(panels, kinds, strict=True):
            for name in (n for n in names if about[n]["reads"] == kind):
                known = [(int(w), found) for w in widths if (found := scores(rows, name, w, measure))]
                x, values = [w for w, _ in known], [[max(v, FLOOR) for v in found] for _, found in known]
                style = "-" if about[name]["ours"] else "--"
                axes.plot(x, [fmean(v) for v in values], style, marker="o", ms=4, color=colours[name], label=name)
                axes.fill_between(
                    x, [min(v) for v in values], [max(v) for v in values], color=colours[name], alpha=0.12
                )
            axes.set_xscale("log", base=2)
            axes.set_xticks([int(w) for w in widths], widths)
            axes.axvline(trained_at, color="#7b8794", lw=0.8, ls=":")
            axes.set_title(READS[kind])
            axes.set_xlabel("hidden width of the test networks")
            axes.legend(fontsize=7.5, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))
        panels[0].set_ylabel(f"test {TITLES[measure]}")
        return svg(drawn)
