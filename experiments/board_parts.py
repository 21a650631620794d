"""Tables of the leaderboard beside its main ones: settings, learning curves, ablations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.document import Heading, Part, Table, Text
from experiments.leaderboard import READS, Entry
from experiments.metrics import TITLES, goodness, written
from experiments.tables import with_spread


def epochs(row: Mapping[str, Any]) -> str:
    """Passes over the training networks, the mean over seeds: with a decimal where they are few.

    Example:
        >>> [epochs({"epochs": e}) for e in (1.0, 1.66, 44.7)]
        ['1', '1.7', '45']
    """
    return f"{row['epochs']:.{0 if row['epochs'] >= 10 else 1}f}".removesuffix(".0")


def setting_table(case: Entry) -> Table:
    """How every model of a case was trained."""
    head = ["model", "learning rate", "weight decay", "setting", "epochs", "validation"]
    rows = [
        [
            r["model"], f"{r['learning_rate']:g}", f"{r['weight_decay']:g}",
            "searched" if r["setting"] else "as configured",
            epochs(r), written(case["measure"], r["val"]),
        ]
        for r in case["rows"]
    ]  # fmt: skip
    return Table(head, rows, _ours(case["rows"]))


def curve_table(cases: Sequence[Entry]) -> Table:
    """Test scores by number of training networks; models as in the largest case."""
    cases = sorted(cases, key=lambda c: c["train"])
    found = [{r["model"]: r for r in c["rows"]} for c in cases]
    measure = cases[-1]["measure"]
    rows = [r for kind in READS for r in cases[-1]["rows"] if r["reads"] == kind and not r["ablates"]]
    head = [f"{TITLES[measure]} with", "kind", *(f"{c['train']:,} networks" for c in cases)]
    lines = [
        [r["model"], READS[r["reads"]], *(of_row(rows_of.get(r["model"]), measure) for rows_of in found)] for r in rows
    ]  # fmt: skip
    return Table(head, lines, _ours(rows))


def ablation_tables(case: Entry) -> list[Part]:
    """For every model of a case that has ablations: it and they, the largest loss last."""
    parts: list[Part] = []
    rows, measure = {r["model"]: r for r in case["rows"]}, case["measure"]
    for whole in dict.fromkeys(r["ablates"] for r in case["rows"] if r["ablates"]):
        if whole not in rows:
            continue
        base = rows[whole]
        without = [r for r in case["rows"] if r["ablates"] == whole]
        others = [r for r in case["rows"] if r["ours"] and not r["ablates"] and r is not base]
        sizes = list(base["decades"])
        head = ["model", f"test {TITLES[measure]}", "change", *(f"{s} dec" for s in sizes)]
        head += ["largest shift"] if sizes else []
        lines = [[base["model"], of_row(base, measure), "", *_moved(base, sizes, measure)]]
        for r in without + others:
            change = signed(goodness(measure) * (r["test"] - base["test"]), measure)
            lines.append([r["model"], of_row(r, measure), change, *_moved(r, sizes, measure)])
        facts = f"{len(case['seeds'])} seeds, {case['test']} test networks."
        parts += [Heading(f"{case['name']}: parts of {whole}", 3), Text(facts), Table(head, lines, frozenset([0]))]
    return parts


def _moved(row: Entry, sizes: Sequence[str], measure: str) -> list[str]:
    if not sizes:
        return []
    shift = row["shift"][sizes[-1]]
    return [*(written(measure, row["decades"][s]) for s in sizes), "not finite" if shift is None else f"{shift:.0e}"]


def of_row(row: Entry | None, measure: str) -> str:
    """A model's test score with its spread; empty where there is none."""
    return "" if row is None else with_spread(row["test"], row["std"], measure)


def signed(difference: float, measure: str) -> str:
    """A difference of scores, with its sign."""
    return ("+" if difference >= 0 else "") + written(measure, difference + 0.0)  # -0.0 would have two signs


def _ours(rows: Sequence[Entry]) -> frozenset[int]:
    return frozenset(i for i, r in enumerate(rows) if r["ours"])
