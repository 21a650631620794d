"""Small CNN Zoo (Unterthiner et al. 2020, arXiv 2002.11448): a matrix of weights, its layout, a table of metrics.

``weights.npy`` holds one flattened network per row, ``layout.csv`` says which columns are which variable, in
TensorFlow's order of axes, ``metrics.csv.gz`` has one row per row of the matrix. The split is no part of the data:
NFN (Zhou et al. 2023) published an order of all rows, and cuts what is left of it at the last checkpoint.
"""

from __future__ import annotations

import gzip
import io
import math
import random
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from converters.public_zoos.listed import SPLITS
from converters.public_zoos.networks import Networks, require_folder
from graphnfn.activations import as_activation
from graphnfn.chain import ChainBuilder
from graphnfn.errors import ConversionError
from graphnfn.spec import NetSpec, SpatialOp
from graphnfn.stack import Stack

FINAL_STEP = 86
"""The last of the checkpoints 0, 1, 2, 3, 20, 40, 60, 80, 86; the only one that published experiments use."""
CONFIG = "config."
"""How names of hyper-parameters begin in ``metrics.csv.gz``; in our tables they do not."""
_SIDES = {"mnist": 28, "fashion_mnist": 28, "cifar10": 32, "svhn_cropped": 32}
_MOST_VARIABLES, _MOST_BYTES = 1000, 1 << 29
_TUPLE, _NUMBER = re.compile(r"\(\s*\d{1,7}\s*,(\s*\d{1,7}\s*,)*\s*(\d{1,7}\s*)?\)"), re.compile(r"\d+")
"""How Python writes a tuple of sizes, e.g. ``(3, 3, 1, 16)`` or ``(16,)``."""


@dataclass(frozen=True)
class Variable:
    """Columns ``start .. stop`` of the matrix: a kernel or a bias of a layer, in TensorFlow's order of axes."""

    layer: str
    kind: str
    start: int
    stop: int
    shape: tuple[int, ...]

    def take(self, rows: np.ndarray) -> Tensor:
        """``[networks, *shape]`` in PyTorch's order: kernels (out, in, height, width), dense matrices (out, in)."""
        values = rows[:, self.start : self.stop].reshape(len(rows), *self.shape)
        axes = {5: (0, 4, 3, 1, 2), 3: (0, 2, 1), 2: (0, 1)}[values.ndim]
        return torch.from_numpy(np.ascontiguousarray(values.transpose(axes)))


@dataclass(frozen=True)
class SmallCNNZooReader:
    """Reads a folder with ``weights.npy``, ``layout.csv`` and ``metrics.csv.gz``.

    Args:
        order: file of row numbers, one a line, that fixes the split; None leaves the zoo without one.
        steps: checkpoints to take, a row is one network at one of them.
        activation: take only these networks, before the split is cut, as Monomial-NFN does; NFN and ScaleGMN cut first.
        stride: of the convolutions, which the files do not tell.

    The published split cuts the final networks in the file's order at n // 2; a shuffle of the first half with
    ``random.Random(0)`` gives 80 % train and 20 % val, the second half is test.

    Example:
        >>> SmallCNNZooReader(order=Path("cifar10_split.csv")).steps
        (86,)
    """

    order: Path | None = None
    steps: tuple[int, ...] = (FINAL_STEP,)
    activation: str | None = None
    stride: int = 2

    def read(self, path: Path) -> Networks:
        """Read the networks of the chosen steps, in the order of the matrix.

        Raises:
            ConversionError: a file is missing, damaged or unsafe, or the files contradict each other.
        """
        require_folder(path)
        matrix = _matrix(path / "weights.npy")
        variables = read_layout(path / "layout.csv", matrix.shape[1])
        metrics = _metrics(path / "metrics.csv.gz", len(matrix))
        if self.activation is not None:
            metrics = metrics.loc[metrics[f"{CONFIG}activation"] == self.activation]
        chosen = metrics.loc[metrics["step"].isin(self.steps)]
        if self.order is not None:
            order = read_order(self.order, len(matrix))
            split = _split_of(metrics, order, len(matrix), set(self.steps) != {FINAL_STEP})
            chosen = chosen.assign(split=split[chosen.index.to_numpy()])
            chosen = chosen.loc[chosen["split"] != ""]
        if not len(chosen):
            have = sorted(metrics["step"].unique().tolist())[:12]
            raise ConversionError(f"{path}: no network is left of steps {self.steps}; the table has steps {have}")
        return self._networks(path, matrix, variables, chosen)

    def _networks(self, path: Path, matrix: np.ndarray, variables: list[Variable], chosen: pd.DataFrame) -> Networks:
        numbers = chosen.index.to_numpy()
        rows = np.asarray(matrix[numbers])
        bad = numbers[~np.isfinite(rows).all(axis=1)]
        if len(bad):
            raise ConversionError(f"{path}: {len(bad)} networks have NaN or infinite weights, rows {bad[:8].tolist()}")
        datasets = set(chosen[f"{CONFIG}dataset"]) if f"{CONFIG}dataset" in chosen else set()
        side = _SIDES.get(str(next(iter(datasets)))) if len(datasets) == 1 else None
        kinds = np.array([str(kind) for kind in chosen[f"{CONFIG}activation"]])
        stacks, number = [], np.zeros(len(chosen), dtype=np.int64)
        for k, kind in enumerate(sorted(set(kinds))):
            spec, names = chain_of(variables, kind, self.stride, side)
            number[kinds == kind] = k
            mine = rows[kinds == kind]
            stacks.append(Stack.pack(spec, {names[v]: v.take(mine) for v in variables}))
        kept = {str(name): chosen[name].to_numpy() for name in chosen if name and not str(name).startswith("Unnamed")}
        table = pd.DataFrame({name.removeprefix(CONFIG): values for name, values in kept.items()})
        table = table.assign(row=numbers, spec=number)
        about = {"layout": "small-cnn-zoo", "source": path.resolve().name, "stride": self.stride}
        return Networks(tuple(stacks), table, about)


