"""Zoos of small CNNs trained on images with random hyper-parameters (after Unterthiner et al. 2020)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from experiments.zoos.builder import Builder, standardised
from experiments.zoos.chunks import Chunk
from experiments.zoos.classifiers import Group, train_classifiers
from experiments.zoos.images import Images
from experiments.zoos.plans import SMALL_CNN_ZOO, CNNRanges, draw_plan
from graphnfn.chain import small_cnn_spec
from graphnfn.spec import NetSpec

_WIDTH, _CLASSES = 16, 10


@dataclass(frozen=True, kw_only=True)
class CNNZoo(Builder):
    """A builder of CNNs 1-width-width-width (3 x 3, global average pool, dense layer; 4,970 parameters at 16).

    Args:
        data: name of the images, see :mod:`experiments.zoos.images`.
        stride: of the convolutions.
        ranges: of the hyper-parameters.
        width: channels of each convolution.

    Example:
        >>> CNNZoo(data="fmnist", stride=2, ranges=SMALL_CNN_ZOO).spec("relu", 28).num_params
        4970
    """

    kind = "cnn"
    chunk = 50
    stride: int
    ranges: CNNRanges
    width: int = _WIDTH

    def spec(self, activation: str, side: int) -> NetSpec:
        """The architecture of the networks for square images."""
        channels = (1, *(self.width,) * 3)
        return small_cnn_spec(channels, _CLASSES, activation, stride=self.stride, input_shape=(1, side, side))

    def about(self, images: Images) -> dict[str, Any]:
        facts = {"ranges": dataclasses.asdict(self.ranges), "input": standardised(images)}
        return facts | self.other_width(_WIDTH)

    def make(self, numbers: range, images: Images, seed: int) -> Chunk:
        plans = [draw_plan(i, seed, self.ranges) for i in numbers]
        by_kind = {kind: [p for p in plans if p.activation == kind] for kind in self.ranges.activation}
        side = images.images.shape[-1]
        groups = [Group(self.spec(kind, side), chosen) for kind, chosen in by_kind.items() if chosen]
        return train_classifiers(groups, images, seed=seed, batch=self.ranges.batch)


DIGITS_CNN = CNNZoo(data="digits", stride=1, ranges=CNNRanges())
MNIST_CNN = CNNZoo(data="mnist", stride=2, ranges=SMALL_CNN_ZOO)
FMNIST_CNN = CNNZoo(data="fmnist", stride=2, ranges=SMALL_CNN_ZOO)
