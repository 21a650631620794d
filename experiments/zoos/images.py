"""Labelled grey images with a fixed split: what the zoos' networks are trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from experiments.errors import ExperimentError
from experiments.zoos.idx import FASHION_MNIST, MNIST, IdxSet

_DIGITS_TEST, _DIGITS_SEED = 500, 0


@dataclass(frozen=True)
class Images:
    """Grey images and their classes.

    Args:
        title: name and size in words.
        images: values in [0, 1], ``[n, h, w]``.
        labels: classes from 0, ``[n]``.
        train: rows for training.
        test: the other rows.
    """

    title: str
    images: Tensor
    labels: Tensor
    train: Tensor
    test: Tensor

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the training pixels; NumPy rounds the same on any number of threads."""
        pixels = self.images[self.train].numpy()
        mean = pixels.mean(dtype=np.float64)
        return torch.tensor(mean, dtype=torch.float32), torch.tensor(_deviation(pixels, mean), dtype=torch.float32)

    def inputs(self, rows: Tensor) -> Tensor:
        """Some images as one channel, shifted and scaled by mean and deviation of the training pixels.

        Args:
            rows: numbers of images, of any shape.

        Returns:
            ``[*rows.shape, 1, h, w]``.
        """
        mean, deviation = self.moments
        return ((self.images[rows] - mean) / deviation).unsqueeze(-3)

    def fill(self, out: Tensor, rows: Tensor) -> None:
        """:meth:`inputs` with the images last.

        Args:
            out: where they go, ``[k, 1, h, w, n]``.
            rows: numbers of images, ``[k, n]``.
        """
        mean, deviation = self.moments
        chosen = self.images.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        torch.sub(chosen.movedim(1, -1).unsqueeze(1), mean, out=out).div_(deviation)


def _deviation(pixels: np.ndarray, mean: float) -> float:
    """Image by image: a copy of all pixels in double precision would be large."""
    squares = sum(np.square(part - mean, dtype=np.float64).sum() for part in np.array_split(pixels, 64))
    return float(np.sqrt(squares / (pixels.size - 1)))


def _digits(folder: Path | None) -> Images:
    if folder is not None:
        raise ExperimentError(f"got the image folder {folder}, but the digits come with scikit-learn: leave it out")
    images, labels = load_digits(return_X_y=True)
    order = torch.from_numpy(np.random.default_rng(_DIGITS_SEED).permutation(len(images)))
    return Images(
        title="scikit-learn digits 8x8",
        images=torch.from_numpy(images).float().reshape(-1, 8, 8) / 16,
        labels=torch.from_numpy(labels).long(),
        train=order[_DIGITS_TEST:],
        test=order[:_DIGITS_TEST],
    )


def _idx(source: IdxSet) -> Callable[[Path | None], Images]:
    def load(folder: Path | None) -> Images:
        parts = source.read(folder)
        images = np.concatenate([parts.train_images, parts.test_images])
        count, (height, width) = len(parts.train_images), images.shape[1:]
        return Images(
            title=f"{source.title} {height}x{width}",
            images=torch.from_numpy(images).float().div_(255),
            labels=torch.from_numpy(np.concatenate([parts.train_labels, parts.test_labels])).long(),
            train=torch.arange(count),
            test=torch.arange(count, len(images)),
        )

    return load


SOURCES: Mapping[str, Callable[[Path | None], Images]] = MappingProxyType(
    {"digits": _digits, "mnist": _idx(MNIST), "fmnist": _idx(FASHION_MNIST)}
)
"""Name -> loader; its argument is the folder to look in, None for the usual places."""


@lru_cache(maxsize=4)
def load_images(name: str, folder: Path | None = None) -> Images:
    """The images of a source, found on this machine; nothing is ever downloaded. The split is the same in every zoo.

    Args:
        name: a key of :data:`SOURCES`.
        folder: where the files are; None looks in the usual places.

    Raises:
        ExperimentError: there is no such source, or its files are missing or damaged.

    Example:
        >>> data = load_images("digits")
        >>> data.images.shape, len(data.train), len(data.test), data.inputs(data.test).shape
        (torch.Size([1797, 8, 8]), 1297, 500, torch.Size([500, 1, 8, 8]))
    """
    if name not in SOURCES:
        raise ExperimentError(f"unknown images {name!r}; known: {', '.join(SOURCES)}")
    return SOURCES[name](folder)
