"""TorchScript: modules in memory are traced; files are read as tensors, and their programs are not run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from converters import ConversionError, convert, restore_file
from converters.checkpoints import read_checkpoint, write_checkpoint


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(4, 6), nn.Linear(6, 4, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.again = self.read

    def forward(self, x: Tensor) -> Tensor:
        return self.write(torch.relu(self.norm(self.read(x)))) + self.again(x)[:, :4]


def test_a_file_has_the_state_dict_of_its_module(tmp_path: Path) -> None:
    net = Tied().eval().half()
    torch.jit.script(net).save(str(tmp_path / "net.pt"))
    found = read_checkpoint(tmp_path / "net.pt")
    loaded = torch.jit.load(tmp_path / "net.pt").state_dict()
    assert set(found.tensors) >= set(loaded)
    for name, tensor in loaded.items():
        got = found.tensors[name]
        assert got.dtype == tensor.dtype and torch.equal(got, tensor), name
    assert found.aliases == {"again.weight": "read.weight", "again.bias": "read.bias"}


@pytest.mark.parametrize("suffix", [".pt", ".jit"])
def test_round_trip(suffix: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    path, copy = tmp_path / f"net{suffix}", tmp_path / f"copy{suffix}"
    torch.jit.script(net).save(str(path))
    graph = convert(path, module=net)
    restore_file(graph, path, copy)
    assert path.read_bytes() == copy.read_bytes()
    write_checkpoint(path, {"0.bias": torch.zeros(5)}, copy)
    moved = torch.jit.load(copy)
    assert torch.equal(moved.state_dict()["0.bias"], torch.zeros(5))
    assert torch.equal(moved.state_dict()["2.weight"], net[2].weight)
    assert [g.size for g in convert(path, activation="tanh").spec.groups] == [3, 5, 2]


def test_scripts_in_memory_are_traced() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    laws = [
        convert(made, example_input=torch.randn(2, 3)).spec.law.gauges
        for made in (torch.jit.script(net), torch.jit.trace(net, torch.randn(2, 3)))
    ]
    assert [[g.kind for g in law] for law in laws] == [["sign"], ["sign"]]


def test_programs_of_files_are_not_run(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "net.pt"))
    with pytest.raises(ConversionError, match=r"own program is not run: where you trust it, convert torch.jit.load"):
        convert(tmp_path / "net.pt", example_input=torch.randn(1, 2))


class _Touch:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.target),)


def _script(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data/0", bytes(16))


def _doubled(depth: int) -> bytes:
    """Modules that hold the one below twice: 2^depth names."""
    node = b"c__torch__\nM\n)\x81}(X\x01\x00\x00\x00a"
    inner = b"c__torch__\nM\n)\x81}bp0\n"
    for level in range(depth):
        link = f"g{level}\n".encode()
        inner += b"0" + node + link + b"X\x01\x00\x00\x00b" + link + b"ub" + f"p{level + 1}\n".encode()
    return inner + b"."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda folder: pickle.dumps(_Touch(str(folder / "executed"))), "it names (pathlib|builtins)"),
        (lambda folder: b"cos\nsystem\n(S'true'\ntR.", "it names os.system"),
        (lambda folder: b"\x80\x02]q\x00(", "damaged TorchScript"),
        (lambda folder: _doubled(60), "more than 200000 names"),
    ],
)  # fmt: skip
def test_hostile_files(data: object, message: str, tmp_path: Path) -> None:
    assert callable(data)
    _script(tmp_path / "bad.pt", data(tmp_path))
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "bad.pt", activation="relu")
    assert not (tmp_path / "executed").exists()
