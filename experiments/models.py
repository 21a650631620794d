"""Models that a configuration can name: ours and the baselines, behind one signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

import baselines
from baselines.nfn.encodings import NormalizeEntries
from baselines.weight_space import weight_space
from graphnfn.graph import NeuralGraph
from graphnfn.models import GraphMetaNet, MetaNetConfig
from graphnfn.spec import NetSpec


def graph_meta_net(
    *,
    out: int,
    specs: Sequence[NetSpec],
    layer: Literal["native", "gated", "synchronous", "combined", "probes", "complete"],
    width: int,
    rounds: int,
    **settings: Any,
) -> nn.Module:
    """Our model, one of its six kinds of layers; other settings are those of :class:`MetaNetConfig`."""
    config = MetaNetConfig(width=width, rounds=rounds, out=out, layer=layer, **settings)
    return GraphMetaNet(config, specs=specs)


def baseline(*, out: int, specs: Sequence[NetSpec], name: str, **overrides: Any) -> nn.Module:
    """A baseline by name."""
    return baselines.build(name, out=out, specs=specs, **overrides)


def take_statistics(model: nn.Module, networks: Callable[[], NeuralGraph]) -> None:
    """Set the statistics that a model takes once from its training networks, where it has such.

    Args:
        model: any; only NFN's published normalisation and our models with units or statistics do.
        networks: gives those of the training split; not called where no statistics are taken.
    """
    for module in model.modules():
        if isinstance(module, NormalizeEntries):
            module.fit(weight_space(networks()).channels_last())
        elif isinstance(module, GraphMetaNet) and (module.config.units or module.statistics is not None):
            module.fit([networks()])


def count_parameters(model: nn.Module, sample: NeuralGraph) -> int:
    """Trained numbers of a model, after one forward pass in case it makes its parameters only then."""
    was_training = model.training
    model.eval()(sample)
    model.train(was_training)
    return sum(p.numel() for p in model.parameters())
