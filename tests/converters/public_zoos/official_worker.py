"""Run in a process of its own: an official loader reads an exported zoo, and what it gives is saved.

``python official_worker.py REPOSITORY CASE FOLDER OUT`` where REPOSITORY is a clone, its code unmodified. Imports that
it needs for pictures and logging only are stubbed.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STUBS = (
    "torchvision", "torchvision.transforms", "torchvision.datasets", "torchvision.models",
    "torchvision.models.vision_transformer", "rff", "rff.layers", "cv2", "wandb", "hydra", "hydra.utils",
    "experiments.transformer_generalization", "experiments.transformer_generalization.utils",
)  # fmt: skip
SPLITS = ("train", "val", "test")
Row = tuple[str, list[Tensor], list[Tensor], float]


# by its path: some official codes have a package called experiments, too
Stub = runpy.run_path(str(Path(__file__).parents[3] / "experiments" / "peers" / "stubs.py"))["Stub"]


def _loaded(module: str, name: str, splits: tuple[str, ...] = SPLITS, **settings: Any) -> Iterator[tuple[str, Any]]:
    """Every split's items of a data set class; ``split`` in a setting is replaced by the split."""
    kind = getattr(importlib.import_module(module), name)
    for split in splits:
        words = {k: split if v == "split" else v for k, v in settings.items()}
        data = kind(**words)
        for i in range(len(data)):
            yield split, data[i]


def _channels(items: Iterator[tuple[str, Any]]) -> Iterator[Row]:
    """NFN's items: ((weights, biases), label) with a leading feature axis."""
    for split, ((weights, biases), label) in items:
        yield split, [torch.as_tensor(w)[0] for w in weights], [torch.as_tensor(b)[0] for b in biases], float(label)


def _turned(items: Iterator[tuple[str, Any]]) -> Iterator[Row]:
    """DWSNets' batches: (in, out, 1) weights."""
    for split, batch in items:
        weights, biases = [w.squeeze(-1).T for w in batch.weights], [b.squeeze(-1) for b in batch.biases]
        yield split, weights, biases, float(batch.label)


def _plain(items: Iterator[tuple[str, Any]]) -> Iterator[Row]:
    for split, batch in items:
        parts = [[torch.as_tensor(t) for t in part] for part in (batch.weights, batch.biases)]
        yield split, *parts, float(batch.y)


def rows(case: str, folder: Path) -> Iterator[Row]:
    """What the loader of a case gives."""
    cnn, order = str(folder), str(folder / "split.csv")
    points = tuple(int(n) for n in (folder / "points").read_text().split()) if (folder / "points").is_file() else ()
    dws = {"layer_layout": [2, 6, 5, 1], "data_format": "wb", "switch_to_canon": False, "split": "split"}
    mnist, fmnist = str(folder / "mnist_splits.json"), str(folder / "splits.json")
    if case == "nfn-cnn":
        return _channels(_loaded("data_utils", "ZooDataset", data_path=cnn, mode="split", idcs_file=order))
    if case == "nfn-siren":
        words = {"prefix": "randinit_smaller", "split": "split", "split_points": points}
        return _channels(_loaded("data_utils", "SirenDataset", data_path=cnn, **words))
    if case == "neural-graphs-cnn":
        words = {"data_path": cnn, "split": "split", "idcs_file": order, "data_format": "nfn"}
        return _plain(_loaded("experiments.data_generalization", "NFNZooDataset", **words))
    if case == "neural-graphs-mnist":
        words = {"dataset_dir": str(folder.parent), "splits_path": f"{folder.name}/mnist_splits.json", "split": "split"}
        return _turned(_loaded("experiments.data", "INRDataset", **words))
    if case == "dwsnets-mnist":
        return _turned(_loaded("experiments.data", "INRDataset", path=mnist, split="split"))
    if case == "scalegmn-cnn":
        words = {
            "dataset": "cifar10", "dataset_path": cnn, "data_path": f"{cnn}/weights.npy", "split": "split",
            "metrics_path": f"{cnn}/metrics.csv.gz", "layout_path": f"{cnn}/layout.csv", "activation_function": None,
            "idcs_file": order, "layer_layout": [1, 4, 3, 10], "data_format": "nfn",
        }  # fmt: skip
        return _plain(_loaded("src.data.cifar10_dataset", "NFNZooDataset", **words))
    if case == "scalegmn-mnist":
        words = {"dataset": "mnist", "dataset_path": cnn, "split_path": mnist, **dws}
        return _turned(_loaded("src.data.mnist_inr_dataset", "LabeledINRDataset", **words))
    if case == "scalegmn-fmnist":
        words = {"dataset": "fmnist", "dataset_path": f"{cnn}/", "split_path": fmnist, **dws}
        return _turned(_loaded("src.data.fmnist_inr_dataset", "LabeledFashionMnistINRDataset", **words))
    assert case == "scalegmn-siren"
    words = {"dataset": "cifar", "dataset_path": cnn, "split_points": points, **dws}
    return _turned(_loaded("src.data.cifar_inr_dataset", "CifarINRDataset", **words))


if __name__ == "__main__":
    for stubbed in STUBS:
        sys.modules[stubbed] = Stub(stubbed)
    repository, chosen, zoo, out = sys.argv[1:]
    sys.path[:0] = [repository, f"{repository}/experiments"]
    torch.save(list(rows(chosen, Path(zoo))), out)
