"""Checkpoints: what scripts save is read with its ties and prefixes, and goes back to the bit."""

from __future__ import annotations

import collections
import copy
import os
import random
import resource
import time
import zipfile
import zlib
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from converters.checkpoints import plain_names, read_checkpoint, tensor_names, write_checkpoint
from graphnfn.errors import ConversionError

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool]


class Tied(nn.Module):
    """A network whose first and last layer are one, with buffers of several types."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(3).half()
        self.register_buffer("steps", torch.arange(4))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("wide", torch.randn(6, 4, dtype=torch.bfloat16).t())


def training(module):
    """What a training script keeps."""
    optimizer = torch.optim.AdamW(module.parameters())
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return {
        "epoch": 3,
        "args": {"lr": 1e-3, "name": "run", "sizes": [1, (2, None)]},
        "optimizer": optimizer.state_dict(),
        "state_dict": collections.OrderedDict((f"module.{k}", v) for k, v in module.state_dict().items()),
        "rng": torch.get_rng_state(),
    }


def members(path):
    """Contents and checksums of an archive, with the places of its files."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {i.filename: (i.header_offset, i.CRC, zlib.crc32(archive.read(i))) for i in archive.infolist()}


@pytest.mark.parametrize("zipped", [True, False])
def test_training_checkpoint(tmp_path, zipped):
    module = Tied()
    data = training(module)
    torch.save(data, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(tmp_path / "a.pth")
    assert list(found.tensors) == list(data["state_dict"])
    assert dict(found.names) == {k: f"module.{k}" for k in module.state_dict()}
    assert found.aliases == {"module.head.weight": "module.embed.weight"}
    assert all(torch.equal(v, data["state_dict"][k]) for k, v in found.tensors.items())
    new = {"module.embed.weight": torch.randn(5, 3), "module.wide": torch.randn(4, 6), "module.mask": ~module.mask}
    write_checkpoint(tmp_path / "a.pth", new, tmp_path / "b.pth")
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    state = back["state_dict"]
    assert list(back) == list(data) and list(state) == list(data["state_dict"])
    assert state["module.head.weight"].data_ptr() == state["module.embed.weight"].data_ptr()
    assert torch.equal(state["module.head.weight"], new["module.embed.weight"])
    assert torch.equal(state["module.wide"], new["module.wide"].bfloat16())
    assert back["args"] == data["args"] and torch.equal(back["rng"], data["rng"])
    assert torch.equal(back["optimizer"]["state"][0]["exp_avg"], data["optimizer"]["state"][0]["exp_avg"])
    for name, value in data["state_dict"].items():
        assert state[name].dtype == value.dtype and state[name].stride() == value.stride(), name
        if name not in (*new, "module.head.weight"):
            assert torch.equal(state[name], value), name


def test_only_the_bytes_of_the_values_change(tmp_path):
    torch.save(training(Tied()), tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")
    write_checkpoint(tmp_path / "a.pt", found.tensors, tmp_path / "b.pt")
    assert (tmp_path / "b.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()
    write_checkpoint(tmp_path / "a.pt", {"module.head.bias": torch.arange(5.0)}, tmp_path / "b.pt")
    old, new = members(tmp_path / "a.pt"), members(tmp_path / "b.pt")
    changed = [name for name in old if old[name] != new[name]]
    assert len(changed) == 1 and new[changed[0]][1] == new[changed[0]][2]
    assert (tmp_path / "a.pt").stat().st_size == (tmp_path / "b.pt").stat().st_size


def test_views_of_one_storage(tmp_path):
    whole = torch.arange(12.0)
    state = {"whole": whole, "middle": whole[3:7], "odd": whole[1::2], "none": torch.zeros(0, 3), "one": torch.ones(())}
    torch.save(state, tmp_path / "a.pt")
    write_checkpoint(tmp_path / "a.pt", {"odd": -whole[1::2], "one": torch.tensor(7.0)}, tmp_path / "b.pt")
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    expected = whole.clone()
    expected[1::2] *= -1
    assert torch.equal(back["whole"], expected) and torch.equal(back["middle"], expected[3:7]) and back["one"] == 7


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_every_dtype(tmp_path, kind):
    state = {str(d): torch.randint(0, 2, (3, 4)).to(d) for d in DTYPES}
    path, other = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    if kind == "pt":
        torch.save(state, path)
    else:
        save_file(state, path, {"format": "pt", "note": "kept"})
    found = read_checkpoint(path)
    assert {n: t.dtype for n, t in found.tensors.items()} == {n: t.dtype for n, t in state.items()}
    write_checkpoint(path, found.tensors, other)
    assert other.read_bytes() == path.read_bytes()
    write_checkpoint(path, {n: 1 - t.double() for n, t in state.items()}, other)
    back = read_checkpoint(other).tensors
    assert list(back) == list(found.tensors)
    assert all(back[n].dtype == t.dtype and torch.equal(back[n].double(), 1 - t.double()) for n, t in state.items())


def test_safetensors_keep_metadata_and_know_what_is_tied(tmp_path):
    save_model(Tied(), str(tmp_path / "a.safetensors"), {"note": "kept"})
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert len(found.aliases) == 1 and set(found.aliases) | set(found.aliases.values()) == {
        "embed.weight",
        "head.weight",
    }
    named = found.named(Tied().state_dict())
    assert named["embed.weight"] == named["head.weight"]
    write_checkpoint(tmp_path / "a.safetensors", {"steps": torch.zeros(4)}, tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata()["note"] == "kept"
    assert not load_file(tmp_path / "b.safetensors")["steps"].any()


NAMES = {
    "as they are": ("", ""),
    "DDP": ("module.", ""),
    "Lightning": ("model.", ""),
    "compiled DDP": ("module._orig_mod.", ""),
    "DDP compiled": ("_orig_mod.module.", ""),
    "compiled part": ("", "_orig_mod."),
    "FSDP": ("_fsdp_wrapped_module.", "_fsdp_wrapped_module."),
    "attribute": ("generator.", ""),
    "attribute in Lightning, compiled": ("net.", "_orig_mod."),
}


@pytest.mark.parametrize("case", NAMES)
def test_prefixes(tmp_path, case):
    front, inner = NAMES[case]
    wanted = list(nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}).state_dict())
    given = [front + ("b." + inner + n[2:] if n.startswith("b.") else n) for n in wanted]
    torch.save({"state_dict": {n: torch.full((2,), float(i)) for i, n in enumerate(given)}}, tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt").named(wanted) == dict(zip(wanted, given, strict=True))
    with pytest.raises(ConversionError, match=r"no 'c\.weight'"):
        read_checkpoint(tmp_path / "a.ckpt").named([*wanted, "c.weight"])


def test_names_that_would_meet_stay_apart():
    names = ["model.a", "model._orig_mod.a"]
    assert plain_names(names) == {n: n for n in names}


def test_two_networks_in_one_file(tmp_path):
    a, b = nn.Linear(2, 2).state_dict(), nn.Linear(2, 1).state_dict()
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1.0}]}
    torch.save({"D": a, "G": b, "optim_G": optimizer, "loss": torch.ones(())}, tmp_path / "gan.pt")
    assert list(read_checkpoint(tmp_path / "gan.pt").tensors) == ["D.weight", "D.bias", "G.weight", "G.bias"]
    write_checkpoint(tmp_path / "gan.pt", {"G.bias": torch.zeros(1)}, tmp_path / "b.pt")
    assert torch.load(tmp_path / "b.pt", weights_only=True)["G"]["bias"] == 0


