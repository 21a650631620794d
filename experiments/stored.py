"""Results in the repository: small data files of finished comparisons, and the page that is made of them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.board import write_pages
from experiments.errors import ExperimentError
from experiments.leaderboard import BOARD, Entry, dumps, read_leaderboard, updated
from experiments.results import write_text

STORE = "results"
"""Folder of the data beside the page; its pictures are in ``results/figures``."""


def store(sources: Sequence[Path], page: Path, *, update: bool = False) -> list[Path]:
    """Copy the data of comparisons beside a page, and make the page of all that lies there.

    Args:
        sources: folders of finished comparisons, or their ``leaderboard.json``; a comparison is stored under the name
            of its folder and takes the place of one of the same name. Without any, the page is made afresh.
        page: the Markdown file; an HTML file of the same name goes beside it.
        update: the models of the sources take their places in the stored cases of the same name. A case that no
            stored comparison has is added to the one of its folder's name. Nothing else of the sources is kept.

    Returns:
        The pages.

    Raises:
        ExperimentError: a source is no finished comparison, nothing is stored, or what is stored has no such case or
            another one of that name.
    """
    if page.suffix != ".md":
        raise ExperimentError(f"got the page {page}; expected a name that ends with .md: the HTML file goes beside it")
    found = {}
    for source in sources:
        path = source if source.suffix == ".json" else source / BOARD
        name = path.parent.resolve().name if path.name == BOARD else path.stem
        found[name] = read_leaderboard(path)
    folder = page.parent / STORE
    stored = {path.stem: read_leaderboard(path) for path in sorted(folder.glob("*.json"))}
    if update:
        found = _updated(stored, found)
    for name, board in found.items():
        write_text(folder / f"{name}.json", dumps(board))
    stored = dict(sorted((stored | found).items()))
    if not stored:
        raise ExperimentError(f"{folder} holds no results yet: name the folder of a finished comparison")
    first = [name for name in ("leaderboard", *stored) if name in stored]  # what is called so is shown first
    return write_pages({name: stored[name] for name in first}, page, f"{STORE}/figures", STORE)


def _updated(stored: Mapping[str, Entry], sources: Mapping[str, Entry]) -> dict[str, Entry]:
    """The stored comparisons that have or get a case of the sources, with the sources' models in these cases."""
    found: dict[str, Entry] = {}
    for source, board in sources.items():
        for part in board["cases"]:
            homes = [name for name, old in stored.items() if part["name"] in (case["name"] for case in old["cases"])]
            if not homes and source not in stored:
                raise ExperimentError(
                    f"nothing stored has a case {part['name']!r}, which {source} has: store it first, or give the "
                    "folder the name of the stored comparison that gets it"
                )
            if not homes:
                old = found.get(source, stored[source])
                found[source] = old | {"cases": [*old["cases"], part]}
            for name in homes:
                old = found.get(name, stored[name])
                cases = [updated(case, part) if case["name"] == part["name"] else case for case in old["cases"]]
                found[name] = old | {"cases": cases}
    return found
