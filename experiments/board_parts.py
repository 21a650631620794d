"""Tables of the leaderboard beside its main ones: settings, learning curves, ablations."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.document import Heading, Part, Table, Text
from experiments.leaderboard import READS, Entry
from experiments.metrics import TITLES
from experiments.tables import with_spread


def setting_table(case: Entry) -> Table:
    """How every model of a case was trained."""
    head = ["model", "learning rate", "weight decay", "setting", "epochs", "validation"]
    rows = [
        [
            r["model"], f"{r['learning_rate']:g}", f"{r['weight_decay']:g}",
            "searched" if r["setting"] else "as configured",
            f"{r['epochs']:.0f}", f"{r['val']:.3f}",
        ]
        for r in case["rows"]
    ]  # fmt: skip
    return Table(head, rows, _ours(case["rows"]))


def curve_table(cases: Sequence[Entry]) -> Table:
    """Test scores by number of training networks; models as in the largest case."""
    cases = sorted(cases, key=lambda c: c["train"])
    found = [{r["model"]: r for r in c["rows"]} for c in cases]
    rows = [r for kind in READS for r in cases[-1]["rows"] if r["reads"] == kind and not r["ablates"]]
    head = [f"{TITLES[cases[-1]['measure']]} with", "kind", *(f"{c['train']:,} networks" for c in cases)]
    lines = [
        [r["model"], READS[r["reads"]], *(_of(rows_of.get(r["model"])) for rows_of in found)] for r in rows
    ]  # fmt: skip
    return Table(head, lines, _ours(rows))


def ablation_tables(case: Entry) -> list[Part]:
    """For every model of a case that has ablations: it and they, the largest loss last."""
    parts: list[Part] = []
    rows = {r["model"]: r for r in case["rows"]}
    for whole in dict.fromkeys(r["ablates"] for r in case["rows"] if r["ablates"]):
        if whole not in rows:
            continue
        base = rows[whole]
        without = [r for r in case["rows"] if r["ablates"] == whole]
        others = [r for r in case["rows"] if r["ours"] and not r["ablates"] and r is not base]
        sizes = list(base["decades"])
        head = ["model", f"test {TITLES[case['measure']]}", "change", *(f"{s} dec" for s in sizes)]
        head += ["largest shift"] if sizes else []
        lines = [[base["model"], _of(base), "", *_moved(base, sizes)]]
        lines += [[r["model"], _of(r), f"{r['test'] - base['test']:+.3f}", *_moved(r, sizes)] for r in without + others]
        facts = f"{len(case['seeds'])} seeds, {case['test']} test networks."
        parts += [Heading(f"{case['name']}: parts of {whole}", 3), Text(facts), Table(head, lines, frozenset([0]))]
    return parts


def _moved(row: Entry, sizes: Sequence[str]) -> list[str]:
    if not sizes:
        return []
    shift = row["shift"][sizes[-1]]
    return [*(f"{row['decades'][s]:.3f}" for s in sizes), "not finite" if shift is None else f"{shift:.0e}"]


def _of(row: Entry | None) -> str:
    return "" if row is None else with_spread(row["test"], row["std"])


def _ours(rows: Sequence[Entry]) -> frozenset[int]:
    return frozenset(i for i, r in enumerate(rows) if r["ours"])
