"""The leaderboard as pages: what the data of one comparison or several say, in tables and figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments import board_figures as figures
from experiments.board_parts import ablation_tables, curve_table, epochs, of_row, setting_table, signed
from experiments.document import Fold, Heading, Part, Picture, Table, Text, to_html, to_markdown
from experiments.leaderboard import READS, REFERENCES, Entry
from experiments.metrics import SMALLER, TITLES, written
from experiments.results import write_text

_AHEAD = {True: "yes", False: "no", None: "one seed"}
PICTURES = "figures"


def write_pages(boards: Mapping[str, Entry], page: Path, pictures: str = PICTURES, stored: str = "") -> list[Path]:
    """Write the Markdown page with its pictures, and beside it the same as one HTML file.

    Args:
        boards: what ``leaderboard.json`` of each comparison holds, by the comparison's name.
        page: the Markdown file.
        pictures: folder of its pictures, seen from it; those that the page had before and has no longer are removed.
        stored: folder of the data ``NAME.json``, seen from it; empty where it is ``leaderboard.json`` beside it.

    Returns:
        Both pages.
    """
    parts = document(boards, stored)
    found = [p for part in parts for p in ([part] if not isinstance(part, Fold) else part.parts)]
    drawn = {f"{p.name}.svg": p.svg for p in found if isinstance(p, Picture)}
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    for old in set(re.findall(rf"\({re.escape(pictures)}/([^/)]+\.svg)\)", text)) - set(drawn):
        (page.parent / pictures / old).unlink(missing_ok=True)
    for name, svg in drawn.items():
        write_text(page.parent / pictures / name, svg + "\n")
    html = page.with_suffix(".html")
    write_text(page, to_markdown(parts, pictures))
    write_text(html, to_html(parts))
    return [page, html]


def document(boards: Mapping[str, Entry], stored: str = "") -> list[Part]:
    """The page's parts.

    A case is shown once, from the first comparison that has it with a baseline; cases with fewer training networks are
    shown as learning curves where their comparison has several sizes, models with a part taken out as ablations.
    """
    shown: dict[str, Entry] = {}
    for board in boards.values():
        for case in board["cases"]:
            alone = len(_sizes(board, case["curve"])) == 1
            if (case["whole"] or alone) and any(not r["ours"] for r in case["rows"]):
                shown.setdefault(case["name"], case)
    cases = list(shown.values()) or [c for b in boards.values() for c in b["cases"]]
    colours = figures.palette(r for b in boards.values() for c in b["cases"] for r in c["rows"] if not r["ablates"])
    parts: list[Part] = [Heading("Leaderboard", 1), *_opening(cases), *_overview(cases, colours)]
    for case in cases:
        parts += _section(case, colours)
    parts += _curves(boards, colours)
    parts += _ablations(boards)
    return [*parts, *_origin(boards, stored)]


def _opening(cases: Sequence[Entry]) -> list[Part]:
    seeds = max(len(c["seeds"]) for c in cases)
    spread = "one seed" if seeds == 1 else f"mean ± standard deviation over up to {seeds} seeds"
    return [
        Text(
            "How well metanetworks predict facts of networks that they have not seen, from the weights alone. Test "
            f"networks only, {spread}; the epoch is chosen on the validation "
            "networks. **Bold** are graphnfn's own models, *italic* ones trivial references."
        ),
        Text(
            "*Weight-reading* models see weights, *function-probing* models run the networks on inputs of their "
            "choice, *image-supervised* ones see the images that the networks stand for: compare within a kind. "
            "*k dec*: the same networks under random elements of their symmetry groups with scales over k decades, "
            "which change the weights and not the function; *largest shift* is the largest change of a prediction "
            "under the largest of these, in standard deviations of the predictions."
        ),
    ]


def _overview(cases: Sequence[Entry], colours: figures.Colours) -> list[Part]:
    head = ["case", "kind", "ours", "test", "best baseline", "test", "margin", "ahead"]
    head += ["CPU s"]
    lines, far = [], []
    for case in cases:
        rows = {r["model"]: r for r in case["rows"]}
        for reads, m in case["margins"].items():
            one, other = rows[m["ours"]], rows[m["theirs"]]
            times = " / ".join("never" if t is None else _seconds(t) for t in (m["ours_cpu_s"], m["theirs_cpu_s"]))
            measure = case["measure"]
            scores = [f"**{m['ours']}**", of_row(one, measure), m["theirs"], of_row(other, measure)]
            lines.append([case["name"], READS[reads], *scores, signed(m["margin"], measure), _AHEAD[m["ahead"]], times])
        if case["distance"] is not None:
            d = case["distance"]
            far.append(f"{case['name']}: {d['ours']} {signed(d['margin'], case['measure'])} to {d['theirs']}")
    parts: list[Part] = []
    if lines:
        note = (
            "Ours is the best of graphnfn's models on validation, the baseline is the best on test. A positive margin "
            "means that ours is better; *ahead*: it is larger than either standard deviation over seeds and not 0 as "
            "shown; *CPU s*: ours and the baseline's until its worst seed's validation score is reached."
        )
        parts += [Heading("At a glance"), Table(head, lines), Text(note)]
    if far:
        words = "Our best model on validation against the best image-supervised one, which sees the images: "
        parts.append(Text(words + "; ".join(far) + "."))
    caption = (
        "Every model in every case: bars are seeds, symbols their means (circles weight-reading, diamonds "
        "function-probing, squares image-supervised)."
    )
    return [*parts, Picture("overview", figures.overview(cases, colours), caption, narrow=len(cases) == 1)]


def _section(case: Entry, colours: figures.Colours) -> list[Part]:
    measure = TITLES[case["measure"]]
    budget = f", {case['budget_s']:.0f} CPU seconds of training per model and seed" if case["budget_s"] else ""
    facts = f"{case['train']} networks to train, {case['val']} to choose the epoch, {case['test']} to test{budget}."
    if "tie_ceiling" in case:
        facts += f" {case['tie_fraction']:.2%} of pairs are ties: τ cannot exceed {case['tie_ceiling']:.4f}."
    parts: list[Part] = [Heading(case["name"]), Text(f"{measure} of {case['task']} on {case['zoo']}: {facts}")]
    for reads in READS:
        rows = [r for r in case["rows"] if r["reads"] == reads and not r["ablates"]]
        if rows:
            parts.append(_table(rows, READS[reads], case["measure"]))
    robust = f"{measure} under random group elements; lines are means, bands the range over seeds."
    limit = figures.CEILING if case["measure"] in SMALLER else figures.FLOOR
    if any(figures.limited(case["measure"], v) == limit for r in case["rows"] for v in r["decades"].values()):
        robust += f" Values beyond {limit:g} are drawn there."
    quick = "The best validation score so far against CPU time, median over seeds; validation included."
    if not all(r["ablates"] for r in case["rows"]):  # these are in a table of their own, not in figures
        parts.append(Picture(f"{case['name']}-robustness", figures.robustness(case, colours), robust))
        parts.append(Picture(f"{case['name']}-time", figures.time_to_score(case, colours), quick))
    parts.append(Fold(f"Settings of {case['name']}", [setting_table(case)]))
    return [*parts, Text(f"Commit {case['commit']}.")]


def _table(rows: Sequence[Entry], title: str, measure: str) -> Table:
    sizes, others = list(rows[0]["decades"]), list(rows[0]["others"])
    extra = [TITLES[c.removeprefix("test_")] for c in others]
    head = [title, TITLES[measure], *extra, *(f"{size} dec" for size in sizes)]
    head += [*(["largest shift"] if sizes else []), "parameters", "epochs", "members", "CPU s"]
    lines = []
    for r in rows:
        cells = [_name(r), of_row(r, measure), *(written(c.removeprefix("test_"), r["others"][c]) for c in others)]
        cells += [written(measure, r["decades"][size]) for size in sizes]
        if sizes:
            shift = r["shift"][sizes[-1]]
            cells.append("not finite" if shift is None else f"{shift:.0e}")
        lines.append([*cells, f"{r['parameters']:,}", epochs(r), f"{r.get('members', 1):.0f}", _seconds(r["cpu_s"])])
    return Table(head, lines, frozenset(i for i, r in enumerate(rows) if r["ours"]))


def _sizes(board: Entry, curve: str) -> set[int]:
    """Numbers of training networks of a comparison's cases of one zoo and task."""
    return {case["train"] for case in board["cases"] if case["curve"] == curve}


