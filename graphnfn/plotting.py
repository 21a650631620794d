"""Draw a neuron graph in layers, for a person to read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from graphnfn.effective import effective
from graphnfn.errors import SpecError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec, NeuronGroup
from graphnfn.stack import Stack

COLOURS: Colormap = LinearSegmentedColormap.from_list(
    "weights", ["#123f7a", "#2f78bd", "#a9cbe4", "#f0efed", "#f2b79c", "#cf4f3c", "#7d1021"]
)
"""Blue for negative, red for positive, light grey for zero."""
_RELATIVE = Normalize(-1.0, 1.0)
_LABEL_LENGTH = 28
_BACKDROP = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.0}
_INK, _FAINT = "#222222", "#6b6b6b"


def plot(
    graph: NeuralGraph, path: str | Path | None = None, *, max_edges: int = 900, title: str | None = None
) -> Figure:
    """Draw one network: a column of dots per neuron group, a line per edge.

    Lines are coloured by their signed weight and dots by their bias, each relative to the largest of its block or
    group, whose size is written beside it; small weights are thin and transparent.  A kernel is shown by its largest
    tap.  Kept batch norms are folded in first.

    Args:
        graph: one network.
        path: where to save the figure; its suffix chooses the format (png, svg, pdf).
        max_edges: the most lines drawn; beyond that only the strongest of every block, and the figure says so.
        title: text above the drawing.

    Returns:
        The figure, saved or not.

    Raises:
        SpecError: the graph holds several networks.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> figure = plot(random_graph(mlp_spec([2, 8, 1], "relu")))
        >>> len(figure.axes[0].collections)      # two blocks, three groups
        5
    """
    if graph.num_graphs != 1:
        raise SpecError(f"plot draws one network, this batch has {graph.num_graphs}: choose one of to_data_list()")
    stack = effective(graph.stacks()[0]).apply(lambda t: t.detach().double().cpu())
    spec, places = stack.spec, _places(stack.spec)
    columns = max(spec.levels) + 1
    figure = Figure(figsize=(max(6.5, 2.3 * columns + 1.2), 5.6), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    share = _share(spec, max_edges)
    drawn = [_draw_block(axes, stack, b, places, share) for b in range(len(spec.blocks))]
    for i, group in enumerate(spec.groups):
        _draw_group(axes, stack, i, group, places[i])
    _finish(figure, axes, columns, title, _notes(stack, drawn))
    if path is not None:
        figure.savefig(path, dpi=160)
    return figure


@dataclass(frozen=True)
class _Drawn:
    """How many edges of a block are in the picture, of how many."""

    lines: int
    edges: int


def _places(spec: NetSpec) -> list[np.ndarray]:
    """Per group, the coordinates ``[n, 2]`` of its neurons; groups of one level share a column."""
    out: list[np.ndarray] = [np.empty((0, 2))] * len(spec.groups)
    columns = [[i for i, at in enumerate(spec.levels) if at == level] for level in sorted(set(spec.levels))]
    totals = [sum(spec.groups[i].size for i in members) + 2 * (len(members) - 1) for members in columns]
    widest = min(0.2, max(0.085, 1.0 / max(max(totals) - 1, 1)))
    for level, (members, total) in enumerate(zip(columns, totals, strict=True)):
        gap = min(widest, 1.0 / max(total - 1, 1))
        top = gap * (total - 1) / 2
        for i in members:
            count = spec.groups[i].size
            out[i] = np.stack([np.full(count, float(level)), top - gap * np.arange(count)], 1)
            top -= gap * (count + 2)
    return out


def _share(spec: NetSpec, max_edges: int) -> int:
    """The most lines per block so that all together stay within the limit; small blocks leave theirs to others."""
    rest, share = max_edges, 0
    sizes = sorted(b.num_edges for b in spec.blocks)
    for done, size in enumerate(sizes):
        share = max(1, rest // (len(sizes) - done))
        rest -= min(size, share)
    return share


def _draw_block(axes: Axes, stack: Stack, b: int, places: list[np.ndarray], share: int) -> _Drawn:
    block = stack.spec.blocks[b]
    taps = stack.blocks[b][0].numpy()
    weight = np.take_along_axis(taps, np.abs(taps).argmax(-1)[..., None], -1)[..., 0]
    strength = np.abs(weight) / max(float(np.abs(weight).max()), np.finfo(float).tiny)
    order = np.argsort(strength, axis=None)[-share:]  # the strongest, drawn last and so on top
    target, source = np.unravel_index(order, weight.shape)
    src, dst = stack.spec.position[block.src], stack.spec.position[block.dst]
    ends = np.stack([places[src][source], places[dst][target]], 1)
    value, relative = weight[target, source], strength[target, source]
    crowd = (120.0 / max(len(order), 120)) ** 0.35  # many lines must each be lighter
    colours = COLOURS(_RELATIVE(np.sign(value) * (0.25 + 0.75 * relative)))
    colours[:, 3] = (0.06 + 0.94 * relative**1.6) * crowd
    widths = (0.25 + 2.0 * relative**1.3) * crowd
    axes.add_collection(LineCollection(list(ends), colors=colours, linewidths=widths, gid=f"block {block.param}"))
    kernel = f"  {'×'.join(map(str, block.taps))}" if block.num_taps > 1 else ""
    x, low = (places[src][0, 0] + places[dst][0, 0]) / 2, -0.585
    axes.text(x, low, f"{_short(block.param)}{kernel}", ha="center", va="top", fontsize=8, color=_INK)
    axes.text(x, low - 0.045, f"|w| ≤ {np.abs(taps).max():.3g}", ha="center", va="top", fontsize=8, color=_FAINT)
    return _Drawn(len(order), block.num_edges)


def _draw_group(axes: Axes, stack: Stack, i: int, group: NeuronGroup, at: np.ndarray) -> None:
    bias = stack.group(i)[0, :, 0].numpy()
    largest = float(np.abs(bias).max())
    relative = bias / largest if largest else bias
    gap = abs(at[0, 1] - at[1, 1]) if len(at) > 1 else 1.0
    size = float(np.clip(1500 * gap, 6, 130))
    plain = group.role == "input"
    axes.scatter(
        at[:, 0], at[:, 1], s=size, c=["white"] * len(at) if plain else COLOURS(_RELATIVE(relative)),
        edgecolors=_INK, linewidths=0.8 if size > 20 else 0.4, zorder=3, gid=f"group {group.id}",
    )  # fmt: skip
    x, top = at[0, 0], at[0, 1] + 0.05
    below = f"\n|b| ≤ {largest:.3g}" if largest else ""
    role = "" if group.role == "hidden" else f" {group.role}{'s' if group.size > 1 else ''}"
    text = f"{group.size}{role}"
    if group.role == "hidden" or _activations(group) != "identity":
        text += f" · {_activations(group)}"
    axes.text(
        x, top, f"{text}{below}", ha="center", va="bottom", fontsize=8, color=_FAINT, linespacing=1.3, bbox=_BACKDROP
    )
    lift = 0.082 if largest else 0.046
    axes.text(x, top + lift, _short(group.id), ha="center", va="bottom", fontsize=9.5, color=_INK, fontweight="bold")


def _short(name: str) -> str:
    return name if len(name) <= _LABEL_LENGTH else f"…{name[1 - _LABEL_LENGTH :]}"


def _activations(group: NeuronGroup) -> str:
    names = list(dict.fromkeys(str(a) for a in group.activations))
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _notes(stack: Stack, drawn: list[_Drawn]) -> list[str]:
    notes = []
    lines, edges = sum(d.lines for d in drawn), sum(d.edges for d in drawn)
    if lines < edges:
        notes.append(f"the strongest {lines:,} of {edges:,} edges are drawn")
    if any(b.num_taps > 1 for b in stack.spec.blocks):
        notes.append("a kernel is shown by its largest tap")
    if any(g.norm_eps is not None for g in stack.spec.groups):
        notes.append("batch norms are folded in")
    return notes


def _finish(figure: Figure, axes: Axes, columns: int, title: str | None, notes: list[str]) -> None:
    axes.set_xlim(-0.45, columns - 0.55)
    axes.set_ylim(-0.72 if notes else -0.68, 0.74)
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=11, color=_INK)
    if notes:
        text = "; ".join(notes)
        axes.text(0.5, 0.0, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=8, color=_FAINT)
    bar = figure.colorbar(ScalarMappable(_RELATIVE, COLOURS), ax=axes, shrink=0.55, aspect=22, pad=0.02)
    bar.set_label("weight or bias, relative to the largest of its block or group", fontsize=8, color=_INK)
    bar.set_ticks([-1, -0.5, 0, 0.5, 1])
    bar.ax.tick_params(labelsize=8)