def chain_of(
    variables: list[Variable], activation: str, stride: int, side: int | None
) -> tuple[NetSpec, dict[Variable, str]]:
    """The architecture that a layout stands for, and the name of every variable in it.

    Convolutions of stride ``stride`` without padding, global average pooling, dense layers; an activation behind all
    but the last layer.

    Raises:
        ConversionError: a layer lacks its kernel or bias.
    """
    layers: dict[str, dict[str, Variable]] = {}
    for v in variables:
        layers.setdefault(v.layer, {})[v.kind] = v
    for layer, parts in layers.items():
        if set(parts) != {"kernel", "bias"}:
            raise ConversionError(f"layout: layer {layer!r} has {sorted(parts)}; expected a kernel and a bias")
    kernels = [parts["kernel"] for parts in layers.values()]
    into = kernels[0].shape[-2]
    chain = ChainBuilder(into, None if side is None else (into, side, side))
    dense = sum(len(k.shape) == 2 for k in kernels)
    names: dict[Variable, str] = {}
    for i, (kernel, parts) in enumerate(zip(kernels, layers.values(), strict=True)):
        conv = len(kernel.shape) == 4
        first_dense = not conv and 0 < i == len(kernels) - dense
        name = f"conv{i}" if conv else "dense" if dense == 1 else f"dense{i - (len(kernels) - dense)}"
        names[kernel], names[parts["bias"]] = f"{name}.weight", f"{name}.bias"
        if first_dense:
            chain.spatial(SpatialOp("global_avg_pool"))
        if conv:
            shape = (kernel.shape[3], kernel.shape[2], *kernel.shape[:2])
            chain.conv(f"{name}.weight", shape, bias=f"{name}.bias", stride=(stride, stride))
        else:
            chain.linear(f"{name}.weight", kernel.shape[::-1], bias=f"{name}.bias")
        if i < len(kernels) - 1:
            chain.activation(as_activation(activation))
    return chain.build(), names


def read_layout(path: Path, width: int) -> list[Variable]:
    """The variables in ``layout.csv``: columns varname, start_idx, end_idx, shape (a tuple as text, never evaluated).

    Raises:
        ConversionError: it is missing or damaged, or does not fit a matrix of ``width`` columns.
    """
    frame = _csv(path, ("varname", "start_idx", "end_idx", "shape"))
    if not 0 < len(frame) <= _MOST_VARIABLES:
        raise ConversionError(f"{path}: lists {len(frame)} variables; expected 1 to {_MOST_VARIABLES}")
    out: list[Variable] = []
    for varname, start, stop, text in zip(
        *(frame[c] for c in ("varname", "start_idx", "end_idx", "shape")), strict=True
    ):
        layer, _, kind = str(varname).removesuffix(":0").rpartition("/")
        shape = _shape(str(text))
        rank_ok = len(shape) in ((2, 4) if kind == "kernel" else (1,))
        if kind not in ("kernel", "bias") or not rank_ok or not str(varname).endswith(":0"):
            raise ConversionError(
                f"{path}: variable {str(varname)[:60]!r} of shape {str(text)[:60]}; expected .../kernel:0 of 2 or 4 "
                "axes or .../bias:0 of one"
            )
        if not 0 <= start < stop <= width or stop - start != math.prod(shape):
            raise ConversionError(f"{path}: {varname!r} of shape {shape} at {start} .. {stop} of {width} columns")
        out.append(Variable(layer, kind, int(start), int(stop), shape))
    places = sorted((v.start, v.stop) for v in out)
    if [a for a, _ in places] != [0, *(b for _, b in places[:-1])] or places[-1][1] != width:
        raise ConversionError(f"{path}: the variables overlap, or do not cover the {width} columns of weights.npy")
    return out


