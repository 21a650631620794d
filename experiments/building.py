"""Zoos by name."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from experiments.errors import ExperimentError
from experiments.zoos import BUILDERS


def build_zoo(name: str, folder: Path, *, size: int, seed: int) -> None:
    """Build a zoo, or go on with one that was begun.

    Args:
        name: a key of ``experiments.zoos.BUILDERS``.
        folder: where.
        size: number of networks.
        seed: of all randomness.

    Raises:
        ExperimentError: there is no such builder, or the size is not positive.
        ZooError: the folder cannot be used.
    """
    if name not in BUILDERS:
        raise ExperimentError(f"unknown zoo {name!r}; known: {', '.join(BUILDERS)}")
    if size < 1:
        raise ExperimentError(f"got size {size}; a zoo has one network at least")
    BUILDERS[name](folder, size=size, seed=seed)


def ensure_zoo(config: DictConfig) -> bool:
    """Build the zoo that a configuration names where it is missing; True where that was done."""
    folder = Path(config.zoo.folder)
    if config.zoo.builder is None or (folder / "spec.json").is_file():
        return False
    build_zoo(config.zoo.builder, folder, size=config.zoo.size, seed=config.zoo.seed)
    return True
