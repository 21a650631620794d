"""Golden vectors of official modules, made with their unmodified code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor, nn

from baselines.foreign import official_spec
from baselines.official import load_official
from baselines.weight_space import WeightSpace
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec


@dataclass(frozen=True)
class Peer:
    """One golden file: tensors in float64, facts, and the architecture that the module read."""

    name: str
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    spec: NetSpec

    @property
    def class_path(self) -> str:
        return f"{self.meta['repository']}/{self.meta['class_path']}"

    @property
    def state(self) -> dict[str, Tensor]:
        """The official state dict."""
        return {k.removeprefix("param/"): v for k, v in self.tensors.items() if k.startswith("param/")}

    def kinds(self) -> set[str]:
        """What is stored: input, output, output_f64, output_g, ..."""
        return {name.split("/")[0] for name in self.tensors}

    def space(self, kind: str = "input") -> WeightSpace:
        """The tensors under ``input``, ``output_f64`` and so on; files without channels get one."""
        layers = len(self.spec.blocks)
        space = WeightSpace(
            tuple(self.tensors[f"{kind}/{i}.weight"] for i in range(layers)),
            tuple(self.tensors[f"{kind}/{i}.bias"] for i in range(layers)),
        )
        return space if self.meta["input_channels"] else space.map(lambda t: t[:, None])

    def graph(self, kind: str = "input") -> NeuralGraph:
        """The networks of a file without channels."""
        space = self.space(kind)
        one = [
            {
                f"{i}.{k}": ts[i][n, 0]
                for k, ts in (("weight", space.weights), ("bias", space.biases))
                for i in range(len(ts))
            }
            for n in range(len(space.biases[0]))
        ]
        return NeuralGraph.batch([NeuralGraph.build(self.spec, params) for params in one])

    def load(self) -> nn.Module:
        """Our module with these weights, in float64 and evaluation mode."""
        module = load_official(self.class_path, self.meta["constructor"], self.state, specs=[self.spec])
        return module.double().eval()

    def error(self, got: Tensor | WeightSpace, kind: str = "output") -> float:
        """The largest relative error against the stored result, over its tolerance: at most 1 is a pass.

        Results without a float64 copy are float64 results rounded to float32, and compared at 1e-7.
        """
        exact = f"{kind}_f64" in self.kinds()
        kind = f"{kind}_f64" if exact else kind
        tolerance = 1e-9 if exact else 1e-7
        if isinstance(got, Tensor):
            pairs = [(got, self.tensors[kind])]
        else:
            want = self.space(kind)
            pairs = list(zip((*got.weights, *got.biases), (*want.weights, *want.biases), strict=True))
        assert all(a.shape == b.shape for a, b in pairs), [(a.shape, b.shape) for a, b in pairs]
        largest = max(b.abs().max() for _, b in pairs)
        return float(max((a.detach() - b).abs().max() for a, b in pairs) / largest / tolerance)


@pytest.fixture(scope="session")
def peer(shared: Path) -> Callable[[str], Peer]:
    """A golden file by name."""

    def read(name: str) -> Peer:
        folder = shared / "peers"
        meta = json.loads((folder / f"{name}.json").read_text())
        tensors = load_file(folder / f"{name}.safetensors")
        tensors = {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}
        return Peer(name, meta, tensors, official_spec(meta))

    return read
