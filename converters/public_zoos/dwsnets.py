"""INRs of DWSNets (Navon et al. 2023, arXiv 2301.12780), MNIST and Fashion-MNIST: one file per image, a JSON of splits.

MNIST: ``mnist_png_{training,testing}_<digit>_<image>/checkpoints/model_final.pth`` and ``{"train": {"path": [...],
"label": ["3", ...]}, "val": ..., "test": ...}``. Fashion-MNIST: ``{train,test}/model_<image>.pth``, whose state dict
has the label beside the weights, and ``{"train": [path, ...], ...}``. Paths in the JSON are those of the machine that
wrote it, so files are found by the end of their paths.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.public_zoos.listed import SPLITS, Entry, listed
from converters.public_zoos.networks import (
    Network,
    Networks,
    collect,
    each_network,
    require_folder,
    whole_number,
)
from converters.public_zoos.sirens import (
    image_numbers,
    load_dict,
    require_sirens,
    save_siren,
    siren_of,
    split_names,
)
from graphnfn.errors import ConversionError
from graphnfn.zoo import Zoo
from graphnfn.zoo.files import fresh_folder

KEYS = re.compile(r"seq\.(\d+)\.(weight|bias)")
MNIST = re.compile(r"mnist_png_(training|testing)_(\d+)_(\d+)")
FMNIST = re.compile(r"model_(\d+)\.pth")
OFFSET = 0.5
"""The published networks compute their last layer plus this."""


@dataclass(frozen=True)
class DWSNetsReader:
    """Reads the folder of the networks.

    Args:
        splits: the JSON; None takes ``splits.json`` or ``mnist_splits.json`` in the folder, and where there is none
            the folders ``training`` and ``testing`` themselves (no val).
        omega: frequency of the sine layers.

    Example:
        >>> DWSNetsReader().omega
        30.0
    """

    splits: Path | None = None
    omega: float = 30.0

    def read(self, path: Path) -> Networks:
        """Read all listed networks, in the order of the list.

        Raises:
            ConversionError: a file is missing, damaged or unsafe, or has no label.
        """
        require_folder(path)
        known = [p for p in (path / "splits.json", path / "mnist_splits.json") if p.is_file()]
        splits = self.splits or (known[0] if known else None)
        entries = listed(splits, path, ("label",)) if splits else _found(path)
        about = {"layout": "dwsnets", "source": path.resolve().name, "output_offset": OFFSET, "omega_0": self.omega}
        return collect((self._network(path, entry) for entry in entries), about)

    def _network(self, root: Path, entry: Entry) -> Network:
        state = load_dict(entry.file)
        inside = state.pop("label", None)
        facts = _facts(entry.file)
        label = next((x for x in (entry.facts.get("label"), inside, facts.pop("label", None)) if x is not None), None)
        if label is None:
            raise ConversionError(f"{entry.file}: no label in the list of splits, the file or its name; add one")
        spec, tensors = siren_of(state, KEYS, self.omega, entry.file)
        name = entry.file.relative_to(root).as_posix()
        row = {"label": whole_number(label, f"the label of {name}"), "split": entry.split, **facts, "file": name}
        return Network(spec, tensors, row)


@dataclass(frozen=True)
class DWSNetsMnistWriter:
    """Writes the MNIST form: a folder per network and ``mnist_splits.json``.

    Args:
        prefix: what paths in the JSON begin with; None: the folder's absolute path, which DWSNets, neural graphs and
            ScaleGMN all take. neural graphs' own is ``mnist-inrs``, ScaleGMN's ``data/mnist-inrs``.

    Example:
        >>> DWSNetsMnistWriter(prefix="data/mnist-inrs").prefix
        'data/mnist-inrs'
    """

    prefix: str | None = None

    def write(self, zoo: Zoo, folder: Path) -> str:
        """Write the whole zoo; returns what to tell the loaders.

        Raises:
            ZooError: the networks are no SIRENs of omega 30, or the table lacks ``label`` or ``split``.
        """
        require_sirens(zoo, 30.0, ("label", "split"))
        labels, splits = zoo.labels("label").tolist(), split_names(zoo)
        prefix = self.prefix or folder.resolve().as_posix()
        lists: dict[str, dict[str, list[str]]] = {name: {"path": [], "label": []} for name in SPLITS}
        names = [
            f"mnist_png_{part}ing_{label}_{image}/checkpoints/model_final.pth"
            for label, (part, image) in zip(labels, _images(zoo, splits), strict=True)
        ]
        for name, split, label in zip(names, splits, labels, strict=True):
            lists[split]["path"].append(f"{prefix}/{name}")
            lists[split]["label"].append(str(label))
        with fresh_folder(folder) as new:
            for row, spec, tensors in each_network(zoo):
                save_siren(spec, tensors, [f"seq.{i}" for i in range(len(spec.blocks))], new / names[row], {})
            (new / "mnist_splits.json").write_text(json.dumps(lists), encoding="utf-8")
        return f"dataset folder={folder} splits={folder / 'mnist_splits.json'} {_offset(zoo)}"


@dataclass(frozen=True)
class DWSNetsFmnistWriter:
    """Writes the Fashion-MNIST form: ``{train,test}/model_<image>.pth`` with labels inside, and ``splits.json``.

    Args:
        prefix: what paths in the JSON begin with; loaders use their last two parts only.

    Example:
        >>> DWSNetsFmnistWriter().prefix
        'fmnist_inrs'
    """

    prefix: str = "fmnist_inrs"

    def write(self, zoo: Zoo, folder: Path) -> str:
        """Write the whole zoo; returns what to tell the loaders.

        Raises:
            ZooError: the networks are no SIRENs of omega 30, or the table lacks ``label`` or ``split``.
        """
        require_sirens(zoo, 30.0, ("label", "split"))
        labels, splits = zoo.labels("label").tolist(), split_names(zoo)
        names = [f"{part}/model_{image}.pth" for part, image in _images(zoo, splits)]
        lists = {s: [f"{self.prefix}/{n}" for n, mine in zip(names, splits, strict=True) if mine == s] for s in SPLITS}
        with fresh_folder(folder) as new:
            for row, spec, tensors in each_network(zoo):
                layers = [f"seq.{i}" for i in range(len(spec.blocks))]
                save_siren(spec, tensors, layers, new / names[row], {"label": labels[row]})
            (new / "splits.json").write_text(json.dumps(lists), encoding="utf-8")
        return f"dataset folder={folder} splits={folder / 'splits.json'} {_offset(zoo)}"


def _images(zoo: Zoo, splits: list[str]) -> list[tuple[str, int]]:
    """Per network its set (train or test) and image number: as in the table where these tell networks apart."""
    own = ["test" if split == "test" else "train" for split in splits]
    if {"image", "image_set"} <= set(zoo.table.columns) and not zoo.table["image"].isna().to_numpy().any():
        known = list(zip(zoo.table["image_set"].astype(str), zoo.labels("image").tolist(), strict=True))
        if len(set(known)) == len(known) and all(part in ("train", "test") and n >= 0 for part, n in known):
            return known
    return list(zip(own, image_numbers(zoo), strict=True))


def _offset(zoo: Zoo) -> str:
    own = zoo.about.get("output_offset", 0.0)
    return "" if own == OFFSET else f"(published code renders last layer + {OFFSET}; this zoo's networks + {own})"


def _facts(file: Path) -> dict[str, Any]:
    """What the names of file and folders tell: image number, the set it is from, and for MNIST the label."""
    folder = MNIST.fullmatch(file.parent.parent.name)
    if folder:
        part = "train" if folder[1] == "training" else "test"
        return {"label": folder[2], "image": int(folder[3][:18]), "image_set": part}
    name = FMNIST.fullmatch(file.name)
    if name and file.parent.name in ("train", "test"):
        return {"image": int(name[1][:18]), "image_set": file.parent.name}
    return {}


def _found(root: Path) -> list[Entry]:
    """Networks without a list: what is in training folders is train, what is in testing folders is test."""
    mnist = sorted(root.glob("mnist_png_*/checkpoints/*.pth"))
    files = mnist or sorted(p for part in ("train", "test") for p in root.glob(f"{part}/model_*.pth"))
    return [Entry(f, _facts(f).get("image_set", "train"), {}) for f in files]