def test_a_file_that_contains_itself(tmp_path):
    data: dict[str, Any] = {"w": torch.ones(2)}
    data |= {f"part{i}": data for i in range(300)}
    torch.save(data, tmp_path / "a.pt")
    assert list(read_checkpoint(tmp_path / "a.pt").tensors) == ["w"]


def test_tensors_without_a_place(tmp_path):
    state = {"w": torch.ones(2), "meta": torch.empty(3, device="meta"), "more": torch.empty(3, device="meta")}
    state["sparse"] = torch.eye(3).to_sparse()
    torch.save(state, tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")
    assert list(found.tensors) == list(state) and not found.aliases
    assert tensor_names(tmp_path / "a.pt") == ["w"]
    write_checkpoint(tmp_path / "a.pt", {"w": torch.zeros(2)}, tmp_path / "b.pt")
    assert torch.equal(torch.load(tmp_path / "b.pt", weights_only=True)["sparse"].to_dense(), torch.eye(3))
    with pytest.raises(ConversionError, match="no such tensor"):
        write_checkpoint(tmp_path / "a.pt", {"sparse": torch.zeros(3, 3)}, tmp_path / "b.pt")


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_lightning_wrote_it(tmp_path):
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1))

        def training_step(self, batch, index):
            return self.model(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=1, limit_train_batches=1, default_root_dir=tmp_path, **quiet)
    data: Any = torch.randn(1, 2)
    trainer.fit(Module(), torch.utils.data.DataLoader(data, num_workers=0))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    found = read_checkpoint(tmp_path / "a.ckpt")
    assert list(found.names) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    write_checkpoint(tmp_path / "a.ckpt", {"model.0.bias": torch.ones(4)}, tmp_path / "b.ckpt")
    loaded = Module.load_from_checkpoint(tmp_path / "b.ckpt", weights_only=True)
    assert torch.equal(loaded.model.state_dict()["0.bias"], torch.ones(4)) and loaded.hparams["width"] == 4