def read_order(path: Path, rows: int) -> np.ndarray:
    """Row numbers, one a line, no header: the published files begin with a line ``0`` that counts as a row as well.

    Raises:
        ConversionError: it is missing or damaged, or a number is out of range.
    """
    try:
        order = np.array([int(word) for word in _bytes(path).split()], dtype=np.int64)
    except ConversionError:
        raise
    except (OSError, ValueError, OverflowError) as error:
        raise ConversionError(f"{path}: expected one row number a line ({str(error)[:200]})") from error
    if not len(order) or order.min() < 0 or order.max() >= rows:
        raise ConversionError(f"{path}: expected row numbers 0 to {rows - 1}, one a line; is it of another data set?")
    return order


def cut(count: int) -> tuple[list[int], list[int], list[int]]:
    """Places of train, val and test among ``count`` final networks in the published order.

    Example:
        >>> [len(part) for part in cut(15000)]
        [6000, 1500, 7500]
    """
    half = int(0.5 * count)
    first = list(range(half))
    random.Random(0).shuffle(first)
    end = int(0.8 * half)
    return first[:end], first[end:], list(range(half, count))


def _split_of(metrics: pd.DataFrame, order: np.ndarray, rows: int, by_network: bool) -> np.ndarray:
    """Per row of the matrix its split, "" for none; with ``by_network`` that of its network's final row."""
    final = metrics.index.to_numpy()[metrics["step"].to_numpy() == FINAL_STEP]
    left = order[np.isin(order, final)]
    split = np.full(rows, "", dtype=object)
    for name, places in zip(SPLITS, cut(len(left)), strict=True):
        for row in left[places]:
            split[row] = split[row] or name
    if by_network:
        if "modeldir" not in metrics:
            raise ConversionError("metrics.csv.gz has no column 'modeldir', so other steps cannot be split by network")
        names = metrics["modeldir"].tolist()
        known = {name: split[row] for row, name in zip(metrics.index, names, strict=True) if split[row]}
        split[metrics.index.to_numpy()] = [known.get(name, "") for name in names]
    return split


def _shape(text: str) -> tuple[int, ...]:
    if _TUPLE.fullmatch(text):
        shape = tuple(int(n) for n in _NUMBER.findall(text))
        if all(0 < n < 1 << 20 for n in shape):
            return shape
    raise ConversionError(f"layout: shape {text[:60]!r}; expected a tuple of sizes such as '(3, 3, 1, 16)'")


def _matrix(path: Path) -> np.ndarray:
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise ConversionError(f"{path}: missing, damaged or no plain NumPy array ({str(error)[:200]})") from error
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise ConversionError(f"{path}: expected a matrix of floats, one network a row; copy the file again")
    return matrix


def _metrics(path: Path, rows: int) -> pd.DataFrame:
    frame = _csv(path, ("step", f"{CONFIG}activation", "test_accuracy"))
    if len(frame) != rows:
        raise ConversionError(f"{path}: {len(frame)} rows; weights.npy has {rows}: they belong to different zoos")
    return frame


def _csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(io.BytesIO(_bytes(path)), engine="pyarrow")  # reads the very floats that were written
    except ConversionError:
        raise
    except (OSError, ValueError, EOFError, zlib.error) as error:
        told = " ".join(str(error).split())[:200]
        raise ConversionError(f"{path}: missing, or no table of comma-separated values ({told})") from error
    missing = [c for c in columns if c not in frame]
    numbers = [c for c in columns if c in ("step", "start_idx", "end_idx")]
    if missing or any(not pd.api.types.is_integer_dtype(frame[c]) for c in numbers):
        raise ConversionError(f"{path}: lacks columns {missing or numbers} (as whole numbers): {list(frame)[:24]}")
    return frame


def _bytes(path: Path) -> bytes:
    """What is in a file, unpacked if it is packed, but no more than a published table can have."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ConversionError(f"{path}: holds more than {_MOST_BYTES} bytes; expected a table of a zoo")
    return data
