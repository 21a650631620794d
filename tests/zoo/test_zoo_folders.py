"""Damaged or contradictory zoo folders, and descriptions in words: one clear error each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from graphnfn.errors import ZooError
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo
from graphnfn.zoo.layouts import described_specs


def _edit_spec(folder: Path, **changes: object) -> None:
    path = folder / "spec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "weights.safetensors")


def _edit_table(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(folder / "table.parquet")).to_parquet(folder / "table.parquet")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no spec.json": (lambda f: (f / "spec.json").unlink(), "has no spec.json"),
    "spec.json cut": (lambda f: (f / "spec.json").write_text('{"format":'), "not JSON"),
    "spec.json a list": (lambda f: (f / "spec.json").write_text("[1]"), "expected an object"),
    "another version": (lambda f: _edit_spec(f, version=2), "version 2"),
    "no specs": (lambda f: _edit_spec(f, specs=[]), "lists no specs"),
    "spec damaged": (lambda f: _edit_spec(f, specs=[{"groups": []}]), "damaged"),
    "no weights": (lambda f: (f / "weights.safetensors").unlink(), "has no weights.safetensors"),
    "weights cut": (lambda f: _cut(f / "weights.safetensors"), "truncated"),
    "weights are text": (lambda f: (f / "weights.safetensors").write_text("hello"), "safetensors"),
    "parameter missing": (lambda f: _edit_weights(f, lambda t: t.pop("dense.bias")), "lack .*dense.bias"),
    "unknown tensor": (lambda f: _edit_weights(f, lambda t: t.update(other=torch.ones(9))), "hold .*other"),
    "wrong shape": (
        lambda f: _edit_weights(f, lambda t: t.update({"dense.bias": torch.ones(9, 3)})),
        r"'dense.bias' has shape \(3,\)",
    ),
    "one stack too short": (
        lambda f: _edit_weights(f, lambda t: t.update({"dense.bias": torch.ones(8, 4)})),
        "holds 8 networks, others 9",
    ),
    "table too short": (lambda f: _edit_table(f, lambda t: t.iloc[:7]), "7 rows but the weights hold 9"),
    "table empty": (lambda f: _edit_table(f, lambda t: t.iloc[:0]), "is empty"),
    "no table": (lambda f: (f / "table.parquet").unlink(), "has no table.parquet"),
    "table cut": (lambda f: _cut(f / "table.parquet"), "cannot be read"),
}


@pytest.fixture
def folder(tmp_path: Path, same_shapes: list[Stack], table: pd.DataFrame) -> Path:
    Zoo.write(tmp_path / "zoo", same_shapes, table)
    Zoo.open(tmp_path / "zoo")
    return tmp_path / "zoo"


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_clear_error(folder: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage(folder)
    with pytest.raises(ZooError, match=message):
        Zoo.open(folder)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="does not exist"):
        Zoo.open(tmp_path / "nowhere")


def test_a_wrong_spec_column_is_found_when_it_is_needed(
    folder: Path, tmp_path: Path, other_shapes: list[Stack], table: pd.DataFrame
) -> None:
    _edit_table(folder, lambda t: t.assign(spec=7))
    with pytest.raises(ZooError, match="numbers 0 to 1"):
        Zoo.open(folder).batch([0])
    Zoo.write(tmp_path / "other", other_shapes, table)
    _edit_table(tmp_path / "other", lambda t: t.assign(spec=0))
    with pytest.raises(ZooError, match="the table counts"):
        Zoo.open(tmp_path / "other").batch([0])


def test_nothing_is_overwritten_and_nothing_half_written(
    folder: Path, same_shapes: list[Stack], table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ZooError, match="not empty"):
        Zoo.write(folder, same_shapes, table)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("graphnfn.zoo.files.save_file", full)
    with pytest.raises(OSError, match="disk full"):
        Zoo.write(tmp_path / "new", same_shapes, table)
    assert [p.name for p in tmp_path.iterdir()] == ["zoo"]


def test_writing_checks_what_belongs_together(tmp_path: Path, same_shapes: list[Stack], table: pd.DataFrame) -> None:
    cases = [
        ([], table, "empty zoo"),
        ([same_shapes[0]] * 2, table, "same spec"),
        (same_shapes, table.iloc[1:], "8 rows and the stacks hold 9"),
        (same_shapes, table.assign(spec=0), "does not count"),
    ]
    for stacks, rows, message in cases:
        with pytest.raises(ZooError, match=message):
            Zoo.write(tmp_path / "new", stacks, rows)
        assert list(tmp_path.iterdir()) == []


SHAPES = {"c2.weight": (8, 4, 3, 3), "c10.weight": (6, 8, 3, 3), "fc.weight": (2, 24), "c2.bias": (8,), "fc.bias": (2,)}
LAYERS = [
    "conv 4->8 3x3 stride 2 padding 1",
    "act",
    "max pool 2",
    "conv 8->6 3x3 valid",
    "act",
    "flatten",
    "dense 24->2",
]
CNN = {"architecture": "cnn", "layers": LAYERS, "activation": "relu", "input": "16x16 pixels"}


def test_a_cnn_in_words() -> None:
    (spec,), number = described_specs(CNN, SHAPES, 3, list)
    assert [(b.param, b.conv and (b.conv.stride, b.conv.padding)) for b in spec.blocks] == [
        ("c2.weight", ((2, 2), (1, 1))),
        ("c10.weight", ((1, 1), (0, 0))),
        ("fc.weight", None),
    ]
    assert spec.params == {**SHAPES}
    assert spec.input_shape == (4, 16, 16)
    assert [op.kind for op in spec.blocks[1].pre] == ["max_pool"]
    assert number.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "transformer"}, "transformer"),
        ({"layers": ["conv 4->8 3x3", "wiggle"]}, "'wiggle'"),
        ({"layers": ["act"]}, "first layer"),
        ({"layers": None}, "expected a list"),
        ({"layers": [*LAYERS, "dense 2->2"]}, "no weight is left"),
        ({"layers": ["conv 4->7 3x3"]}, "spec.json says"),
        ({"layers": [LAYERS[0], "act", "act"]}, "two activations"),
        ({"activation": "wobble"}, "'wobble'"),
        ({"activation": "per network, column kind"}, "no column 'kind'"),
        ({"architecture": "mlp", "sizes": "2-3"}, "sizes"),
    ],
)
def test_words_that_are_not_understood(changes: dict[str, object], message: str) -> None:
    def column(name: str) -> list[str]:
        raise ZooError(f"there is no column {name!r}")

    with pytest.raises(ZooError, match=message):
        described_specs({**CNN, **changes}, SHAPES, 3, column)