class Code:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def declared(shape, stride, tmp_path):
    """A file in which a tensor of two numbers has another shape."""
    torch.save({"w": torch.zeros(2).as_strided(shape, stride)}, tmp_path / "bad.pt")


def packed(tmp_path):
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as old, zipfile.ZipFile(tmp_path / "bad.pt", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def overlapping(tmp_path):
    """One stretch of the file under many names."""
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
        archive.writestr("bad/data/0", bytes(1 << 20))
        for i in range(1, 10):
            archive.filelist.append(copy.copy(archive.getinfo("bad/data/0")))
            archive.filelist[-1].filename = f"bad/data/{i}"


BAD = {
    "code": (lambda p: torch.save({"w": Code()}, p / "bad.pt"), "more than tensors .*mkdir"),
    "module": (lambda p: torch.save(nn.Linear(1, 1), p / "bad.pt"), "more than tensors .*Linear"),
    "huge": (lambda p: declared((1 << 20, 1 << 20), (0, 0), p), "declares the shape"),
    "packed": (packed, "is packed"),
    "overlapping": (overlapping, "claim"),
    "nothing": (lambda p: torch.save({"epoch": 3}, p / "bad.pt"), "expected a state dict"),
    "optimizer only": (lambda p: torch.save({"optimizer": {"m": torch.ones(1)}}, p / "bad.pt"), "expected a state"),
    "text": (lambda p: (p / "bad.pt").write_text("hello"), "damaged|more than"),
    "missing": (lambda p: None, "no such file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_clear_error(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, message = BAD[case]
    make(tmp_path)
    start = time.monotonic()
    with pytest.raises(ConversionError, match=message):
        read_checkpoint(tmp_path / "bad.pt")
    assert not (tmp_path / "executed").exists() and time.monotonic() - start < 5


SAFE = {
    "huge shape": b'{"w":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}',
    "negative": b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
    "overlap": b'{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},'
    b'"v":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}',
    "other type": b'{"w":{"dtype":"X1","shape":[1],"data_offsets":[0,4]}}',
    "nested": b"[" * 100_000,
    "list": b"[]",
}


@pytest.mark.parametrize("case", SAFE)
def test_bad_safetensors(case, tmp_path):
    header = SAFE[case]
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ConversionError, match="damaged|has type"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kind", ["pt", "legacy.pt", "safetensors"])
def test_fuzz(tmp_path, kind):
    """Damaged bytes end in a ConversionError or in tensors, never in anything else, and take little memory."""
    path, bad = tmp_path / f"a.{kind}", tmp_path / f"bad.{kind}"
    if kind == "safetensors":
        save_model(Tied(), str(path))
    else:
        torch.save(training(Tied()), path, _use_new_zipfile_serialization=kind == "pt")
    good, rng, outcomes = path.read_bytes(), random.Random(0), {True: 0, False: 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(250):
        data = bytearray(good[: rng.randrange(len(good))] if rng.random() < 0.3 else good)
        for _ in range(rng.randrange(1, 6)):
            if data:
                data[rng.randrange(min(2500, len(data)))] = rng.randrange(256)
        bad.write_bytes(data)
        try:
            found = read_checkpoint(bad)
            write_checkpoint(bad, {n: t for n, t in found.tensors.items() if t.layout is torch.strided}, tmp_path / "c")
            outcomes[True] += 1
        except ConversionError:
            outcomes[False] += 1
    assert outcomes[False] > 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.zeros(4, 3)}, r"\(3, 4\)"),
        ({"new": torch.zeros(1)}, "no such tensor"),
        ({"a": torch.full((3, 4), 1e6)}, "not finite"),
        ({"i": torch.full((2,), 0.5)}, "torch.int64 cannot"),
    ],
)
def test_nothing_half_written(tmp_path, kind, tensors, message):
    state = {"a": torch.zeros(3, 4).half(), "i": torch.zeros(2, dtype=torch.int64)}
    path = tmp_path / f"a.{kind}"
    torch.save(state, path) if kind == "pt" else save_file(state, path)
    with pytest.raises(ConversionError, match=message):
        write_checkpoint(path, tensors, tmp_path / "b.pt")
    assert [f.name for f in tmp_path.iterdir()] == [path.name]


def test_names_of_one_tensor_agree(tmp_path):
    torch.save(Tied().state_dict(), tmp_path / "a.pt")
    with pytest.raises(ConversionError, match="one tensor"):
        new = {"embed.weight": torch.zeros(5, 3), "head.weight": torch.ones(5, 3)}
        write_checkpoint(tmp_path / "a.pt", new, tmp_path / "b.pt")
