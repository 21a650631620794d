"""What a comparison consists of: cases (a zoo and a task each), and in every case models and seeds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from experiments.config import load, plain
from experiments.errors import ExperimentError
from experiments.settings import Setting, chosen_settings

TAKEN = "cells"
"""The folder of a comparison that is no case."""
_NAME = re.compile(r"[\w-]*")

Key = tuple[str, str, int]
"""Case, model and seed."""


@dataclass(frozen=True)
class Case:
    """One zoo and task of a comparison.

    Args:
        name: empty for the only case of a plain comparison.
        words: overrides that make the configuration.
        config: the configuration, without a choice of model.
        overrides: given by the user; they come last and win.
        settings: per model, what a search chose.
    """

    name: str
    words: tuple[str, ...]
    config: DictConfig
    overrides: tuple[str, ...]
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def cell_words(self, model: str) -> list[str]:
        """The overrides of a model's cells, without the seed."""
        chosen = self.settings.get(model)
        setting = [] if chosen is None else [*shlex.split(chosen.words), f"setting='{chosen.name}'"]
        return [*self.words, f"model={model}", *setting, *self.overrides]

    def cells(self) -> Iterator[tuple[Key, list[str]]]:
        """All cells with their overrides."""
        for seed in self.config.compare.seeds:
            for model in self.config.compare.models:
                yield (self.name, model, seed), [*self.cell_words(model), f"seed={seed}"]


def cases(overrides: Sequence[str]) -> list[Case]:
    """The cases that a configuration asks for.

    Args:
        overrides: ``compare.cases`` names the cases and gives each its overrides; without it the configuration itself
            is the only case.

    Raises:
        ExperimentError: a configuration does not compose or asks for no model or seed, a case's name is no folder, or
            ``compare.settings`` lacks a model.

    Example:
        >>> [case.name for case in cases(["+compare.cases.few='zoo.size=100'", "+compare.cases.many='zoo.size=900'"])]
        ['few', 'many']
    """
    whole = load(overrides)
    found = []
    for name, text in (whole.compare.cases or {"": ""}).items():
        if name == TAKEN or not _NAME.fullmatch(str(name)):
            raise ExperimentError(
                f"got a case called {name!r}; a case names a folder of letters, digits, - and _ other than {TAKEN}"
            )
        try:
            words = tuple(shlex.split(str(text)))
        except ValueError as error:
            raise ExperimentError(f"compare.cases.{name} is {text!r}; expected overrides ({error})") from error
        config = load([*words, *overrides])
        found.append(Case(str(name), words, config, tuple(overrides), chosen_settings(config, str(name), overrides)))
        if not config.compare.models or not config.compare.seeds:
            raise ExperimentError("compare.models and compare.seeds must not be empty")
    return found


def content(config: DictConfig) -> dict[str, Any]:
    """What a cell depends on, as far as its configuration says so; the code's commit is in its row."""
    found = {key: value for key, value in plain(config).items() if key not in ("compare", "search")}
    if found["setting"] is None:
        del found["setting"]  # cells that were trained before there were searches are still the same
    return found