def _curves(boards: Mapping[str, Entry], colours: figures.Colours) -> list[Part]:
    parts: list[Part] = []
    for name, board in boards.items():
        groups: dict[str, list[Entry]] = {}
        for case in board["cases"]:
            groups.setdefault(case["curve"], []).append(case)
        for curve, cases in groups.items():
            if len(_sizes(board, curve)) > 1:
                last = max(cases, key=lambda c: c["train"])
                caption = (
                    f"{TITLES[last['measure']]} of {last['task']} on {last['zoo']} ({last['name']}) over the number "
                    f"of training networks; {last['test']} test networks, lines are means, bands the range over seeds."
                )
                parts.append(
                    Picture(f"{name}-{last['name']}-learning", figures.learning_curve(cases, colours), caption)
                )
                parts.append(curve_table(cases))
    return [Heading("Learning curves"), *parts] if parts else []


def _ablations(boards: Mapping[str, Entry]) -> list[Part]:
    parts = [p for b in boards.values() for case in b["cases"] if case["whole"] for p in ablation_tables(case)]
    if not parts:
        return []
    text = (
        "One part of a model is taken out. *change* is against the whole model, on test; the last columns show what "
        "random group elements do. Models without canonical weights or sign types are not exact any more, the others "
        "are."
    )
    return [Heading("Ablations"), Text(text), *parts]


