"""INRs of DWSNets and NFN: folders of state dicts, lists of splits, labels in names, hostile files."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from converters.public_zoos import export_zoo, import_zoo
from graphnfn.chain import mlp_spec
from graphnfn.errors import ConversionError, GraphNFNError, ZooError
from graphnfn.functional import run
from graphnfn.stack import Stack
from graphnfn.zoo import Zoo

SIZES = (2, 6, 5, 1)


class Sine(nn.Module):
    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(into, out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


class NFNSiren(nn.Module):
    """As NFN's code names its layers: net.0.linear, net.1.linear, net.2."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(Sine(2, 6), Sine(6, 5), nn.Linear(5, 1))


class DWSNetsLayer(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return torch.sin(30 * super().forward(input))


class DWSNetsINR(nn.Module):
    """As DWSNets' code names its layers: seq.0, seq.1, seq.2; one half is added to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.Sequential(DWSNetsLayer(2, 6), DWSNetsLayer(6, 5), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x) + 0.5


def _shuffled(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    return OrderedDict((key, state[key]) for key in sorted(state, reverse=True))


@pytest.fixture
def mnist(tmp_path: Path) -> tuple[Path, dict[str, DWSNetsINR]]:
    """Six networks in DWSNets' MNIST form; the list of splits has paths of another machine."""
    root, models = tmp_path / "training" / "mnist-inrs", {}  # "train" in a parent's name must not matter
    listed = {s: {"path": [], "label": []} for s in ("train", "val", "test")}
    images = (50, 51, 50, 52, 51, 53)  # numbers of the training and of the test images overlap
    for i, split in enumerate(["train", "val", "test", "train", "test", "train"]):
        name = f"mnist_png_{'testing' if split == 'test' else 'training'}_{i % 4}_{images[i]}"
        models[name] = DWSNetsINR()
        file = root / name / "checkpoints" / "model_final.pth"
        file.parent.mkdir(parents=True)
        torch.save(models[name].state_dict(), file)
        listed[split]["path"].append(f"/elsewhere/mnist-inrs/{name}/checkpoints/model_final.pth")
        listed[split]["label"].append(str(i % 4))
    (root / "mnist_splits.json").write_text(json.dumps(listed))
    return root, models


@pytest.fixture
def fmnist(tmp_path: Path) -> tuple[Path, dict[str, DWSNetsINR]]:
    root, models, listed = tmp_path / "fmnist_inrs", {}, {"train": [], "val": [], "test": []}
    for i, split in enumerate(["train", "val", "test", "test"]):
        name = f"{'test' if split == 'test' else 'train'}/model_{7 + i}.pth"
        models[name] = DWSNetsINR()
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({**models[name].state_dict(), "label": torch.tensor(9 - i) if i % 2 else 9 - i}, root / name)
        listed[split].append(f"somewhere/else/fmnist_inrs/{name}")
    (root / "splits.json").write_text(json.dumps(listed))
    return root, models


@pytest.fixture
def nfn(tmp_path: Path) -> tuple[Path, dict[int, NFNSiren]]:
    """Eight SIRENs and two further fits of each; the parent folder's name contains a label."""
    root, models = tmp_path / "runs_3s" / "siren_mnist_wts", {}
    for copy in (None, 0, 1):
        for image in range(8):
            model = NFNSiren()
            prefix = "randinit_smaller" if copy is None else f"randinit_smaller_aug{copy}"
            file = root / f"{prefix}_{image % 3}s" / f"net{image}.pth"
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), file)
            models[image + (0 if copy is None else 100 * (copy + 1))] = model
    return root, models


def _holds(zoo: Zoo, row: int, model: nn.Module) -> bool:
    """Same parameters to the bit, in the order of the layers."""
    got = zoo.batch([row]).stacks()[0].unpack()
    want = list(model.state_dict().values())
    return [tuple(got[f"seq.{i // 2}.{('weight', 'bias')[i % 2]}"][0].shape) for i in range(6)] == [
        tuple(w.shape) for w in want
    ] and all(torch.equal(got[f"seq.{i // 2}.{('weight', 'bias')[i % 2]}"][0], w) for i, w in enumerate(want))


