"""Zoos by name."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from experiments.errors import ExperimentError
from experiments.zoos import builder_named
from experiments.zoos.engines import ThreadEngine, using
from experiments.zoos.engines_ray import RayEngine

ENGINES = {"threads": ThreadEngine, "ray": RayEngine}
"""What trains networks; the zoo is the same."""


def build_zoo(
    name: str, folder: Path, *, size: int, seed: int, images: Path | None = None, engine: str = "threads"
) -> None:
    """Build a zoo, or go on with one that was begun.

    Args:
        name: see :func:`experiments.zoos.builder_named`.
        folder: where.
        size: number of networks.
        seed: of all randomness.
        images: folder of the images; None looks in the usual places.
        engine: a key of :data:`ENGINES`.

    Raises:
        ExperimentError: there is no such builder or engine, the size is not positive, or the images are missing.
        ZooError: the folder cannot be used.
    """
    builder = builder_named(name)
    if size < 1:
        raise ExperimentError(f"got size {size}; a zoo has one network at least")
    if engine not in ENGINES:
        raise ExperimentError(f"unknown engine {engine!r}; known: {', '.join(ENGINES)}")
    with using(ENGINES[engine]()):
        builder(folder, size=size, seed=seed, images=images)


def ensure_zoo(config: DictConfig) -> bool:
    """Build the zoo that a configuration names where it is missing; True where that was done."""
    folder = Path(config.zoo.folder)
    if config.zoo.builder is None or (folder / "spec.json").is_file():
        return False
    build_zoo(config.zoo.builder, folder, size=config.zoo.size, seed=config.zoo.seed)
    return True
