"""Damaged files of all formats: every one is refused in words or a valid graph, quickly, and nothing is executed."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

WORKER = Path(__file__).with_name("fuzz_worker.py")


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))


def _onnx(path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(6, 3)), "b": rng.normal(size=6), "c": rng.normal(size=(2, 6))}
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["h"], transB=1), helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "c"], ["y"], transB=1),
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [2, 3]), ("y", [2, 2]))]
    weights = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


def _keras(path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [
        {"class_name": "Dense", "config": {"name": "one", "units": 6, "activation": "relu", "use_bias": True,
                                           "batch_input_shape": [None, 3]}},
        {"class_name": "Dense", "config": {"name": "two", "units": 2, "activation": "linear", "use_bias": True}},
    ]  # fmt: skip
    with h5py.File(path, "w") as file:
        config = {"class_name": "Sequential", "config": {"name": "net", "layers": layers}}
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.2.4"
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [b"one", b"two"]
        for name, into, out in (("one", 3, 6), ("two", 6, 2)):
            group = root.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()]
            group[f"{name}/kernel:0"] = rng.normal(size=(into, out)).astype("f4")
            group[f"{name}/bias:0"] = rng.normal(size=out).astype("f4")


def _npz(path: Path) -> None:
    np.savez(path, **{k: v.numpy() for k, v in _net().state_dict().items()})


MAKERS: dict[str, Callable[[Path], None]] = {
    ".safetensors": lambda p: save_file(_net().state_dict(), p),
    ".pt": lambda p: torch.save(_net().state_dict(), p),
    ".pth": lambda p: torch.save(
        {"epoch": 3, "state_dict": _net().state_dict()}, p, _use_new_zipfile_serialization=False
    ),
    ".npz": _npz,
    ".onnx": _onnx,
    ".h5": _keras,
    ".jit": lambda p: torch.jit.script(_net()).save(str(p)),
}  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A truncation, some flipped bits, an overwritten run, a duplicated or a removed piece, a wild number."""
    out = bytearray(data)
    at = rng.randrange(len(out))
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(out[:at])
    if kind == 1:
        for _ in range(rng.randint(1, 8)):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        n = rng.randint(1, 64)
        out[at : at + n] = rng.randbytes(n)
    elif kind == 3:
        out[at:at] = out[at : at + rng.randint(1, 200)]
    elif kind == 4:
        del out[at : at + rng.randint(1, 200)]
    else:
        wild = rng.choice([b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x00" * 8, (1 << 62).to_bytes(8, "little"), b"-1"])
        out[at : at + len(wild)] = wild
    return bytes(out)


class _Payload:
    """Unpickling it would make a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


def _hostile(folder: Path) -> list[Path]:
    """Made by hand: code in pickles, zip bombs, huge shapes, negative axes, cycles, paths out of the folder."""
    marker = folder / "executed"
    made = []

    def add(name: str, content: bytes | Callable[[Path], None]) -> None:
        path = folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
        made.append(path)

    add("code.pt", lambda p: torch.save({"0.weight": _Payload(marker)}, p))
    add("code.pth", pickle.dumps(_Payload(marker)))
    add("code.npz", lambda p: np.savez(p, w=np.array([_Payload(marker)], dtype=object)))
    header = json.dumps({"0.weight": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 8]}}).encode()
    add("huge.safetensors", len(header).to_bytes(8, "little") + header + b"\0" * 8)
    add("header.safetensors", (1 << 60).to_bytes(8, "little") + b"{}")

    def bomb(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("w.npy", b"\0" * (1 << 28))

    add("bomb.npz", bomb)
    add("bomb.pt", bomb)
    for name, dims in (("negative.onnx", [-3, 2]), ("wide.onnx", [1 << 40, 1 << 20])):

        def shaped(path: Path, dims: list[int] = dims) -> None:
            _onnx(path)
            model = onnx.load(path)
            del model.graph.initializer[0].dims[:]
            model.graph.initializer[0].dims.extend(dims)
            path.write_bytes(model.SerializeToString())

        add(name, shaped)

    def cycle(path: Path) -> None:
        _onnx(path)
        model = onnx.load(path)
        model.graph.node[0].input[0] = "r"
        path.write_bytes(model.SerializeToString())

    add("cycle.onnx", cycle)

    def outside(path: Path) -> None:
        _onnx(path)
        model = onnx.load(path)
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="../../../../../../etc/passwd")
        path.write_bytes(model.SerializeToString())

    add("outside.onnx", outside)
    return made


def _convert_all(paths: list[Path]) -> dict[str, dict]:
    lines = "".join(f"{path}\n" for path in paths)
    command = [sys.executable, str(WORKER)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(rows) == len(paths), f"the process died: {done.stderr[-500:]}"
    return {row["path"]: row for row in rows}


def _files(folder: Path, each: int) -> list[Path]:
    paths = []
    for suffix, make in MAKERS.items():
        whole = folder / f"whole{suffix}"
        make(whole)
        data, rng = whole.read_bytes(), random.Random(suffix)
        for k in range(each):
            path = folder / f"{k:04d}{suffix}"
            path.write_bytes(mutated(data, rng))
            paths.append(path)
    return paths


def _check(rows: dict[str, dict]) -> Counter:
    bad = {path: row for path, row in rows.items() if row["word"] not in ("graph", "refused") or row["seconds"] > 10}
    assert not bad, json.dumps(dict(list(bad.items())[:5]), indent=1)
    return Counter(row["word"] for row in rows.values())


def test_whole_files_convert(tmp_path: Path) -> None:
    """Positive control: what the mutations start from is fine."""
    _files(tmp_path, 0)
    rows = _convert_all(sorted(tmp_path.glob("whole*")))
    assert {row["word"] for row in rows.values()} == {"graph"}, rows


def test_hostile_files_are_refused(tmp_path: Path) -> None:
    rows = _convert_all(_hostile(tmp_path))
    assert {row["word"] for row in rows.values()} == {"refused"}, rows
    assert not (tmp_path / "executed").exists()


def test_mutated_files(tmp_path: Path) -> None:
    counts = _check(_convert_all(_files(tmp_path, 60)))
    assert counts["refused"] > counts["graph"]


@pytest.mark.slow
def test_many_mutated_files(tmp_path: Path) -> None:
    """2,800 files."""
    assert sum(_check(_convert_all(_files(tmp_path, 400))).values()) == 2800
