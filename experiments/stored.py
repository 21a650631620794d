"""Results in the repository: small data files of finished comparisons, and the page that is made of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.board import write_pages
from experiments.errors import ExperimentError
from experiments.leaderboard import BOARD, dumps, read_leaderboard
from experiments.results import write_text

STORE = "results"
"""Folder of the data beside the page; its pictures are in ``results/figures``."""


def store(sources: Sequence[Path], page: Path) -> list[Path]:
    """Copy the data of comparisons beside a page, and make the page of all that lies there.

    Args:
        sources: folders of finished comparisons, or their ``leaderboard.json``; a comparison is stored under the name
            of its folder and takes the place of one of the same name. Without any, the page is made afresh.
        page: the Markdown file; an HTML file of the same name goes beside it.

    Returns:
        The pages.

    Raises:
        ExperimentError: a source is no finished comparison, or nothing is stored.
    """
    if page.suffix != ".md":
        raise ExperimentError(f"got the page {page}; expected a name that ends with .md: the HTML file goes beside it")
    found = {}
    for source in sources:
        path = source if source.suffix == ".json" else source / BOARD
        name = path.parent.resolve().name if path.name == BOARD else path.stem
        found[name] = read_leaderboard(path)
    folder = page.parent / STORE
    for name, board in found.items():
        write_text(folder / f"{name}.json", dumps(board))
    stored = {path.stem: read_leaderboard(path) for path in sorted(folder.glob("*.json"))}
    if not stored:
        raise ExperimentError(f"{folder} holds no results yet: name the folder of a finished comparison")
    first = [name for name in ("leaderboard", *stored) if name in stored]  # what is called so is shown first
    return write_pages({name: stored[name] for name in first}, page, f"{STORE}/figures", STORE)
