"""scikit-learn's 8 x 8 digits, split once and for all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

_TEST_IMAGES = 500
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits:
    """1,797 images with values in [0, 1] ``[n, 8, 8]``, their classes, and the rows for training and test."""

    images: Tensor
    labels: Tensor
    train: Tensor
    test: Tensor

    @property
    def standardised(self) -> Tensor:
        """All images as one channel, shifted and scaled by the mean and deviation of the training pixels."""
        pixels = self.images[self.train]
        return ((self.images - pixels.mean()) / pixels.std())[:, None]


@lru_cache(maxsize=1)
def digits() -> Digits:
    """The data set; the split is the same in every zoo.

    Example:
        >>> data = digits()
        >>> data.images.shape, len(data.train), len(data.test)
        (torch.Size([1797, 8, 8]), 1297, 500)
    """
    images, labels = load_digits(return_X_y=True)
    order = torch.from_numpy(np.random.default_rng(_SPLIT_SEED).permutation(len(images)))
    return Digits(
        images=torch.from_numpy(images).float().reshape(-1, 8, 8) / 16,
        labels=torch.from_numpy(labels).long(),
        train=order[_TEST_IMAGES:],
        test=order[:_TEST_IMAGES],
    )
