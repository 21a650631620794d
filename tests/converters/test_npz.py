"""NumPy archives: every dtype and layout goes back to the bit; a real recurrent network; nothing is unpickled."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.npz import read_npz, write_npz
from graphnfn.errors import ConversionError

GRAPHEMES = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
START, STOP = 2, 3
"""Phonemes that begin and end a word."""


class Pronounce(nn.Module):
    """Phoneme scores of a spelled word, given the phonemes so far: two GRUs in PyTorch's layout (gates r, z, n)."""

    enc_emb: Tensor
    dec_emb: Tensor
    enc_w_hh: Tensor
    fc_w: Tensor
    fc_b: Tensor

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in tensors.items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    def cell(self, part: str, x: Tensor, h: Tensor) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = (getattr(self, f"{part}_{n}") for n in ("w_ih", "w_hh", "b_ih", "b_hh"))
        xr, xz, xn = F.linear(x, w_ih, b_ih).chunk(3, -1)
        hr, hz, hn = F.linear(h, w_hh, b_hh).chunk(3, -1)
        z = torch.sigmoid(xz + hz)
        return (1 - z) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + z * h

    def forward(self, letters: Tensor, phonemes: Tensor) -> Tensor:
        spelled, spoken = F.embedding(letters, self.enc_emb), F.embedding(phonemes, self.dec_emb)
        h = torch.zeros(len(letters), self.enc_w_hh.shape[1], dtype=spelled.dtype, device=spelled.device)
        for t in range(letters.shape[1]):
            h = self.cell("enc", spelled[:, t], h)
        scores = []
        for t in range(phonemes.shape[1]):
            h = self.cell("dec", spoken[:, t], h)
            scores.append(F.linear(h, self.fc_w, self.fc_b))
        return torch.stack(scores, 1)


def g2p_module(tensors):
    return Pronounce(tensors).eval()


@pytest.fixture(scope="module")
def checkpoint(request, tmp_path_factory):
    """``checkpoint20.npz`` of PyPI's g2p-en, kept in pytest's cache."""
    cache = request.config.cache.mkdir("checkpoints")
    if not list(cache.glob("g2p_en-*.whl")):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(cache),
            "g2p-en==2.1.0",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = f"g2p-en==2.1.0 cannot be downloaded: {done.stderr.strip()[-200:]}"
            (pytest.fail if os.environ.get("GRAPHNFN_REQUIRE_DOWNLOADS") else pytest.skip)(reason)
    with zipfile.ZipFile(next(cache.glob("g2p_en-*.whl"))) as archive:
        return archive.extract("g2p_en/checkpoint20.npz", tmp_path_factory.mktemp("g2p"))


def spelled(word):
    return torch.tensor([[GRAPHEMES.index(c) for c in word] + [GRAPHEMES.index("</s>")]])


def pronounced(module, word):
    """Greedy decoding."""
    heard = [START]
    while len(heard) <= 20:
        heard.append(int(module(spelled(word), torch.tensor([heard]))[0, -1].argmax()))
        if heard[-1] == STOP:
            break
    return heard[1:-1]


def by_pytorch(tensors, letters, phonemes):
    """The same with torch.nn.GRU, whose layout the file has."""
    out = None
    for part, indices in (("enc", letters), ("dec", phonemes)):
        gru = nn.GRU(tensors[f"{part}_w_ih"].shape[1], tensors[f"{part}_w_hh"].shape[1], batch_first=True)
        names = {"weight_ih_l0": "w_ih", "weight_hh_l0": "w_hh", "bias_ih_l0": "b_ih", "bias_hh_l0": "b_hh"}
        gru.load_state_dict({own: tensors[f"{part}_{name}"] for own, name in names.items()})
        out = gru(
            F.embedding(indices, tensors[f"{part}_emb"]), out[:, -1:].transpose(0, 1) if out is not None else None
        )[0]
    return F.linear(out, tensors["fc_w"], tensors["fc_b"])


def test_g2p_runs_and_exports(checkpoint):
    tensors = read_npz(checkpoint)
    module = g2p_module(tensors)
    inputs = spelled("activationist"), torch.tensor([[START, 10, 20, 30]])
    with torch.no_grad():
        expected = by_pytorch(tensors, *inputs)
        got = module(*inputs)
        exported = torch.export.export(module, inputs, strict=False).module()(*inputs)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (exported - got).abs().max() <= 1e-6 * expected.abs().max()


def test_g2p_is_trained(checkpoint):
    """Words of different sounds are pronounced differently, and rhymes end alike."""
    module = g2p_module(read_npz(checkpoint))
    nation, station, hello = (pronounced(module, word) for word in ("nation", "station", "hello"))
    assert nation[-3:] == station[-3:] != hello[-3:]


def test_g2p_goes_back_to_the_bit(checkpoint, tmp_path):
    tensors = read_npz(checkpoint)
    write_npz(checkpoint, tensors, tmp_path / "back.npz")
    assert _members(tmp_path / "back.npz") == _members(checkpoint)
    write_npz(checkpoint, {"fc_b": tensors["fc_b"] + 1}, tmp_path / "moved.npz")
    changed = [a[0] for a, b in zip(_members(checkpoint), _members(tmp_path / "moved.npz"), strict=True) if a != b]
    assert changed == ["fc_b.npy"]