def test_dwsnets_mnist(mnist: tuple[Path, dict[str, DWSNetsINR]], tmp_path: Path):
    root, models = mnist
    zoo = import_zoo("dwsnets-mnist", root, tmp_path / "zoo")
    assert zoo.table["split"].tolist() == ["train"] * 3 + ["val"] + ["test"] * 2
    for row, line in zoo.table.iterrows():
        name = str(line["file"]).split("/")[0]
        assert _holds(zoo, int(str(row)), models[name])
        assert name == f"mnist_png_{line['image_set']}ing_{line['label']}_{line['image']}"
    grid = torch.rand(9, 2) * 2 - 1
    first = models[zoo.table["file"][0].split("/")[0]]
    assert torch.allclose(run(zoo.batch([0]), grid)[0] + zoo.about["output_offset"], first(grid), atol=1e-4)


def test_dwsnets_fmnist(fmnist: tuple[Path, dict[str, DWSNetsINR]], tmp_path: Path):
    """Labels lie in the state dicts, as numbers or as tensors."""
    root, models = fmnist
    zoo = import_zoo("dwsnets-fmnist", root, tmp_path / "zoo")
    assert zoo.table["label"].tolist() == [9, 8, 7, 6] and zoo.table["image"].tolist() == [7, 8, 9, 10]
    assert zoo.table["split"].tolist() == ["train", "val", "test", "test"]
    assert all(_holds(zoo, row, models[file]) for row, file in enumerate(zoo.table["file"]))


def test_neural_graphs_list_of_fmnist(fmnist: tuple[Path, dict[str, DWSNetsINR]], tmp_path: Path):
    """Neural graphs' list gives labels as numbers, and paths relative to a folder above."""
    root, _ = fmnist
    listed = {"train": {"path": ["fmnist_inrs/train/model_8.pth"], "label": [3]}}
    (tmp_path / "ng.json").write_text(json.dumps(listed))
    zoo = import_zoo("dwsnets-fmnist", root, tmp_path / "zoo", [f"splits={tmp_path / 'ng.json'}"])
    assert len(zoo) == 1 and zoo.table["label"][0] == 3 and zoo.table["image"][0] == 8


def test_dwsnets_without_a_list(mnist: tuple[Path, dict[str, DWSNetsINR]], tmp_path: Path):
    root, _ = mnist
    (root / "mnist_splits.json").unlink()
    zoo = import_zoo("dwsnets-mnist", root, tmp_path / "zoo")
    assert zoo.table["split"].tolist() == ["test" if "testing" in f else "train" for f in zoo.table["file"]]
    assert set(zoo.table["split"]) == {"train", "test"}


def test_nfn(nfn: tuple[Path, dict[int, NFNSiren]], tmp_path: Path):
    root, models = nfn
    zoo = import_zoo("nfn-siren", root, tmp_path / "zoo", ["split_points=5,6"])
    assert zoo.table["image"].tolist() == list(range(8))
    assert zoo.table["label"].tolist() == [i % 3 for i in range(8)]
    assert zoo.table["split"].tolist() == ["train"] * 5 + ["val"] + ["test"] * 2
    assert all(_holds(zoo, i, models[i]) for i in range(8))
    grid = torch.rand(9, 2) * 2 - 1
    assert torch.allclose(run(zoo.batch([4]), grid)[0], models[4].net(grid), atol=1e-4)


def test_further_fits_are_for_training_only(nfn: tuple[Path, dict[int, NFNSiren]], tmp_path: Path):
    root, models = nfn
    zoo = import_zoo("nfn-siren", root, tmp_path / "zoo", ["split_points=5,6", "copies=2"])
    assert zoo.table["copy"].value_counts().to_dict() == {0: 8, 1: 5, 2: 5}
    extra = zoo.table[zoo.table["copy"] > 0]
    assert set(extra["split"]) == {"train"} and extra["image"].max() == 4
    keys = (100 * extra["copy"] + extra["image"]).tolist()
    assert all(_holds(zoo, row, models[key]) for row, key in zip(extra.index, keys, strict=True))


