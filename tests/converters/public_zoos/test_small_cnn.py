"""The Small CNN Zoo's layout: axes, order of rows, the published split, and hostile files."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from converters.public_zoos import export_zoo, import_zoo
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.errors import ConversionError, GraphNFNError, ZooError
from graphnfn.functional import run
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo

STEPS = (0, 1, 2, 3, 20, 40, 60, 80, 86)
NETS = 20
SHAPES = {"conv0": (5, 1, 3, 3), "conv1": (4, 5, 3, 3), "dense": (10, 4)}
KERAS = {"conv0": "sequential/conv2d", "conv1": "sequential/conv2d_1", "dense": "sequential/dense"}


def keras_axes(tensor: Tensor) -> np.ndarray:
    """A kernel as TensorFlow keeps it: (height, width, in, out), dense (in, out)."""
    return tensor.numpy().transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[tensor.dim()])


@pytest.fixture
def networks() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    parts = {f"{n}.weight": s for n, s in SHAPES.items()} | {f"{n}.bias": s[:1] for n, s in SHAPES.items()}
    rows = NETS * len(STEPS)
    return [{name: torch.randn(shape, generator=generator) for name, shape in parts.items()} for _ in range(rows)]


@pytest.fixture
def published(tmp_path: Path, networks: list[dict[str, Tensor]]) -> Path:
    """A folder as the authors' code wrote it: bias before kernel, 22 columns of metrics, rows in any order of steps."""
    folder = tmp_path / "cifar10"
    folder.mkdir()
    names = [f"{n}.{part}" for n in SHAPES for part in ("bias", "weight")]
    np.save(
        folder / "weights.npy", np.stack([np.concatenate([keras_axes(t[n]).ravel() for n in names]) for t in networks])
    )
    lines, start = [], 0
    for name in names:
        shape = keras_axes(networks[0][name]).shape
        stop = start + int(np.prod(shape))
        layer, _, part = name.partition(".")
        lines.append(
            (f"{KERAS[layer]}/{'bias' if part == 'bias' else 'kernel'}:0", start, stop, stop - start, str(shape))
        )
        start = stop
    layout = pd.DataFrame(lines, columns=["varname", "start_idx", "end_idx", "size", "shape"])
    layout.to_csv(folder / "layout.csv", index=False)
    metrics = pd.DataFrame(
        {
            "config.activation": [("relu", "tanh")[i // len(STEPS) % 2] for i in range(len(networks))],
            "config.b_init": "zeros", "config.dataset": "cifar10", "config.dnn_architecture": "cnn",
            "config.dropout": 0.1, "config.epochs": 86, "config.epochs_between_checkpoints": 20,
            "config.init_std": 0.1, "config.l2reg": np.linspace(1e-8, 1e-2, len(networks)),
            "config.learning_rate": 1e-3, "config.num_layers": 3, "config.num_units": 16, "config.optimizer": "adam",
            "config.random_seed": 42, "config.train_fraction": 0.25, "config.w_init": "he_normal",
            "modeldir": [f"dir{i // len(STEPS)}" for i in range(len(networks))],
            "step": [STEPS[-1 - i % len(STEPS)] for i in range(len(networks))],
            "test_accuracy": np.random.default_rng(1).random(len(networks)), "test_loss": 1.0, "train_accuracy": 0.5,
            "train_loss": 1.0,
        }
    )  # fmt: skip
    assert metrics.shape[1] == 22
    metrics.to_csv(folder / "metrics.csv.gz", index=False, compression="gzip")
    shuffled = np.random.default_rng(0).permutation(len(networks))
    (folder / "split.csv").write_text("\n".join(["0", *map(str, shuffled)]) + "\n")
    return folder


def published_split(folder: Path, only: str | None = None) -> dict[str, set[int]]:
    """Rows of each split by the published procedure: order, last step, cut in half, shuffle, 80 / 20."""
    metrics = pd.read_csv(folder / "metrics.csv.gz")
    order = [int(line) for line in (folder / "split.csv").read_text().split()]
    kept = [row for row in order if metrics["step"][row] == 86]
    kept = [row for row in kept if only in (None, metrics["config.activation"][row])]
    half = int(0.5 * len(kept))
    places = list(range(half))
    random.Random(0).shuffle(places)
    end = int(0.8 * half)
    parts = {"train": places[:end], "val": places[end:], "test": range(half, len(kept))}
    return {name: {kept[place] for place in part} for name, part in parts.items()}


def rows_by_split(zoo: Zoo) -> dict[str, set[int]]:
    return {name: set(zoo.table.loc[zoo.table["split"] == name, "row"]) for name in ("train", "val", "test")}


def test_kernels_and_dense_matrices_are_transposed(published: Path, networks: list[dict[str, Tensor]], tmp_path: Path):
    zoo = import_zoo("small-cnn-zoo", published, tmp_path / "zoo")
    assert len(zoo) == NETS and len(zoo.specs) == 2
    for i, row in enumerate(zoo.table["row"]):
        got = zoo.batch([i]).stacks()[0].unpack()
        assert got.keys() == networks[row].keys()
        assert all(torch.equal(got[name][0], networks[row][name]) for name in got)


def test_networks_compute_what_the_zoo_trained(published: Path, networks: list[dict[str, Tensor]], tmp_path: Path):
    zoo = import_zoo("small-cnn-zoo", published, tmp_path / "zoo")
    images = torch.rand(3, 1, 32, 32) * 2 - 1
    for i in (0, 1):
        t, act = networks[zoo.table["row"][i]], getattr(torch, zoo.table["activation"][i])
        h = act(F.conv2d(images, t["conv0.weight"], t["conv0.bias"], stride=2))
        h = act(F.conv2d(h, t["conv1.weight"], t["conv1.bias"], stride=2)).mean((2, 3))
        want = F.linear(h, t["dense.weight"], t["dense.bias"])
        assert torch.allclose(run(zoo.batch([i]), images)[0], want, atol=1e-5)
    assert zoo.specs[0].input_shape == (1, 32, 32)


def test_table_has_labels_and_hyper_parameters(published: Path, tmp_path: Path):
    zoo = import_zoo("small-cnn-zoo", published, tmp_path / "zoo")
    metrics = pd.read_csv(published / "metrics.csv.gz", engine="python")
    assert {"learning_rate", "l2reg", "w_init", "train_fraction", "test_loss", "modeldir"} <= set(zoo.table)
    assert zoo.table["test_accuracy"].tolist() == metrics["test_accuracy"][zoo.table["row"]].tolist()
    assert zoo.table["l2reg"].tolist() == metrics["config.l2reg"][zoo.table["row"]].tolist()


@pytest.mark.parametrize("only", [None, "tanh"])
def test_the_published_split(published: Path, tmp_path: Path, only: str | None):
    """The first line of the published files, ``0``, counts as a row; row 0 is a final one here, so it occurs twice."""
    words = [f"order={published / 'split.csv'}", *([f"activation={only}"] if only else [])]
    zoo = import_zoo("small-cnn-zoo", published, tmp_path / "zoo", words)
    want = published_split(published, only)
    got = rows_by_split(zoo)
    assert sum(map(len, got.values())) == len(zoo) == (NETS // 2 if only else NETS)
    twice = {row for name in want for row in want[name] if sum(row in part for part in want.values()) > 1}
    assert all(got[name] - twice == want[name] - twice for name in want) and twice <= {0}


def test_filtering_before_and_after_the_cut_differ(published: Path, tmp_path: Path):
    order = f"order={published / 'split.csv'}"
    before = import_zoo("small-cnn-zoo", published, tmp_path / "before", [order, "activation=tanh"])
    after = import_zoo("small-cnn-zoo", published, tmp_path / "after", [order])
    tanh = set(after.table.loc[after.table["activation"] == "tanh", "row"])
    assert rows_by_split(before)["test"] != rows_by_split(after)["test"] & tanh


def test_other_steps_stay_in_the_split_of_their_network(published: Path, tmp_path: Path):
    words = [f"order={published / 'split.csv'}", "steps=20,86"]
    zoo = import_zoo("small-cnn-zoo", published, tmp_path / "zoo", words)
    assert len(zoo) == 2 * NETS
    assert (zoo.table.groupby("modeldir")["split"].nunique() == 1).all()


def test_layout_decides_where_variables_are(published: Path, networks: list[dict[str, Tensor]], tmp_path: Path):
    """Kernel before bias, and columns in another order than lines: the layout's own numbers count."""
    matrix, layout = np.load(published / "weights.npy"), pd.read_csv(published / "layout.csv")
    lines, blocks, start = [], [], 0
    for line in layout.iloc[::-1].itertuples():
        blocks.append(matrix[:, line.start_idx : line.end_idx])
        lines.append((line.varname, start, start + line.size, line.size, line.shape))
        start += line.size
    np.save(published / "weights.npy", np.asfortranarray(np.concatenate(blocks, axis=1)))
    moved = pd.DataFrame(lines, columns=layout.columns).iloc[[5, 4, 2, 3, 1, 0]]
    moved.to_csv(published / "layout.csv", index=False)
    zoo = import_zoo("small-cnn-zoo", published, tmp_path / "zoo")
    got = zoo.batch([3]).stacks()[0].unpack()
    assert all(torch.equal(got[n][0], networks[zoo.table["row"][3]][n]) for n in got)


def _own_zoo(folder: Path, split: list[str] | None) -> Zoo:
    stacks = [
        Stack.pack(s, {n: torch.randn(k, *shape) for n, shape in s.params.items()})
        for s, k in (
            (small_cnn_spec([1, 4, 3], 10, "relu", stride=2), 11),
            (small_cnn_spec([1, 4, 3], 10, "tanh", stride=2), 9),
        )
    ]
    spec = [0] * 11 + [1] * 9
    table = pd.DataFrame({"test_accuracy": np.linspace(0, 1, 20), "learning_rate": 0.1, "spec": spec})
    table = table.sample(frac=1, random_state=0).reset_index(drop=True)
    Zoo.write(folder, stacks, table if split is None else table.assign(split=split))
    return Zoo.open(folder)


def _same(a: Zoo, b: Zoo) -> bool:
    pairs = [(a.batch([i]).stacks()[0].unpack(), b.batch([i]).stacks()[0].unpack()) for i in range(len(a))]
    return all(torch.equal(x[n], y[n]) for x, y in pairs for n in x)


def test_written_zoos_read_back_bit_for_bit(tmp_path: Path):
    split = ["train"] * 8 + ["val"] * 2 + ["test"] * 10
    random.Random(3).shuffle(split)
    zoo = _own_zoo(tmp_path / "own", split)
    note = export_zoo("small-cnn-zoo", zoo, tmp_path / "out")
    assert str(tmp_path / "out" / "split.csv") in note
    again = import_zoo("small-cnn-zoo", tmp_path / "out", tmp_path / "zoo", [f"order={tmp_path / 'out' / 'split.csv'}"])
    assert _same(zoo, again)
    for column in ("test_accuracy", "learning_rate", "split"):
        assert again.table[column].tolist() == zoo.table[column].tolist()
    want = published_split(tmp_path / "out")
    assert rows_by_split(again) == want
    export_zoo("small-cnn-zoo", again, tmp_path / "twice")
    for name in ("weights.npy", "layout.csv", "split.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_written_columns_are_tensorflows(tmp_path: Path):
    zoo = _own_zoo(tmp_path / "own", None)
    export_zoo("small-cnn-zoo", zoo, tmp_path / "out", ["resplit=0"])
    layout = pd.read_csv(tmp_path / "out" / "layout.csv")
    assert layout["varname"].tolist()[:3] == [
        "sequential/conv2d/bias:0",
        "sequential/conv2d/kernel:0",
        "sequential/conv2d_1/bias:0",
    ]
    assert layout["shape"].tolist() == ["(4,)", "(3, 3, 1, 4)", "(3,)", "(3, 3, 4, 3)", "(10,)", "(3, 10)"]
    row = np.load(tmp_path / "out" / "weights.npy")[4]
    tensors = zoo.batch([4]).stacks()[0].unpack()
    for name, line in (("conv1.weight", 3), ("dense.weight", 5)):
        values = row[layout["start_idx"][line] : layout["end_idx"][line]]
        assert np.array_equal(values, keras_axes(tensors[name][0]).ravel())
    metrics = pd.read_csv(tmp_path / "out" / "metrics.csv.gz")
    assert metrics["config.activation"][4] == str(zoo.specs[zoo.spec_index[4]].groups[1].activations[0])
    assert set(metrics["step"]) == {86} and "config.learning_rate" in metrics


def test_what_the_layout_cannot_hold_is_refused(tmp_path: Path):
    uneven = _own_zoo(tmp_path / "own", ["train"] * 12 + ["val"] * 3 + ["test"] * 5)
    with pytest.raises(ZooError, match="give resplit=0"):
        export_zoo("small-cnn-zoo", uneven, tmp_path / "out")
    with pytest.raises(ZooError, match="no column 'split'"):
        export_zoo("small-cnn-zoo", _own_zoo(tmp_path / "bare", None), tmp_path / "out")
    spec = mlp_spec([2, 4, 1], "relu")
    stack = Stack.pack(spec, {n: torch.randn(3, *s) for n, s in spec.params.items()})
    Zoo.write(tmp_path / "mlp", [stack], pd.DataFrame({"test_accuracy": [0.0, 0.5, 1.0]}))
    with pytest.raises(ZooError, match="holds CNNs of one shape"):
        export_zoo("small-cnn-zoo", Zoo.open(tmp_path / "mlp"), tmp_path / "out", ["resplit=0"])
    assert not (tmp_path / "out").exists()


class _Attack:
    def __reduce__(self):
        return (Path.touch, (Path("attacked"),))


def _edit_layout(folder: Path, column: str, value: object) -> None:
    layout = pd.read_csv(folder / "layout.csv").astype(object)
    layout.loc[1, column] = value
    layout.to_csv(folder / "layout.csv", index=False)


HOSTILE = {
    "pickle in weights": lambda f: np.save(f / "weights.npy", np.array([_Attack()], dtype=object), allow_pickle=True),
    "plain pickle": lambda f: (f / "weights.npy").write_bytes(b"\x80\x04cposix\nsystem\n."),
    "truncated": lambda f: (f / "weights.npy").write_bytes((f / "weights.npy").read_bytes()[:900]),
    "not a matrix": lambda f: np.save(f / "weights.npy", np.zeros(4, np.float32)),
    "whole numbers": lambda f: np.save(f / "weights.npy", np.load(f / "weights.npy").astype(np.int64)),
    "code as shape": lambda f: _edit_layout(f, "shape", "__import__('pathlib').Path('attacked').touch()"),
    "deep shape": lambda f: _edit_layout(f, "shape", "(" * 5000),
    "huge shape": lambda f: _edit_layout(f, "shape", "(999999, 999999, 9, 9)"),
    "negative shape": lambda f: _edit_layout(f, "shape", "(-3, -3, 1, 5)"),
    "overlap": lambda f: _edit_layout(f, "start_idx", 4) or _edit_layout(f, "end_idx", 49),
    "out of range": lambda f: _edit_layout(f, "end_idx", 10**9),
    "unknown variable": lambda f: _edit_layout(f, "varname", "sequential/bn/gamma:0"),
    "no layout": lambda f: (f / "layout.csv").unlink(),
    "empty layout": lambda f: (f / "layout.csv").write_text(""),
    "no gzip": lambda f: (f / "metrics.csv.gz").write_bytes(b"step,config.activation,test_accuracy\n"),
    "truncated gzip": lambda f: (f / "metrics.csv.gz").write_bytes((f / "metrics.csv.gz").read_bytes()[:200]),
    "fewer rows": lambda f: pd.read_csv(f / "metrics.csv.gz")[:-1].to_csv(f / "metrics.csv.gz"),
    "no step": lambda f: pd.read_csv(f / "metrics.csv.gz").drop(columns="step").to_csv(f / "metrics.csv.gz"),
    "unknown activation": lambda f: pd.read_csv(f / "metrics.csv.gz")
    .assign(**{"config.activation": "swoosh"})
    .to_csv(f / "metrics.csv.gz"),
    "text as table": lambda f: (f / "metrics.csv.gz").write_bytes(gzip.compress(b"\x00\xff\xfe" * 40)),
    "order of another zoo": lambda f: (f / "split.csv").write_text("99999999\n"),
    "empty order": lambda f: (f / "split.csv").write_text(""),
    "huge order": lambda f: (f / "split.csv").write_text("9" * 40),
    "binary order": lambda f: (f / "split.csv").write_bytes(bytes(range(256))),
    "packed too well": lambda f: (f / "metrics.csv.gz").write_bytes(gzip.compress(b" " * (1 << 20))),
    "order of text": lambda f: (f / "split.csv").write_text("index\n0\n1\n"),
    "nan": lambda f: np.save(f / "weights.npy", np.full_like(np.load(f / "weights.npy"), np.nan)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file that unpacks to more than it may is quickly made."""
    monkeypatch.setattr("converters.public_zoos.small_cnn._MOST_BYTES", 1 << 19)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_one_clear_error(
    published: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    HOSTILE[name](published)
    with pytest.raises(GraphNFNError) as caught:
        import_zoo("small-cnn-zoo", published, tmp_path / "zoo", [f"order={published / 'split.csv'}"])
    assert len(str(caught.value)) > 30 and "\n" not in str(caught.value)
    assert not (tmp_path / "attacked").exists() and not (tmp_path / "zoo").exists()


def test_missing_folder_and_unknown_settings(tmp_path: Path):
    with pytest.raises(ConversionError, match="no such folder"):
        import_zoo("small-cnn-zoo", tmp_path / "nowhere", tmp_path / "zoo")
    with pytest.raises(ConversionError, match="expected key=value with a key of order, steps"):
        import_zoo("small-cnn-zoo", tmp_path, tmp_path / "zoo", ["split=x"])
    with pytest.raises(ConversionError, match="steps=last"):
        import_zoo("small-cnn-zoo", tmp_path, tmp_path / "zoo", ["steps=last"])
    with pytest.raises(ConversionError, match="unknown layout 'zoo'"):
        import_zoo("zoo", tmp_path, tmp_path / "zoo")


def test_damaged_files_are_read_or_refused(published: Path, refusals: Callable[..., int]):
    files = [published / name for name in ("weights.npy", "layout.csv", "metrics.csv.gz", "split.csv")]
    assert refusals("small-cnn-zoo", published, files, 40, (f"order={published / 'split.csv'}",)) > 15
