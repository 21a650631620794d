"""``graphnfn zoo import`` and ``graphnfn zoo export``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.cli import main
from graphnfn.chain import mlp_spec
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo

Ran = tuple[int, str, str]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def call(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["graphnfn", "zoo", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return call


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    spec = mlp_spec([2, 6, 6, 1], "sin", omega=30.0)
    stack = Stack.pack(spec, {n: torch.randn(4, *s) for n, s in spec.params.items()})
    table = pd.DataFrame({"label": [3, 1, 4, 1], "split": ["train", "val", "test", "train"]})
    Zoo.write(tmp_path / "own", [stack], table)
    return tmp_path / "own"


def test_out_and_in_again(cli: Callable[..., Ran], zoo: Path, tmp_path: Path):
    code, shown, _ = cli("export", "nfn-siren", zoo, "prefix=fits", "-o", tmp_path / "public")
    assert code == 0 and "split_points=[2, 3]" in shown
    settings = ("prefix=fits", "split_points=2,3")
    code, shown, _ = cli("import", "nfn-siren", tmp_path / "public", *settings, "-o", tmp_path / "again")
    assert code == 0 and "Zoo(networks=4, specs=1)" in shown
    assert Zoo.open(tmp_path / "again").table["label"].tolist() == [3, 1, 1, 4]


def test_mistakes_are_one_line(cli: Callable[..., Ran], zoo: Path, tmp_path: Path):
    for words, told in (
        (("import", "nfn", zoo), "unknown layout 'nfn'; known: small-cnn-zoo"),
        (("import", "nfn-siren", zoo), "no folder randinit_smaller_0s"),
        (("import", "nfn-siren", tmp_path / "nowhere"), "no such folder"),
        (("import", "nfn-siren", zoo, "omega=fast"), "omega=fast: expected"),
        (("export", "sb3", zoo), "read only"),
        (("export", "small-cnn-zoo", zoo, "resplit=0"), "holds CNNs of one shape"),
        (("export", "nfn-siren", tmp_path / "nowhere"), "no zoo at"),
    ):
        code, _, shown = cli(*words, "-o", tmp_path / "new")
        assert code == 2 and told in shown and shown.count("\n") == 1, shown
        assert not (tmp_path / "new").exists()


def test_a_folder_in_use_is_not_touched(cli: Callable[..., Ran], zoo: Path):
    code, _, shown = cli("export", "nfn-siren", zoo, "-o", zoo)
    assert code == 2 and "is not empty" in shown and len(Zoo.open(zoo)) == 4
