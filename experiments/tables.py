"""Tables for the terminal."""

from __future__ import annotations

import math

import pandas as pd
from rich import box
from rich.console import RenderableType
from rich.table import Table

from experiments.describe import Description
from experiments.metrics import TITLES, written
from experiments.results import main_measure, moved_columns, summarize


def with_spread(mean: float, std: float | None, measure: str = "") -> str:
    """``mean±std``, or only the mean where there is one seed.

    Example:
        >>> with_spread(0.81, 0.004), with_spread(0.81, None), with_spread(0.0123, 0.0004, "mse")
        ('0.810±0.004', '0.810', '1.23e-02±4.00e-04')
    """
    if std is None or math.isnan(std):
        return written(measure, mean)
    return f"{written(measure, mean)}±{written(measure, std)}"


def comparison_table(table: pd.DataFrame) -> Table:
    """The results of a comparison, the best model first."""
    measure, moved = main_measure(table), moved_columns(table)
    others = [c for c in TITLES if f"test_{c}" in table and c != measure]
    first = table.iloc[0]
    title = f"{first['zoo']}: {first['task']}, {first['test_networks']} test networks"
    out = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    out.add_column("model", no_wrap=True)
    costs = {"parameters": "para-\nmeters", "step_ms": "ms per\nstep", "peak_mb": "peak\nMB", "cpu_s": "CPU s\nin all"}
    costs = {column: head for column, head in costs.items() if column in table}
    heads = [measure, *others, *(f"{measure}\n{size} dec" for size in moved), *costs.values()]
    for head in heads:
        out.add_column(head, justify="right", no_wrap=True)
    columns = [*(f"test_{name}" for name in (measure, *others)), *moved.values()]
    for summary in summarize(table):
        own = [c for c in columns if c.removeprefix("test_") not in others]
        cells = [with_spread(summary.mean[c], summary.std[c], measure if c in own else "") for c in columns]
        cells += [f"{summary.mean[c]:,.0f}" for c in costs]
        out.add_row(summary.name, *cells, style="bold" if summary.ours else None)
    return out


def description_tables(facts: Description, *, explain: bool = False) -> tuple[RenderableType, ...]:
    """Layers, neuron groups and the sum of a description; ``explain`` adds the reasons."""
    layers = Table(title="layers")
    for head in ("parameter", "kind", "from", "to", "shape"):
        layers.add_column(head)
    for layer in facts.layers:
        layers.add_row(layer.name, layer.kind, layer.source, layer.target, " x ".join(map(str, layer.shape)))
    groups = Table(title="neuron groups")
    for head, side in (("group", "left"), ("role", "left"), ("neurons", "right"), ("activation", "left")):
        groups.add_column(head, justify=side)  # type: ignore[arg-type]
    groups.add_column("symmetry")
    groups.add_column("dead", justify="right")
    if explain:
        groups.add_column("because")
    for g in facts.groups:
        cells = [g.id, g.role, str(g.size), g.activation, g.symmetry, str(g.dead)]
        groups.add_row(*cells, *([g.reason] if explain else []))
    removed = facts.parameters - facts.freedom
    total = (
        f"{facts.parameters:,} parameters - {removed:,} continuous symmetries = {facts.freedom:,} degrees of freedom; "
        f"{sum(g.dead for g in facts.groups)} dead neurons"
    )
    return layers, groups, *facts.families, *(f"note: {note}" for note in facts.notes), total
