"""The command line: what it prints, what it leaves behind, how it fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from experiments.cli import main
from graphnfn import io


class Ran:
    """Exit code and output of one call."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Cli = Callable[..., Ran]
Damage = Callable[[Path, Path], None]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["graphnfn", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        code = end.value.code
        return Ran(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    path = tmp_path / "net.safetensors"
    save_file(net.state_dict(), path)
    return path


def test_version(cli: Cli) -> None:
    ran = cli("--version")
    assert ran.code == 0 and ran.out.startswith("graphnfn 0.")


def test_convert_and_inspect(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    graph = tmp_path / "graph.safetensors"
    assert cli("convert", checkpoint, "-o", graph, "--activation", "relu").code == 0
    assert io.load(graph).spec.num_params == 105
    for source, words in ((checkpoint, ["--activation", "relu"]), (graph, [])):
        ran = cli("inspect", source, *words)
        assert ran.code == 0
        assert "105 parameters - 16 continuous symmetries = 89 degrees of freedom; 0 dead neurons" in ran.out
        assert "permutations, positive scales" in ran.out


def test_plot(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    picture = tmp_path / "net.png"
    assert cli("plot", checkpoint, "-o", picture, "--activation", "relu").code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.png", "net.safetensors"]


def test_train_and_resume(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ran = cli("train", *tiny, "model=statnn", "-o", folder)
    assert ran.code == 0 and "test_tau" in ran.out
    before = json.loads((folder / "metrics.json").read_text())
    assert cli("train", *tiny, "model=statnn", "-o", folder).code == 2
    assert cli("train", *tiny, "model=statnn", "-o", folder, "--resume").code == 0
    assert json.loads((folder / "metrics.json").read_text())["test_tau"] == pytest.approx(before["test_tau"])


def _truncated(path: Path, checkpoint: Path) -> None:
    path.write_bytes(checkpoint.read_bytes()[:-40])


def _nan(path: Path, checkpoint: Path) -> None:
    save_file({"0.weight": torch.full((2, 2), torch.nan), "0.bias": torch.zeros(2)}, path)


def _unchained(path: Path, checkpoint: Path) -> None:
    save_file({"0.weight": torch.ones(3, 2), "2.weight": torch.ones(1, 4)}, path)


def _nothing(path: Path, checkpoint: Path) -> None:
    pass


@pytest.mark.parametrize("damage", [_truncated, _nan, _unchained, _nothing])
@pytest.mark.parametrize("command", ["convert", "inspect", "plot"])
def test_bad_checkpoints(cli: Cli, checkpoint: Path, tmp_path: Path, command: str, damage: Damage) -> None:
    source = tmp_path / "bad.safetensors"
    damage(source, checkpoint)
    before = sorted(tmp_path.iterdir())
    words = [] if command == "inspect" else ["-o", tmp_path / "out.png"]
    _assert_one_line(cli(command, source, *words, "--activation", "relu"))
    assert sorted(tmp_path.iterdir()) == before, "something half-written was left"


class _Evil:
    """A pickle that would make a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_is_not_executed(cli: Cli, tmp_path: Path) -> None:
    source, trace = tmp_path / "evil.pt", tmp_path / "executed"
    torch.save({"0.weight": _Evil(trace)}, source)
    _assert_one_line(cli("inspect", source, "--activation", "relu"))
    assert not trace.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "zoo=folder", "zoo.folder=nowhere"],
        ["compare", "model=resnet"],
        ["compare", "no-override"],
        ["compare", "compare.settings=nowhere.json"],
        ["search", "zoo=folder", "zoo.folder=nowhere"],
        ["report", "-o", "page.md"],
        ["report", "nowhere", "-o", "page.md"],
        ["train", "zoo=folder", "zoo.folder=nowhere"],
        ["zoo", "build", "imagenet", "--size", "3", "-o", "zoo"],
        ["zoo", "build", "digits-cnn", "--size", "0", "-o", "zoo"],
    ],
)
def test_bad_requests(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    _assert_one_line(cli(*words))
    assert list(tmp_path.iterdir()) == []


def test_pictures_need_a_known_suffix(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    _assert_one_line(cli("plot", checkpoint, "-o", tmp_path / "net.txt", "--activation", "relu"))


def test_missing_folders_are_named(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    for command in ("convert", "plot"):
        ran = cli(command, checkpoint, "-o", tmp_path / "none" / "x.png", "--activation", "relu")
        _assert_one_line(ran)
        assert "none" in ran.err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["graphnfn", "--debug", "inspect", str(tmp_path / "none.pt")])
    with pytest.raises(ValueError, match="none.pt"):
        main()


def _assert_one_line(ran: Ran) -> None:
    assert ran.code == 2
    assert ran.err.startswith("error: ") and len(ran.err.strip().splitlines()) == 1, ran.err
    assert "Traceback" not in ran.err + ran.out


def test_a_network_from_tensors_and_a_module(cli: Cli, tmp_path: Path) -> None:
    from experiments.architectures import ProposalNet

    path = tmp_path / "net.pt"
    torch.save(ProposalNet().state_dict(), path)
    words = ["--module", "experiments.architectures:ProposalNet", "--input", "2,3,24,24"]
    ran = cli("inspect", path, *words, "--explain", "--verify")
    assert ran.code == 0 and "verified: worst relative change" in ran.out and "prelu" in ran.out
    graph = tmp_path / "graph.safetensors"
    assert cli("convert", path, "-o", graph, *words).code == 0
    assert cli("restore", graph, "--like", path, "-o", tmp_path / "copy.pt").code == 0
    again = torch.load(tmp_path / "copy.pt", weights_only=True)
    assert all(torch.equal(again[k], v) for k, v in torch.load(path, weights_only=True).items())
    for wrong in (["--module", "no.such:Thing", "--input", "2,3"], ["--input", "2,3"], [*words[:3], "two"]):
        ran = cli("inspect", path, *wrong)
        assert ran.code == 2 and ran.err.startswith("error: --")
