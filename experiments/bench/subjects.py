"""What is measured: networks of two shapes, models on them, and their steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

import baselines
from baselines.errors import BaselineError
from experiments import config
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.models import LAYERS, GraphMetaNet, MetaNetConfig
from graphnfn.nn.taps import waves
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.testing import random_graph
from graphnfn.traced_stack import AnyStack

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Shape:
    """An architecture of input networks, and how many numbers are predicted for each."""

    title: str
    spec: NetSpec
    out: int

    def stack(self, networks: int) -> Stack:
        """Random networks."""
        (stack,) = random_graph(self.spec, dtype=torch.float32, networks=networks).stacks()
        return stack


SHAPES = {
    "siren": Shape("SIREN 2-32-32-1", mlp_spec([2, 32, 32, 1], "sin", omega=30.0), 10),
    "small_cnn": Shape("small CNN 1-16-16-16-10", small_cnn_spec([1, 16, 16, 16], 10, "relu", stride=2), 1),
}


CONFIGURED = ("gated", "paths", "complete")
"""Models that the command line has with statistics, or on balanced weights; SIRENs are read without either."""


def ours(layer: str, shape: Shape, *, width: int = 32, rounds: int = 1) -> GraphMetaNet:
    """One of our models, sized for a shape."""
    settings: Any = {"layer": layer, "width": width, "rounds": rounds, "out": shape.out}
    torch.manual_seed(0)
    return GraphMetaNet(MetaNetConfig(**settings), specs=[shape.spec])


def configured(name: str, shape: Shape) -> nn.Module:
    """One of our models as ``model=NAME`` of the command line, sized for a shape."""
    torch.manual_seed(0)
    return config.make(config.load([f"model={name}"]).model.build, out=shape.out, specs=[shape.spec])


def models(shape: Shape) -> dict[str, Make]:
    """Our models and every baseline that reads chains of layers, with default settings, and :data:`CONFIGURED`."""
    found: dict[str, Make] = {name: (lambda name=name: ours(name, shape)) for name in LAYERS}
    if not waves(shape.spec):
        for name in CONFIGURED:
            found[f"{name}, as configured"] = lambda name=name: configured(name, shape)
    for name in (n for n in baselines.names() if n not in baselines.adapter_names()):
        found[name] = lambda name=name: baselines.build(name, out=shape.out, specs=[shape.spec])
    try:
        import_module("nfn")
    except ImportError:
        return found
    return found | {"PyPI nfn (HNP)": lambda: PackagedNFN(shape)}


def readable(shape: Shape) -> tuple[dict[str, nn.Module], list[str]]:
    """The models that read a shape, and the names of those that say that they do not.

    Settings that were published for SIRENs are for dense networks: with convolutions they make layers of tens of GiB.
    """
    found: dict[str, nn.Module] = {}
    refused: list[str] = []
    dense = all(b.kind == "linear" for b in shape.spec.blocks)
    for name, make in models(shape).items():
        if "siren" in name and not dense:
            refused.append(name)
            continue
        try:
            found[name] = make()
        except BaselineError:
            refused.append(name)
    return found, refused


class PackagedNFN(nn.Module):
    """HNP layers and pooling of the package ``nfn``, three layers of 32 channels, one head: for its cost only."""

    def __init__(self, shape: Shape, channels: int = 32) -> None:
        super().__init__()
        layers, common = import_module("nfn.layers"), import_module("nfn.common")
        self.common, weights, biases = common, *self._split(shape.stack(1))
        features = common.WeightSpaceFeatures(weights, biases)
        spec = common.network_spec_from_wsfeat(features)
        stages: list[nn.Module] = []
        for into in (1, channels, channels):
            stages += [layers.HNPLinear(spec, into, channels), layers.TupleOp(nn.ReLU())]
        self.body = nn.Sequential(*stages, layers.HNPPool(spec), nn.Flatten())
        with torch.no_grad():
            width = self.body(features).shape[-1]
        self.head = nn.Linear(width, shape.out)

    def forward(self, graph: NeuralGraph) -> Tensor:
        (stack,) = graph.stacks()
        return self.head(self.body(self.common.WeightSpaceFeatures(*self._split(stack))))

    @staticmethod
    def _split(stack: Stack) -> tuple[list[Tensor], list[Tensor]]:
        """Weights ``[B, 1, out, in, *taps]`` and biases ``[B, 1, out]``, layer by layer, as the package wants them."""
        values = stack.unpack()
        spec = stack.spec
        weights = [values[b.param][:, None] for b in spec.blocks]
        return weights, [stack.group(i)[:, None, :, 0] for i in range(1, len(spec.groups))]


def training_step(model: nn.Module, stack: AnyStack) -> Callable[[], None]:
    """Forward, loss, backward and AdamW; the batch is put together from the stack each time."""
    with torch.no_grad():
        model(NeuralGraph.from_stacks([stack]))  # a model may make parameters in its first pass
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        loss = model(NeuralGraph.from_stacks([stack])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