def test_the_order_of_keys_does_not_matter(nfn: tuple[Path, dict[int, NFNSiren]], tmp_path: Path):
    root, models = nfn
    torch.save(_shuffled(models[4].state_dict()), root / "randinit_smaller_1s" / "net4.pth")
    zoo = import_zoo("nfn-siren", root, tmp_path / "zoo")
    assert _holds(zoo, 4, models[4]) and not _holds(zoo, 4, models[5])


def test_networks_of_other_sizes_share_a_zoo(mnist: tuple[Path, dict[str, DWSNetsINR]], tmp_path: Path):
    root, models = mnist
    wide = DWSNetsINR()
    wide.seq = nn.Sequential(DWSNetsLayer(2, 9), DWSNetsLayer(9, 5), nn.Linear(5, 1))
    name = "mnist_png_training_3_52"
    torch.save(wide.state_dict(), root / name / "checkpoints" / "model_final.pth")
    zoo = import_zoo("dwsnets-mnist", root, tmp_path / "zoo")
    assert len(zoo.specs) == 2
    for row, file in enumerate(zoo.table["file"]):
        assert _holds(zoo, row, {**models, name: wide}[file.split("/")[0]])


def _own_zoo(folder: Path) -> Zoo:
    spec = mlp_spec(SIZES, "sin", omega=30.0)
    stack = Stack.pack(spec, {n: torch.randn(12, *s) for n, s in spec.params.items()})
    split = ["test", "train", "val", "train"] * 3
    Zoo.write(folder, [stack], pd.DataFrame({"label": [i % 10 for i in range(12)], "split": split}))
    return Zoo.open(folder)


def _by_image(zoo: Zoo) -> dict[tuple[str, int], tuple[int, str, list[Tensor]]]:
    out = {}
    for row, line in zoo.table.iterrows():
        tensors = zoo.batch([int(str(row))]).stacks()[0].unpack()
        key = (str(line.get("image_set", "")), int(line["image"]))
        out[key] = (line["label"], line["split"], [tensors[n][0] for n in sorted(tensors)])
    return out


def _equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[k][:2] == b[k][:2] and all(torch.equal(x, y) for x, y in zip(a[k][2], b[k][2], strict=True)) for k in a
    )


@pytest.mark.parametrize("layout", ["dwsnets-mnist", "dwsnets-fmnist", "nfn-siren"])
def test_written_zoos_read_back_bit_for_bit(tmp_path: Path, layout: str):
    zoo = _own_zoo(tmp_path / "own")
    export_zoo(layout, zoo, tmp_path / "out")
    words = ["split_points=6,9"] if layout == "nfn-siren" else []
    again = import_zoo(layout, tmp_path / "out", tmp_path / "zoo", words)
    own = zoo.batch(slice(None)).stacks()[0].unpack()
    for row in range(12):
        got = again.batch([row]).stacks()[0].unpack()
        twin = [k for k in range(12) if torch.equal(own["layers.1.weight"][k], got["seq.1.weight"][0])]
        assert len(twin) == 1
        assert all(torch.equal(own[n.replace("seq", "layers")][twin[0]], t[0]) for n, t in got.items())
        assert again.table["label"][row] == zoo.table["label"][twin[0]]
        assert again.table["split"][row] == zoo.table["split"][twin[0]]
    export_zoo(layout, again, tmp_path / "twice")
    twice = import_zoo(layout, tmp_path / "twice", tmp_path / "zoo2", words)
    assert _equal(_by_image(again), _by_image(twice))


