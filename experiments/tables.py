"""Tables for the terminal."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.console import RenderableType
from rich.table import Table

from experiments.describe import Description
from experiments.results import moved_columns, summarize


def spread(summary: pd.DataFrame, model: str, column: str, digits: int = 3) -> str:
    """``mean±std`` of a column, or only the mean where there is one seed.

    Example:
        >>> summary = pd.DataFrame({("tau", "mean"): [0.81], ("tau", "std"): [0.004]}, index=["native"])
        >>> spread(summary, "native", "tau")
        '0.810±0.004'
    """
    mean, std = summary.loc[model, (column, "mean")], summary.loc[model, (column, "std")]
    text = f"{mean:.{digits}f}"
    return text if pd.isna(std) else f"{text}±{std:.{digits}f}"


def comparison_table(table: pd.DataFrame) -> Table:
    """The results of a comparison, the best model first."""
    summary, measure = summarize(table), table["measure"].iloc[0]
    others = [c for c in ("tau", "r2") if f"test_{c}" in table and c != measure]
    moved = moved_columns(table)
    out = Table(
        title=f"{table['zoo'].iloc[0]}: {table['task'].iloc[0]}, {table['test_networks'].iloc[0]} test networks"
    )
    out.add_column("model", no_wrap=True)
    heads = [
        measure,
        *others,
        *(f"{measure}\n{size} dec" for size in moved),
        "para-\nmeters",
        "ms per\nstep",
        "peak\nMB",
    ]
    for head in heads:
        out.add_column(head, justify="right", no_wrap=True)
    ours = dict(zip(table["model"], table["ours"], strict=True))
    for model in summary.index:
        cells = [spread(summary, model, f"test_{name}") for name in (measure, *others)]
        cells += [spread(summary, model, column) for column in moved.values()]
        cells += [f"{summary.loc[model, ('parameters', 'mean')]:,.0f}"]
        cells += [f"{summary.loc[model, (c, 'mean')]:.0f}" for c in ("step_ms", "peak_mb")]
        out.add_row(model, *cells, style="bold" if ours[model] else None)
    return out


def description_tables(facts: Description) -> tuple[RenderableType, ...]:
    """Layers, neuron groups and the sum of a description."""
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
    for g in facts.groups:
        groups.add_row(g.id, g.role, str(g.size), g.activation, g.symmetry, str(g.dead))
    removed = facts.parameters - facts.freedom
    total = (
        f"{facts.parameters:,} parameters - {removed:,} continuous scales = {facts.freedom:,} degrees of freedom; "
        f"{sum(g.dead for g in facts.groups)} dead neurons"
    )
    return layers, groups, total
