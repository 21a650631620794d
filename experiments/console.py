"""Where the command line prints, and what its commands share."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer
from rich.console import Console

out = Console(width=None if sys.stdout.isatty() else 120)

Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it
    typer.Argument(help="Hydra overrides such as model=native trainer.epochs=20 zoo=folder zoo.folder=PATH."),
]


def say(line: object) -> None:
    """Print a line as it is."""
    out.print(line, highlight=False, markup=False)