@pytest.mark.parametrize("layout", ["dwsnets-mnist", "dwsnets-fmnist"])
def test_image_numbers_survive(request: pytest.FixtureRequest, tmp_path: Path, layout: str):
    """The same number may occur in the training and in the test set of images."""
    root, _ = request.getfixturevalue(layout.removeprefix("dwsnets-"))
    zoo = import_zoo(layout, root, tmp_path / "zoo")
    export_zoo(layout, zoo, tmp_path / "out")
    assert _equal(_by_image(zoo), _by_image(import_zoo(layout, tmp_path / "out", tmp_path / "again")))
    files = {p.relative_to(root) for p in root.rglob("*.pth")}
    assert files == {p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.pth")}


def test_written_files_are_named_as_published(tmp_path: Path):
    zoo = _own_zoo(tmp_path / "own")
    export_zoo("dwsnets-mnist", zoo, tmp_path / "dws", ["prefix=data/mnist-inrs"])
    listed = json.loads((tmp_path / "dws" / "mnist_splits.json").read_text())
    assert listed["val"]["path"][0] == "data/mnist-inrs/mnist_png_training_2_2/checkpoints/model_final.pth"
    assert listed["val"]["label"][0] == "2" and set(listed) == {"train", "val", "test"}
    state = torch.load(tmp_path / "dws" / "mnist_png_testing_4_4/checkpoints/model_final.pth", weights_only=True)
    assert list(state) == [f"seq.{i}.{part}" for i in range(3) for part in ("weight", "bias")]
    sizes = {p.stat().st_size for p in (tmp_path / "dws").rglob("*.pth")}
    assert max(sizes) < 4000  # of one network, not of the stack that it is a view of
    note = export_zoo("nfn-siren", zoo, tmp_path / "nfn")
    assert "split_points=[6, 9]" in note
    numbers = sorted(int(p.stem.removeprefix("net")) for p in (tmp_path / "nfn").rglob("*.pth"))
    assert numbers == list(range(12))
    state = torch.load(tmp_path / "nfn" / "randinit_smaller_1s" / "net0.pth", weights_only=True)
    assert list(state) == ["net.0.linear.weight", "net.0.linear.bias", "net.1.linear.weight", "net.1.linear.bias",
                           "net.2.weight", "net.2.bias"]  # fmt: skip
    export_zoo("dwsnets-fmnist", zoo, tmp_path / "fm")
    state = torch.load(tmp_path / "fm" / "test" / "model_4.pth", weights_only=True)
    assert state["label"] == 4 and json.loads((tmp_path / "fm" / "splits.json").read_text())["test"][1].endswith(
        "4.pth"
    )


def test_what_the_layouts_cannot_hold_is_refused(tmp_path: Path):
    zoo = _own_zoo(tmp_path / "own")
    with pytest.raises(ZooError, match="would read '_3s' in"):
        export_zoo("nfn-siren", zoo, tmp_path / "runs_3s" / "out")
    for act, columns in (
        (("relu", None), {"label": [0, 1], "split": ["train"] * 2}),
        (("sin", 30.0), {"label": [0, 1]}),
    ):
        spec = mlp_spec(SIZES, act[0], omega=act[1])
        stack = Stack.pack(spec, {n: torch.randn(2, *s) for n, s in spec.params.items()})
        Zoo.write(tmp_path / act[0], [stack], pd.DataFrame(columns))
        for layout in ("dwsnets-mnist", "dwsnets-fmnist", "nfn-siren"):
            with pytest.raises(ZooError, match=r"layout holds sin\(30|lacks columns \['split'\]"):
                export_zoo(layout, Zoo.open(tmp_path / act[0]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Attack:
    def __reduce__(self):
        return (os.system, ("touch attacked",))


def _model(root: Path) -> Path:
    return sorted(root.rglob("*.pth"))[0]


def _relist(root: Path, name: str) -> None:
    (root / "mnist_splits.json").write_text(json.dumps({"train": {"path": [name], "label": ["1"]}}))


def _resave(root: Path, change: dict[str, object]) -> None:
    torch.save({**torch.load(_model(root), weights_only=True), **change}, _model(root))


HOSTILE = {
    "code": lambda r: torch.save({"seq.0.weight": Attack()}, _model(r)),
    "not torch": lambda r: _model(r).write_bytes(b"\x80\x04cos\nsystem\n(S'touch attacked'\ntR."),
    "truncated": lambda r: _model(r).write_bytes(_model(r).read_bytes()[:700]),
    "a list": lambda r: torch.save([torch.zeros(1)], _model(r)),
    "extra tensor": lambda r: _resave(r, {"seq.9.gamma": torch.zeros(3)}),
    "no values": lambda r: _resave(r, {"seq.0.weight": "abc"}),
    "does not chain": lambda r: _resave(r, {"seq.1.weight": torch.zeros(5, 7)}),
    "3 axes": lambda r: _resave(r, {"seq.1.weight": torch.zeros(5, 6, 1)}),
    "nan": lambda r: _resave(r, {"seq.1.bias": torch.full((5,), torch.nan)}),
    "whole numbers": lambda r: _resave(r, {"seq.1.bias": torch.zeros(5, dtype=torch.long)}),
    "huge layer number": lambda r: _resave(r, {f"seq.{10**40}.weight": torch.zeros(1, 1)}),
    "leads out": lambda r: _relist(r, "../../../../etc/passwd"),
    "absolute": lambda r: _relist(r, "/etc/passwd"),
    "long name": lambda r: _relist(r, "x" * 5000),
    "null byte": lambda r: _relist(r, "a\0b"),
    "empty name": lambda r: _relist(r, ""),
    "missing": lambda r: _relist(r, "mnist_png_training_1_9/checkpoints/model_final.pth"),
    "not text": lambda r: (r / "mnist_splits.json").write_text('{"train": {"path": [3], "label": [3]}}'),
    "lengths": lambda r: (r / "mnist_splits.json").write_text('{"train": {"path": ["a"], "label": []}}'),
    "no splits": lambda r: (r / "mnist_splits.json").write_text("[1, 2]"),
    "no json": lambda r: (r / "mnist_splits.json").write_text("[" * 100000),
    "listed twice": lambda r: (r / "mnist_splits.json").write_text(
        json.dumps({"train": [_model(r).relative_to(r).as_posix()], "val": [_model(r).relative_to(r).as_posix()]})
    ),
    "label of text": lambda r: (r / "mnist_splits.json").write_text(
        json.dumps({"train": {"path": [_model(r).relative_to(r).as_posix()], "label": ["cat"]}})
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_one_clear_error(
    mnist: tuple[Path, dict[str, DWSNetsINR]], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    HOSTILE[name](mnist[0])
    with pytest.raises(GraphNFNError) as caught:
        import_zoo("dwsnets-mnist", mnist[0], tmp_path / "zoo")
    assert len(str(caught.value)) > 30 and "\n" not in str(caught.value)
    assert not (tmp_path / "attacked").exists() and not (tmp_path / "zoo").exists()


def test_confusing_folders_of_nfn(nfn: tuple[Path, dict[int, NFNSiren]], tmp_path: Path):
    root, models = nfn
    with pytest.raises(ConversionError, match="no folder other_0s"):
        import_zoo("nfn-siren", root, tmp_path / "zoo", ["prefix=other"])
    with pytest.raises(ConversionError, match="expected two image numbers"):
        import_zoo("nfn-siren", root, tmp_path / "zoo", ["split_points=5"])
    torch.save(models[4].state_dict(), root / "randinit_smaller_2s" / "net4.pth")
    with pytest.raises(ConversionError, match="image 4 has label 1 as well"):
        import_zoo("nfn-siren", root, tmp_path / "zoo")
    (root / "randinit_smaller_2s" / "net4.pth").rename(root / "randinit_smaller_2s" / "best.pth")
    with pytest.raises(ConversionError, match="expected files called net<number>"):
        import_zoo("nfn-siren", root, tmp_path / "zoo")


def test_damaged_files_are_read_or_refused(mnist: tuple[Path, dict[str, DWSNetsINR]], refusals: Callable[..., int]):
    assert refusals("dwsnets-mnist", mnist[0], [_model(mnist[0]), mnist[0] / "mnist_splits.json"], 40) > 15