def _members(path):
    with zipfile.ZipFile(path) as archive:
        return [(i.filename, i.date_time, i.compress_type, archive.read(i)) for i in archive.infolist()]


def arrays():
    rng = np.random.default_rng(0)
    made = {d: rng.normal(size=(3, 4)).astype(d) for d in ("f2", "f4", "f8", ">f4", ">f8")}
    made |= {"fortran": np.asfortranarray(rng.normal(size=(3, 4))), "steps": np.array(7), "empty": np.zeros((0, 3))}
    return made | {"flags": np.array([True, False]), "i1": np.arange(3, dtype="i1"), "u1": np.arange(3, dtype="u1")}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_dtype_and_layout(save, tmp_path):
    made = arrays()
    save(tmp_path / "a.npz", **made, labels=np.array(["a", "bc"]))
    tensors = read_npz(tmp_path / "a.npz")
    assert list(tensors) == list(made)  # without the text
    for name, array in made.items():
        assert tensors[name].shape == array.shape
        assert np.array_equal(tensors[name].numpy(), array)
    write_npz(tmp_path / "a.npz", tensors, tmp_path / "b.npz")
    assert _members(tmp_path / "a.npz") == _members(tmp_path / "b.npz")
    write_npz(tmp_path / "a.npz", {"fortran": -tensors["fortran"], ">f4": -tensors[">f4"]}, tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as moved:
        assert moved[">f4"].dtype == np.dtype(">f4")
        assert np.array_equal(moved["fortran"], -made["fortran"])
        assert np.array_equal(moved[">f4"], -made[">f4"])


class Code:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "bad.npz", **arrays)
    return tmp_path / "bad.npz"


def zipped(tmp_path, data, name="w.npy", repeat=1, **settings):
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w", **settings) as archive, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate name")
        for _ in range(repeat):
            archive.writestr(name, data)
    return path


def npy(shape, descr="<f4", values=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
    return file.getvalue() + values


BAD = {
    "objects": (lambda p: saved(p, w=np.array([Code()], dtype=object)), "Python objects"),
    "huge shape": (lambda p: zipped(p, npy((1 << 20, 1 << 20))), "declares the shape"),
    "negative": (lambda p: zipped(p, npy((-1, -4), values=bytes(16))), "declares the shape"),
    "short": (lambda p: zipped(p, npy((4,), values=bytes(15))), "declares the shape"),
    "complex": (lambda p: saved(p, w=np.zeros(3, complex)), "values of type complex128"),
    "structure": (lambda p: saved(p, w=np.zeros(3, "f4,i4")), "values of type"),
    "version": (lambda p: zipped(p, b"\x93NUMPY\x09\x00" + bytes(8)), "version"),
    "twice": (lambda p: zipped(p, npy((0,)), repeat=2), "the same name"),
    "nothing": (lambda p: zipped(p, b"", name="readme.txt"), "no arrays"),
    "missing": (lambda p: p / "missing.npz", "no such file"),
    "no zip": (lambda p: _text(p), "damaged"),
}


def _text(path):
    (path / "bad.npz").write_text("hello")
    return path / "bad.npz"


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_clear_error(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, message = BAD[case]
    with pytest.raises(ConversionError, match=message):
        read_npz(make(tmp_path))
    assert not (tmp_path / "executed").exists()


def test_zip_bomb(tmp_path):
    path = zipped(tmp_path, npy((1 << 22,), values=bytes(1 << 24)), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    assert len(read_npz(path)["w"]) == 1 << 22  # what deflate can pack is no bomb in itself
    data = bytearray(path.read_bytes())
    size = data.rindex(b"PK\x01\x02") + 24  # of the unpacked file, in the list of files
    assert int.from_bytes(data[size : size + 4], "little") > 1 << 24
    data[size : size + 4] = (0xF0000000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ConversionError, match="claims 4026531840 bytes"):
        read_npz(path)


def test_fuzz(tmp_path):
    """Damaged bytes end in a ConversionError or in arrays, never in anything else."""
    np.savez_compressed(tmp_path / "good.npz", allow_pickle=False, **arrays())
    good, rng, outcomes = (tmp_path / "good.npz").read_bytes(), random.Random(0), {True: 0, False: 0}
    for _ in range(300):
        data = bytearray(good[: rng.randrange(len(good))] if rng.random() < 0.3 else good)
        for _ in range(rng.randrange(1, 6)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "bad.npz").write_bytes(data)
        try:
            outcomes[bool(read_npz(tmp_path / "bad.npz"))] += 1
        except ConversionError:
            outcomes[False] += 1
    assert outcomes[False] > 100


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"f4": torch.zeros(4, 3)}, r"\(3, 4\)"),
        ({"new": torch.zeros(1)}, "no such array"),
        ({"f2": torch.full((3, 4), 1e6)}, "not finite"),
    ],
)
def test_nothing_half_written(tensors, message, tmp_path):
    np.savez(tmp_path / "a.npz", allow_pickle=False, **arrays())
    with pytest.raises(ConversionError, match=message):
        write_npz(tmp_path / "a.npz", tensors, tmp_path / "b.npz")
    assert [f.name for f in tmp_path.iterdir()] == ["a.npz"]
