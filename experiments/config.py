"""Configurations: Hydra composes them from ``experiments/conf`` and ``key=value`` overrides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.errors import ExperimentError

# ${not:KEY}: one setting may switch on what another one switches off.
OmegaConf.register_new_resolver("not", lambda value: not value, replace=True)


def load(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration with the given overrides, such as ``model=native`` or ``trainer.epochs=20``.

    Raises:
        ExperimentError: an override is not understood, or names what does not exist.

    Example:
        >>> config = load(["model=statnn", "trainer.epochs=3"])
        >>> config.model.name, config.trainer.epochs
        ('statnn', 3)
    """
    try:
        with initialize_config_module("experiments.conf", version_base="1.3"):
            config = compose("config", overrides=list(overrides))
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ExperimentError(f"the configuration {' '.join(overrides)!r} cannot be composed: {reason}") from error
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ExperimentError(f"the configuration lacks {', '.join(missing)}: give it as {missing[0]}=VALUE")
    return config


def make(node: DictConfig, **arguments: Any) -> Any:
    """Build the object that a configuration node names in ``_target_``.

    Raises:
        ExperimentError: it cannot be built; says why.
    """
    try:
        function = instantiate(node, _convert_="all", _partial_=True)  # Hydra would turn specs into configs
    except HydraException as error:
        reason = " ".join(str(error).split())
        raise ExperimentError(f"{node.get('_target_')} cannot be found: {reason}") from error
    try:
        return function(**arguments)
    except TypeError as error:
        raise ExperimentError(f"{node.get('_target_')} does not take these arguments: {error}") from error


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain dicts, lists and numbers."""
    out = OmegaConf.to_container(config, resolve=True)
    assert isinstance(out, dict)
    return {str(key): value for key, value in out.items()}


def fingerprint(content: dict[str, Any]) -> str:
    """A short name for a configuration: equal for equal content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
