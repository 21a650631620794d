"""Models that a configuration can name: ours and the baselines, behind one signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

import baselines
from graphnfn.graph import NeuralGraph
from graphnfn.models import GraphMetaNet, MetaNetConfig
from graphnfn.spec import NetSpec


def graph_meta_net(
    *,
    out: int,
    specs: Sequence[NetSpec],
    layer: Literal["native", "gated", "synchronous", "combined"],
    width: int,
    rounds: int,
) -> nn.Module:
    """Our model, one of its four kinds of layers."""
    return GraphMetaNet(MetaNetConfig(width=width, rounds=rounds, out=out, layer=layer), specs=specs)


def baseline(*, out: int, specs: Sequence[NetSpec], name: str, **overrides: Any) -> nn.Module:
    """A baseline by name."""
    return baselines.build(name, out=out, specs=specs, **overrides)


def count_parameters(model: nn.Module, sample: NeuralGraph) -> int:
    """Trained numbers of a model, after one forward pass in case it makes its parameters only then."""
    was_training = model.training
    model.eval()(sample)
    model.train(was_training)
    return sum(p.numel() for p in model.parameters())
