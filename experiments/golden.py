"""Parity with official codes: our modules with official weights against stored official outputs.

A golden file is ``NAME.safetensors`` with ``param/KEY``, ``input/LAYER.weight|bias`` and ``output...``, and
``NAME.json`` with ``repository``, ``class_path``, ``constructor``, ``input_architecture`` and ``input_channels``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import baselines
from baselines.foreign import official_spec
from baselines.weight_space import ChainForm, WeightSpace, weight_space
from experiments.errors import ExperimentError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec

Values = tuple[Tensor, ...]


@dataclass(frozen=True)
class Parity:
    """One golden file and how well we agree with it.

    Args:
        file: its name.
        model: our class.
        package: of our class.
        error: ``max |ours - official| / max |official|``, in float64; None where no baseline reads the class.
        exact: whether the file holds float64 results; else they were rounded to float32, to about 6e-8.
    """

    file: str
    model: str
    package: str
    error: float | None
    exact: bool


def parities(folder: Path) -> list[Parity]:
    """Agreement with every golden file of a folder.

    Raises:
        ExperimentError: the folder holds none, or a file is damaged.
        BaselineError: a file's weights do not fit its class.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ExperimentError(f"{folder} holds no golden files NAME.json, NAME.safetensors: give another folder")
    return [parity(path) for path in files]


def parity(path: Path) -> Parity:
    """Agreement with the golden file whose facts are in ``path``; errors are those of :func:`parities`."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        tensors = load_file(path.with_suffix(".safetensors"))
        class_path = f"{meta['repository']}/{meta['class_path']}"
        constructor, layered = meta["constructor"], bool(meta["input_channels"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ExperimentError(f"{path} is no golden file: {error}") from error
    tensors = {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}
    exact = any(name.split("/")[0] == "output_f64" for name in tensors)
    if class_path not in baselines.official_classes():
        return Parity(path.stem, class_path, "", None, exact)
    spec = official_spec(meta)
    state = {k.removeprefix("param/"): v for k, v in tensors.items() if k.startswith("param/")}
    module = baselines.load_official(class_path, constructor, state, specs=[spec]).double().eval()
    want = _values(tensors, "output_f64" if exact else "output")
    space = _space(_values(tensors, "input"), channels=layered)
    with torch.no_grad():
        got = _of_features(module, space, want) if layered else _of_networks(module, _graph(spec, space))
    if [g.shape for g in got] != [w.shape for w in want]:
        raise ExperimentError(
            f"{path}: our result has shapes {[tuple(g.shape) for g in got]}, the file {[tuple(w.shape) for w in want]}"
        )
    gap = max(float((g - w).abs().max()) for g, w in zip(got, want, strict=True))
    cls = type(module)
    package = ".".join(cls.__module__.split(".")[:2])
    return Parity(path.stem, cls.__name__, package, gap / max(float(w.abs().max()) for w in want), exact)


def _values(tensors: dict[str, Tensor], kind: str) -> Values:
    """One tensor, or all weights, then all biases."""
    if kind in tensors:
        return (tensors[kind],)
    layers = range(sum(name.startswith(f"{kind}/") and name.endswith(".weight") for name in tensors))
    return tuple(tensors[f"{kind}/{i}.{part}"] for part in ("weight", "bias") for i in layers)


def _space(values: Values, *, channels: bool) -> WeightSpace:
    half = len(values) // 2
    space = WeightSpace(values[:half], values[half:])
    return space if channels else space.map(lambda t: t[:, None])


def _graph(spec: NetSpec, space: WeightSpace) -> NeuralGraph:
    parts = {"weight": space.weights, "bias": space.biases}
    networks = [
        {f"{i}.{name}": t[n, 0] for name, tensors in parts.items() for i, t in enumerate(tensors)}
        for n in range(len(space.biases[0]))
    ]
    return NeuralGraph.batch([NeuralGraph.build(spec, network) for network in networks])


def _of_networks(module: Any, graph: NeuralGraph) -> Values:
    """Predictions, or what an editor adds."""
    result = module(graph)
    if isinstance(result, Tensor):
        return (result,)
    delta = weight_space(result).zip(weight_space(graph), torch.sub)
    return (*(w[:, 0] for w in delta.weights), *(b[:, 0] for b in delta.biases))


def _of_features(module: Any, space: WeightSpace, want: Values) -> Values:
    """The result of a single layer or pool, in the layout of the file."""
    result = module(space.channels_last())
    if isinstance(result, Tensor):
        return (result,)
    taps = tuple(tuple(w.shape[4:]) for w in want[: len(want) // 2])
    widths = (space.weights[0].shape[3], *(w.shape[2] for w in space.weights))
    result = result.channels_first(ChainForm(widths, taps))
    return (*result.weights, *result.biases)
