"""What a search chose, as a comparison takes it: ``compare.settings=FOLDER/search.json``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from experiments.errors import ExperimentError


@dataclass(frozen=True)
class Setting:
    """Named hyper-parameters.

    Args:
        name: as rows tell it.
        words: the overrides.
    """

    name: str
    words: str


def setting_name(words: str) -> str:
    """A setting as tables call it.

    Example:
        >>> setting_name("trainer.learning_rate=1e-3 trainer.weight_decay=0.3"), setting_name("")
        ('learning_rate 1e-3, weight_decay 0.3', 'as configured')
    """
    pairs = [word.partition("=") for word in shlex.split(words)]
    return ", ".join(f"{key.rsplit('.', 1)[-1]} {value}" for key, _, value in pairs) or "as configured"


def chosen_settings(config: DictConfig, case: str, overrides: Sequence[str]) -> dict[str, Setting]:
    """Per model of a comparison's case, the setting that a search chose; empty where none is named.

    Args:
        config: ``compare.settings`` is the file, ``compare.settings_of`` the case in it (None: of the same name),
            ``compare.unsearched`` are models that keep their own settings.
        case: its name.
        overrides: of the user.

    Raises:
        ExperimentError: the file is none of a search, lacks the case or a model, or sets what the user sets, too.
    """
    if config.compare.settings is None:
        return {}
    path = Path(config.compare.settings)
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))["chosen"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExperimentError(f"compare.settings={path} is no search.json of `graphnfn search` ({error})") from error
    name = case if config.compare.settings_of is None else str(config.compare.settings_of)
    if name not in chosen:
        raise ExperimentError(
            f"{path} has no case {name!r}, it has {sorted(chosen)}: search it, or name one in compare.settings_of"
        )
    models = [m for m in config.compare.models if m not in config.compare.unsearched]
    missing = [m for m in models if m not in chosen[name]]
    if missing:
        raise ExperimentError(
            f"{path} has no setting of {', '.join(missing)} for {name!r}: search them with the others, "
            "or name them in compare.unsearched, and they keep their own settings"
        )
    found = {m: Setting(chosen[name][m]["setting"], chosen[name][m]["words"]) for m in models}
    given = {_key(word) for word in overrides}
    twice = sorted({_key(w) for s in found.values() for w in shlex.split(s.words)} & given)
    if twice:
        raise ExperimentError(f"{', '.join(twice)} is given and chosen by {path}: leave one of both out")
    return found


def _key(word: str) -> str:
    return word.split("=", 1)[0].lstrip("+~")
