"""Zoos of small CNNs trained on images with random hyper-parameters (after Unterthiner et al. 2020)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from experiments.zoos.chunks import Chunk, build_in_chunks
from experiments.zoos.classifiers import Group, train_classifiers
from experiments.zoos.images import load_images
from experiments.zoos.plans import SMALL_CNN_ZOO, CNNRanges, draw_plan
from graphnfn.chain import small_cnn_spec
from graphnfn.spec import NetSpec
from graphnfn.zoo import Zoo

_CHANNELS, _CLASSES = (1, 16, 16, 16), 10


@dataclass(frozen=True, kw_only=True)
class CNNZoo:
    """A builder of CNNs 1-16-16-16 (3 x 3, global average pool, dense layer; 4,970 parameters).

    Args:
        data: name of the images, see :mod:`experiments.zoos.images`.
        stride: of the convolutions.
        ranges: of the hyper-parameters.

    Example:
        >>> CNNZoo(data="fmnist", stride=2, ranges=SMALL_CNN_ZOO).spec("relu", 28).num_params
        4970
    """

    data: str
    stride: int
    ranges: CNNRanges

    def spec(self, activation: str, side: int) -> NetSpec:
        """The architecture of the networks for square images."""
        return small_cnn_spec(_CHANNELS, _CLASSES, activation, stride=self.stride, input_shape=(1, side, side))

    def __call__(
        self,
        folder: str | Path,
        size: int,
        *,
        images: Path | None = None,
        seed: int = 0,
        chunk: int = 50,
        progress: bool = True,
    ) -> Zoo:
        """Train ``size`` networks.

        Network i depends on ``seed``, the settings and i only, to the bit on one machine. Call it again after a kill.

        Args:
            folder: of the zoo.
            size: number of networks.
            images: folder of the images; None looks in the usual places.
            seed: of everything random.
            chunk: networks trained at once.
            progress: show a progress bar.

        Raises:
            ZooError: the folder holds something else.
            ExperimentError: the images are missing.
        """
        about = {
            "builder": f"{self.data}-cnn",
            "seed": seed,
            "ranges": dataclasses.asdict(self.ranges),
            "input": f"{load_images(self.data, images).title}, standardised with mean and deviation of the training "
            "pixels",
        }
        make = partial(_make, zoo=self, seed=seed, images=images)
        return build_in_chunks(folder, size, make, chunk=chunk, about=about, progress=progress)


DIGITS_CNN = CNNZoo(data="digits", stride=1, ranges=CNNRanges())
MNIST_CNN = CNNZoo(data="mnist", stride=2, ranges=SMALL_CNN_ZOO)
FMNIST_CNN = CNNZoo(data="fmnist", stride=2, ranges=SMALL_CNN_ZOO)


def _make(numbers: range, *, zoo: CNNZoo, seed: int, images: Path | None) -> Chunk:
    data = load_images(zoo.data, images)
    plans = [draw_plan(i, seed, zoo.ranges) for i in numbers]
    by_kind = {kind: [p for p in plans if p.activation == kind] for kind in zoo.ranges.activation}
    side = data.images.shape[-1]
    groups = [Group(zoo.spec(kind, side), chosen) for kind, chosen in by_kind.items() if chosen]
    return train_classifiers(groups, data, seed=seed, batch=zoo.ranges.batch)
