"""Commands on comparisons as a whole: ``graphnfn search``, ``graphnfn report`` and ``graphnfn transfer``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from experiments.console import Overrides, say
from experiments.errors import ExperimentError


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
    update: Annotated[
        bool, typer.Option(help="Only put the folders' models, and new cases, into what is stored.")
    ] = False,
) -> None:
    """Store finished comparisons as small files in results/ beside a page, and make the page of all stored ones."""
    from experiments.stored import store

    for page in store(sources or [], output, update=update):
        say(page)


def transfer(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page, e.g. docs/transfer.md; JSON goes beside it.")
    ],
    overrides: Overrides = None,
    folder: Annotated[Path, typer.Option(help="For finished cells: the same command goes on there.")] = Path(
        "runs/transfer"
    ),
) -> None:
    """Train on networks of one width and test on networks of other widths; write a page, figures and numbers."""
    import json

    from experiments.results import write_text
    from experiments.transfer import transfer as run
    from experiments.transfer_page import write

    if output.suffix != ".md":
        raise ExperimentError(f"got the page {output}; expected a name that ends with .md")
    found = run(overrides or [], folder, say)
    write_text(output.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
    for path in write(found, output):
        say(path)
