"""Commands on comparisons as a whole: ``graphnfn search`` and ``graphnfn report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from experiments.console import Overrides, say


def search(
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for trials and search.json.")] = Path(
        "runs/search"
    ),
) -> None:
    """Choose hyper-parameters on validation networks only, with the same grid and CPU time for every model."""
    from experiments.building import ensure_zoo
    from experiments.plan import cases
    from experiments.search import SEARCH
    from experiments.search import search as run

    for case in cases(overrides or []):
        if ensure_zoo(case.config):
            say(f"built {case.config.zoo.folder}")
    for case, models in run(overrides or [], output, say)["chosen"].items():
        for model, chosen in models.items():
            say(f"{case} {model}: {chosen['setting']} (validation {chosen['val']:.3f})".strip())
    say(f"use it: graphnfn compare ... compare.settings={output / SEARCH}")


def report(
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, e.g. docs/leaderboard.md.")],
    sources: Annotated[
        Optional[list[Path]],  # noqa: UP045 - typer reads it
        typer.Argument(help="Folders of finished comparisons; without any the page is made of what is stored."),
    ] = None,
) -> None:
    """Store finished comparisons as small files in results/ beside a page, and make the page of all stored ones."""
    from experiments.stored import store

    for page in store(sources or [], output):
        say(page)