def _origin(boards: Mapping[str, Entry], stored: str) -> list[Part]:
    parts: list[Part] = [Heading("Where the numbers come from")]
    for name, board in boards.items():
        path = f"{stored}/{name}.json" if stored else "leaderboard.json"
        commits = sorted({commit for c in board["cases"] for commit in c["commit"].split(", ")})
        text = f"[{path}]({path}): made by `{board['command']}`; commit {', '.join(commits)}."
        if board["search"] is not None:
            s = board["search"]
            budget = "" if s["cpu_seconds"] is None else f" for {s['cpu_seconds']:g} CPU seconds each"
            text += (
                f" Settings were chosen on validation networks among {len(s['settings'])}, trained{budget} with seeds "
                f"{_seeds(s['seeds'])}, the same for every model{_but(board['cases'])}: `{s['command']}`; commit "
                f"{s['commit']}."
            )
        machine = ", ".join(f"{k}: {v}" for k, v in board["machine"].items())
        parts.append(Text(f"{text} Machine: {machine}. One thread per cell."))
    return parts


def _seeds(of: Mapping[str, Sequence[int]]) -> str:
    """The seeds of a search, told apart by case where they differ."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for case, seeds in of.items():
        groups.setdefault(tuple(seeds), []).append(case)
    if len(groups) == 1:
        return str(list(*groups))
    return " and ".join(f"{list(seeds)} for {', '.join(cases)}" for seeds, cases in groups.items())


def _but(cases: Sequence[Entry]) -> str:
    """Models that no search was made for, told apart by case."""
    found: dict[str, list[str]] = {}
    for case in cases:
        models = ", ".join(sorted(r["model"] for r in case["rows"] if not r["setting"]))
        if models:
            found.setdefault(models, []).append(case["name"])
    told = "; ".join(f"{models} in {', '.join(names)}" for models, names in found.items())
    return f" but those as configured ({told})" if told else ""


def _name(row: Entry) -> str:
    mark = "**" if row["ours"] else "*" if row["model"] in REFERENCES else ""
    return f"{mark}{row['model']}{mark}"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
