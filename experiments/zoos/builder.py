"""What all zoo builders share: networks trained on labelled images, chunk by chunk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from experiments.zoos.chunks import Chunk, build_in_chunks
from experiments.zoos.images import Images, load_images
from graphnfn.zoo import Zoo


@dataclass(frozen=True, kw_only=True)
class Builder(ABC):
    """A builder of zoos; its settings are its fields.

    Args:
        data: name of the images, see :mod:`experiments.zoos.images`.
        width: of the hidden layers; None where they have no common width.
        fits: networks of every image; None where a network is not that of one image.
    """

    data: str
    width: int | None = None
    fits: int | None = None
    kind: ClassVar[str]
    """What is built from the images: cnn, siren, wild."""
    chunk: ClassVar[int]
    """Networks made before they are written."""

    @abstractmethod
    def about(self, images: Images) -> dict[str, Any]:
        """JSON facts that say what is built, beside its name and the seed."""

    def other_width(self, usual: int) -> dict[str, int]:
        """The width as a fact, where it is not the usual one: facts of zoos that exist stay as they are."""
        return {} if self.width is None or self.width == usual else {"width": self.width}

    @abstractmethod
    def make(self, numbers: range, images: Images, seed: int) -> Chunk:
        """Some networks; what is made must not depend on the range."""

    def __call__(
        self,
        folder: str | Path,
        size: int,
        *,
        images: Path | None = None,
        seed: int = 0,
        chunk: int | None = None,
        progress: bool = True,
    ) -> Zoo:
        """Train ``size`` networks.

        Network i depends on ``seed``, the settings and i only, to the bit on one machine with one PyTorch and one C
        compiler (or none). Call it again after a kill.

        Args:
            folder: of the zoo.
            size: number of networks.
            images: folder of the images; None looks in the usual places.
            seed: of everything random.
            chunk: networks made before they are written; None takes the builder's own number.
            progress: show a progress bar.

        Raises:
            ZooError: the folder holds something else.
            ExperimentError: the images are missing.
        """
        facts = self.about(load_images(self.data, images))
        about = {"builder": f"{self.data}-{self.kind}", "seed": seed, **facts}
        make = partial(_make, builder=self, folder=images, seed=seed)
        size_of_chunk = self.chunk if chunk is None else chunk
        return build_in_chunks(folder, size, make, chunk=size_of_chunk, about=about, progress=progress)


def _make(numbers: range, *, builder: Builder, folder: Path | None, seed: int) -> Chunk:
    """On a worker: images are loaded there, once."""
    return builder.make(numbers, load_images(builder.data, folder), seed)


def standardised(images: Images) -> str:
    """How classifiers see the images, in words."""
    return f"{images.title}, standardised with mean and deviation of the training pixels"
