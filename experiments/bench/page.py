"""The page and the document of ``graphnfn bench``."""

from __future__ import annotations

import json
from collections import defaultdict
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from experiments.bench.suite import BY_NAME, PARTS
from experiments.bench.tables import Table, tables
from experiments.bench.timing import YARDSTICK
from experiments.figures import svg
from experiments.results import write_text

_CURVES = {"batches": ("networks", "networks a batch"), "widths": ("width", "width"), "scaling": ("weights", "weights")}
_PLACE = Path("docs/speed.md")
_LEAD = (
    "CPU and wall milliseconds on one thread: medians with quartiles of interleaved rounds in one process. Memory is "
    "the peak of what a step allocates. Input networks have random weights. Between rounds a yardstick is timed, "
    f"{YARDSTICK}: where it takes longer in one part than in another, others slowed the machine down meanwhile."
)


def write(result: dict[str, Any], path: Path) -> None:
    """Write the document to a path, the numbers and the page beside it."""
    document = json.dumps(result, indent=1) + "\n"
    texts = {".md": markdown(result, path), ".json": document, ".html": html(result, path)}
    for suffix, text in texts.items():
        write_text(path.with_suffix(suffix), text)


def html(result: dict[str, Any], path: Path = _PLACE) -> str:
    """One file that needs nothing else."""
    template = Template(files("experiments.bench").joinpath("page.html").read_text(encoding="utf-8"))
    pictures = "".join(f"<figure>{curve(result, part)}</figure>" for part in _CURVES if part in result)
    body = "".join(_html_table(t) for t in tables(result))
    origin = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in result["origin"].items())
    return template.substitute(
        lead=_LEAD, pictures=pictures, tables=body, origin=origin, command=_command(result, path)
    )


def _command(result: dict[str, Any], path: Path) -> str:
    """What makes these parts."""
    parts = [name for name in result if name != "origin"]
    unnamed = set(parts) == set(PARTS) - set(BY_NAME)
    return " ".join([f"graphnfn bench -o docs/{path.name}", *([] if unnamed else parts)])


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in table.rows)
    words = f"<h2>{escape(table.title)}</h2><p>{escape(table.text)}</p>"
    return f'{words}<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def markdown(result: dict[str, Any], path: Path = _PLACE) -> str:
    """The same tables for the documents."""
    origin = ", ".join(f"{k} {v}" for k, v in result["origin"].items())
    parts = [f"# Speed and memory\n\nMade by `{_command(result, path)}`. {_LEAD}\n\n{origin}.\n"]
    for t in tables(result):
        lines = ["| " + " | ".join(row) + " |" for row in (t.head, ["---"] * len(t.head), *t.rows)]
        parts.append(f"## {t.title}\n\n{t.text}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def curve(result: dict[str, Any], part: str) -> str:
    """CPU time and memory of a step against what the part varies, a panel per shape and quantity, as SVG."""
    column, label = _CURVES[part]
    found = result[part]["found"]
    rows = found["rows"] if part == "scaling" else found
    shapes = ["one MLP"] if part == "scaling" else list(dict.fromkeys(r["shape"] for r in rows))
    with rc_context({"svg.hashsalt": "graphnfn", "axes.grid": True, "font.size": 9}):
        figure = Figure(figsize=(4.4 * len(shapes), 5.6), layout="constrained")
        panels = figure.subplots(2, len(shapes), sharex=True, squeeze=False)
        for k, shape in enumerate(shapes):
            lines = defaultdict(list)
            for r in rows:
                if part == "scaling" or r["shape"] == shape:
                    lines[r["name"]].append((r[column], r["cpu_ms"], r["peak_kb_per_network"]))
            for name, points in lines.items():
                x, times, memory = zip(*points, strict=True)
                panels[0][k].plot(x, [t["middle"] for t in times], marker="o", ms=3, label=name)
                panels[0][k].fill_between(x, [t["low"] for t in times], [t["high"] for t in times], alpha=0.2)
                panels[1][k].plot(x, memory, marker="o", ms=3, label=name)
            for panel, words in ((panels[0][k], "CPU ms per step"), (panels[1][k], "peak KiB per network")):
                panel.set(xscale="log", yscale="log", ylabel=words)
            panels[0][k].set_title(shape)
            panels[1][k].set_xlabel(label)
        panels[0][0].legend(frameon=False)
        return svg(figure)
