"""SIRENs of NFN (Zhou et al. 2023, arXiv 2302.14040): ``randinit_smaller_<label>s/net<image>.pth``.

Further fits of the same images lie in ``randinit_smaller_aug<i>_<label>s``. Splits are cuts of the image numbers, which
count training and test images of the data set together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.public_zoos.listed import SPLITS
from converters.public_zoos.networks import Network, Networks, collect, each_network, require_folder
from converters.public_zoos.sirens import (
    image_numbers,
    load_dict,
    require_sirens,
    save_siren,
    siren_of,
    split_names,
)
from graphnfn.errors import ConversionError, ZooError
from graphnfn.zoo import Zoo
from graphnfn.zoo.files import fresh_folder

KEYS = re.compile(r"net\.(\d+)(?:\.linear)?\.(weight|bias)")
_FILE = re.compile(r"net(\d{1,12})\.pth")
_LABEL_ANYWHERE = re.compile(r"_(\d)s")


@dataclass(frozen=True)
class NFNSirenReader:
    """Reads the folder that holds ``<prefix>_0s`` to ``<prefix>_9s``.

    Args:
        prefix: how the folders begin.
        copies: further fits ``<prefix>_aug0_*`` ... to take; only those of training images, as in the published code.
        split_points: image numbers where val and test begin.
        omega: frequency of the sine layers.

    Example:
        >>> NFNSirenReader().split_points
        (45000, 50000)
    """

    prefix: str = "randinit_smaller"
    copies: int = 0
    split_points: tuple[int, ...] = (45000, 50000)
    omega: float = 30.0

    def read(self, path: Path) -> Networks:
        """Read the first fits in the order of the image numbers, then every further fit.

        Raises:
            ConversionError: a folder or file is missing, damaged or unsafe, or an image number occurs twice.
        """
        require_folder(path)
        if len(self.split_points) != 2 or not 0 <= self.split_points[0] <= self.split_points[1]:
            raise ConversionError(f"split_points={self.split_points}; expected two image numbers such as 45000,50000")
        about = {"layout": "nfn-siren", "source": path.resolve().name, "output_offset": 0.0, "omega_0": self.omega}
        return collect(self._networks(path), {**about, "split_points": list(self.split_points)})

    def _networks(self, root: Path) -> Iterator[Network]:
        for copy in range(self.copies + 1):
            prefix = f"{self.prefix}_aug{copy - 1}" if copy else self.prefix
            for image, (file, label) in sorted(_files(root, prefix).items()):
                split = SPLITS[sum(image >= point for point in self.split_points)]
                if copy and split != "train":
                    continue
                spec, tensors = siren_of(load_dict(file), KEYS, self.omega, file)
                row = {"label": label, "split": split, "image": image, "copy": copy}
                yield Network(spec, tensors, {**row, "file": file.relative_to(root).as_posix()})


@dataclass(frozen=True)
class NFNSirenWriter:
    """Writes ``randinit_smaller_<label>s/net<number>.pth``.

    Networks are numbered train first, then val, then test, because the loaders cut by number; a zoo whose column
    ``image`` is numbered like this keeps its numbers.

    Example:
        >>> NFNSirenWriter().prefix
        'randinit_smaller'
    """

    prefix: str = "randinit_smaller"

    def write(self, zoo: Zoo, folder: Path) -> str:
        """Write the whole zoo; returns what to tell the loaders.

        Raises:
            ZooError: the networks are no SIRENs of omega 30, the table lacks ``label`` or ``split``, a label has more
                than one digit, or the folder's path would mislead the loaders.
        """
        require_sirens(zoo, 30.0, ("label", "split"))
        labels = zoo.labels("label").tolist()
        if not set(labels) <= set(range(10)):
            raise ZooError(f"labels {sorted(set(labels))[:12]}; this layout holds classes 0 to 9")
        trap = _LABEL_ANYWHERE.search(f"{folder.resolve()}/")
        if trap:
            raise ZooError(
                f"the published loaders would read {trap[0]!r} in {folder} as a label: choose another folder"
            )
        numbers, points = _numbered(zoo)
        with fresh_folder(folder) as new:
            for row, spec, tensors in each_network(zoo):
                hidden = [f"net.{i}.linear" for i in range(len(spec.blocks) - 1)]
                names = [*hidden, f"net.{len(hidden)}"]
                save_siren(spec, tensors, names, new / f"{self.prefix}_{labels[row]}s" / f"net{numbers[row]}.pth", {})
        return f"data_path={folder} prefix={self.prefix} split_points={points}"


def _numbered(zoo: Zoo) -> tuple[list[int], list[int]]:
    """Per row its number, contiguous from 0 with all of train before val before test; and where these begin."""
    rank = np.array([SPLITS.index(split) for split in split_names(zoo)])
    images = np.array(image_numbers(zoo))
    order = np.lexsort((images, rank))
    numbers = np.empty(len(zoo), dtype=np.int64)
    numbers[order] = np.arange(len(zoo))
    return numbers.tolist(), [int((rank < 1).sum()), int((rank < 2).sum())]


def _files(root: Path, prefix: str) -> dict[int, tuple[Path, int]]:
    """Image number -> file and label, from folders called exactly ``<prefix>_<digit>s``."""
    out: dict[int, tuple[Path, int]] = {}
    for label in range(10):
        for file in sorted((root / f"{prefix}_{label}s").glob("*.pth")):
            found = _FILE.fullmatch(file.name)
            if found is None:
                raise ConversionError(f"{file}: expected files called net<number>.pth")
            image = int(found[1])
            if image in out:
                raise ConversionError(f"{file}: image {image} has label {out[image][1]} as well: remove one")
            out[image] = (file, label)
    if not out:
        raise ConversionError(f"{root}: no folder {prefix}_0s ... {prefix}_9s with net<number>.pth in it")
    return out
