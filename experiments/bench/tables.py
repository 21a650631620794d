"""The measurements as tables of text, the same for the page and for the document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.bench import generation, roofline, scaling
from experiments.bench.curves import LARGEST_GIB
from experiments.bench.large import LIMIT_GB
from graphnfn.models import FEW_EDGES, MANY


@dataclass(frozen=True)
class Table:
    """A titled table, with a sentence or two on how to read it."""

    title: str
    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(result: dict[str, Any]) -> list[Table]:
    """A table for every part that was measured."""
    found = [(make, result[part]) for part, make in _TABLES.items() if part in result]
    return [_with_load(make(part["found"]), part) for make, part in found]


def _with_load(table: Table, part: dict[str, Any]) -> Table:
    before, after = part["load"]
    words = f"{table.text} Load average before and after: {before:.1f}, {after:.1f}."
    words += f" The yardstick took {spread(part['pace_ms'])} ms" + (
        f", the calmest of {part['tries']} tries." if part["tries"] > 1 else "."
    )
    return Table(table.title, words, table.head, table.rows)


def spread(values: dict[str, float], digits: int = 3) -> str:
    """A median with its quartiles."""
    low, middle, high = (f"{values[k]:.{digits}g}" for k in ("low", "middle", "high"))
    return f"{middle} ({low} to {high})"


def _roofline(rows: list[dict[str, Any]]) -> Table:
    head = ("networks", "width", "running, CPU ms", "forward / running, CPU", "wall", "both / running, CPU", "wall")
    head += ("forward / on images, CPU", "both / on images, CPU")
    lines = []
    for r in rows:
        line = [r["shape"], str(r["width"]), f"{r['running_cpu_ms']:.2f}"]
        line += [spread(r[f"{k}_over_running"][c]) for k in ("forward", "both") for c in ("cpu", "wall")]
        line += [spread(r[k]["cpu"]) if (k := f"{p}_over_images") in r else "" for p in ("forward", "both")]
        lines.append(line)
    text = (
        f"A native sweep of width d over running the same networks on d inputs each. Wanted: at most "
        f"{roofline.TARGET:g} forward, {3 * roofline.TARGET:g} for forward and backward. Running is a bare chain of "
        "batched products; a convolution acts at one position, so that each weight is used once per input. The last "
        "columns compare with running on d images of 28 x 28."
    )
    return Table("Roofline", text, head, lines)


def _cost_rows(rows: list[dict[str, Any]], *facts: str) -> list[list[str]]:
    return [
        [r["shape"], *(f"{r[f]:,}" for f in facts), r["name"], spread(r["cpu_ms"]), spread(r["wall_ms"]),
         f"{r['peak_kb_per_network']:,.1f}"]
        for r in rows if "cpu_ms" in r
    ]  # fmt: skip


_COST = ("model", "CPU ms", "wall ms", "peak KiB per network")


def _layers(rows: list[dict[str, Any]]) -> Table:
    text = f"Forward and backward of one layer, {rows[0]['networks']} networks, width {rows[0]['width']}."
    return Table("Layers", text, ("networks", *_COST), _cost_rows(rows))


def _models(rows: list[dict[str, Any]]) -> Table:
    refused = sorted({f"{r['name']} ({r['shape']})" for r in rows if r.get("refused")})
    text = f"Training steps (forward, loss, backward, AdamW) on {rows[0]['networks']} networks, default settings;"
    text += " models as configured have the settings of the command line. Networks are not prepared."
    text += f" Not built for these networks: {', '.join(refused)}." if refused else ""
    large = [f"{r['name']} ({r['shape']}): {r['too_large']:.0f} GiB" for r in rows if "too_large" in r]
    text += f" Left out, since a step would need more than {LARGEST_GIB:g} GiB: {', '.join(large)}." if large else ""
    return Table("Models", text, ("networks", "parameters", *_COST), _cost_rows(rows, "parameters"))


def _batches(rows: list[dict[str, Any]]) -> Table:
    head = ("shape", "networks a batch", *_COST)
    return Table("Batch size", "Training steps of our models at width 32.", head, _cost_rows(rows, "networks"))


def _widths(rows: list[dict[str, Any]]) -> Table:
    text = f"Training steps of our models on {rows[0]['networks']} networks."
    return Table("Width", text, ("networks", "width", *_COST), _cost_rows(rows, "width"))


def _published(rows: list[dict[str, Any]]) -> Table:
    head = ("networks", "published code", "its ms", "probes, CPU ms", "times cheaper", "our counterpart, CPU ms")
    head += ("times cheaper", "its KiB per network", "probes", "share")
    lines = []
    for r in rows:
        theirs, mine = r["published_peak_kb_per_network"], r["probes"]["peak_kb_per_network"]
        line = [r["shape"], r["published"], f"{r['published_step_ms']:,}", spread(r["probes"]["cpu_ms"])]
        line += [f"{r['cheaper_time']:.1f}", spread(r["counterpart"]["cpu_ms"]), f"{r['counterpart_cheaper_time']:.1f}"]
        line += [f"{theirs:,.0f}", f"{mine:,.1f}", f"1/{theirs / mine:.0f}"] if theirs else ["", f"{mine:,.1f}", ""]
        lines.append(line)
    text = (
        "Training steps on 64 networks: published codes, run unmodified at another time, perhaps on another processor "
        "(experiments/published_costs.yaml says how; growth of resident memory), next to our model probes and to the "
        "same baseline here with the published settings."
    )
    return Table("Published codes", text, head, lines)


def _scaling(found: dict[str, Any]) -> Table:
    lines = [[*row[:1], *row[1:]] for row in _cost_rows(found["rows"], "weights")]
    parts = [
        f"{name}: time {spread(e['time']['line'])}, steepest {spread(e['time']['steepest'])}, "
        f"memory {e['memory']['line']:.2f}, steepest {e['memory']['steepest']:.2f}"
        for name, e in found["exponents"].items()
    ]
    text = (
        f"Training steps on one network; {scaling.RUNNING} is forward and back on as many inputs as width. Exponents "
        f"over all sizes and between neighbours, wanted at most {scaling.TARGET}: {'; '.join(parts)}."
    )
    return Table("Growth with the network", text, ("network", "weights", *_COST), lines)


def _loading(rows: list[dict[str, Any]]) -> Table:
    lines = [[r["shape"], r["name"], *(_percent(r["share"][k]) for k in ("cpu", "wall"))] for r in rows]
    text = (
        "Share of zoo.batch, shuffled rows from a memory-mapped file, in a training step; batches and steps of one "
        "model take turns. Wanted: at most 5 %."
    )
    return Table("Data loading", text, ("networks", "model", "CPU", "wall"), lines)


def _percent(share: dict[str, float]) -> str:
    low, middle, high = sorted(100 * v for v in share.values())
    return f"{middle:.1f} % ({low:.1f} to {high:.1f})"


def _compile(rows: list[dict[str, Any]]) -> Table:
    lines = []
    for r in rows:
        if "error" in r:
            lines.append([r["shape"], r["name"], r["error"]] + [""] * 7)
            continue
        line = [r["shape"], r["name"], *(spread(r[k]) for k in ("eager_cpu_ms", "compiled_cpu_ms", "cpu", "wall"))]
        line += [f"{r['first_s']:.0f}", f"{r['output_error']:.0e}", f"{r['gradient_error']:.0e}"]
        lines.append([*line, f"{r['graphs']}, {r['breaks']}"])
    text = (
        f"Training steps on {rows[0]['networks']} networks, default settings, as they are and under torch.compile "
        "with its defaults, in turns: ratios below 1 are faster. It compiles PyTorch's operators, which take the place "
        "of what is written in C as far as its graphs reach. Compilation is what the first forward and backward passes "
        "take longer than a later step, with nothing cached. Errors are relative, in evaluation mode, those of all "
        "gradients together."
    )
    head = ("networks", "model", "CPU ms", "compiled, CPU ms", "compiled / eager, CPU", "wall", "compilation, s")
    return Table("torch.compile", text, (*head, "error of outputs", "of gradients", "graphs, breaks"), lines)


def _mixed(rows: list[dict[str, Any]]) -> Table:
    lines = [
        [r["name"], str(r["architectures"]), *(spread(r[k]) for k in ("cpu_ms", "one by one", "at once"))] for r in rows
    ]
    text = (
        f"Training steps of models of width 32 on {rows[0]['networks']} prepared CNNs of several architectures, those "
        "of the zoo builder digits-wild, and how many times as long they take where these are read one by one, or all "
        f"at once by edge_index. Models read at once {MANY} or more architectures of at most {FEW_EDGES:,} edges each. "
        "Of fewer they do just what one by one does: ratios other than 1 there come from the order of the steps."
    )
    head = ("model", "architectures", "CPU ms", "one by one", "at once")
    return Table("Several architectures a batch", text, head, lines)


def _zoo(rows: list[dict[str, Any]]) -> Table:
    head = ("network", "plain loop, per minute", "its setting", "builders, per minute", "times faster", "in CPU time")
    head += ("than the default Adam", "MFLOP a step", "GFLOP/s of a core", "CPU us a step", "arithmetic alone", "bound")
    lines = []
    for r in rows:
        minute, faster, setting = r["per_minute"], r["speedup"], r["setting"]
        line = [r["title"], spread(minute["best"]), setting, spread(minute["together"]), spread(faster["best"])]
        line += [spread(r["cpu_speedup"]["best"]), spread(faster["defaults"]), f"{r['mflop']:.2f}"]
        lines.append([*line, f"{r['gflops']:.0f}", spread(r["cpu_us"]), f"{r['floor_us']:.1f}", f"{r['bound']:.0f}"])
    text = (
        f"Training small networks for zoos, {rows[0]['steps']} steps each: builders on {rows[0]['threads']} threads "
        "against a loop over single modules in its fastest setting (Adam, threads), by wall time, and by CPU time, in "
        f"which both use one core. Wanted: {generation.TARGET:g} times. Arithmetic alone is what products and sines of "
        "a step take at PyTorch's best rates on this core; the bound is the ratio if nothing else took time."
    )
    return Table("Making zoos", text, head, lines)


def _large(rows: list[dict[str, Any]]) -> Table:
    lines = []
    for r in rows:
        if "error" in r:
            lines.append([r["name"], r["run"], r["error"]] + [""] * 7)
            continue
        line = [r["name"], r["run"], f"{r['weights']:,}", f"{r['convert']['cpu_s']:.1f}", f"{r['load']['peak_gb']:.2f}"]
        line += [f"{r[p][k]:.{d}f}" for p in ("forward", "both") for k, d in (("cpu_s", 1), ("peak_gb", 2))]
        lines.append([*line, f"{r['without_gradient']} of {r['parameters']}"])
    text = (
        "One network through two rounds of sweeps of width 32 (layer native), each in a process of its own. GiB are "
        "the peak resident memory of the process so far; libraries and the network itself take what is there after "
        f"loading. Wanted: at most {LIMIT_GB:g} GiB."
    )
    head = ("network", "run", "weights", "convert, CPU s", "loaded, GiB", "forward, CPU s", "GiB")
    head += ("forward and backward, CPU s", "GiB", "parameters without gradient")
    return Table("Large networks", text, head, lines)


_TABLES: dict[str, Callable[[Any], Table]] = {
    "roofline": _roofline, "layers": _layers, "models": _models, "batches": _batches, "widths": _widths,
    "mixed": _mixed, "published": _published, "scaling": _scaling, "loading": _loading, "compile": _compile,
    "zoo": _zoo, "large": _large,
}  # fmt: skip
