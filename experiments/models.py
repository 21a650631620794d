"""Models that a configuration can name: ours and the baselines, behind one signature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import baselines
from baselines.nfn.encodings import NormalizeEntries
from baselines.weight_space import weight_space
from experiments.render_then_classify import RenderThenClassify
from graphnfn.config import Layer, MetaNetConfig
from graphnfn.graph import NeuralGraph
from graphnfn.models import GraphMetaNet
from graphnfn.spec import NetSpec
from graphnfn.zoo import Zoo


def graph_meta_net(
    *,
    out: int,
    specs: Sequence[NetSpec],
    layer: Layer,
    width: int,
    rounds: int,
    **settings: Any,
) -> nn.Module:
    """Our model, with one of its kinds of layers; other settings are those of :class:`MetaNetConfig`."""
    config = MetaNetConfig(width=width, rounds=rounds, out=out, layer=layer, **settings)
    return GraphMetaNet(config, specs=specs)


def baseline(*, out: int, specs: Sequence[NetSpec], name: str, **overrides: Any) -> nn.Module:
    """A baseline by name."""
    return baselines.build(name, out=out, specs=specs, **overrides)


def take_statistics(model: nn.Module, networks: Callable[[], NeuralGraph]) -> None:
    """Set the statistics that a model takes once from its training networks, where it has such.

    Args:
        model: any; only NFN's published normalisation and our models with units, statistics,
            functionals or lattices do.
        networks: gives those of the training split; not called where no statistics are taken.
    """
    for module in model.modules():
        if isinstance(module, NormalizeEntries):
            module.fit(weight_space(networks()).channels_last())
        elif isinstance(module, GraphMetaNet) and module.fits:
            module.fit([networks()])


MOST_PREPARED = 2**27
"""Weights of a zoo up to which its networks are prepared in memory (half a GiB); pictures come on top."""


def prepared(model: nn.Module, zoo: Zoo) -> Zoo:
    """The zoo with its networks as a model of ours reads them, or with their pictures, made once for all steps.

    The same zoo where the model has nothing to prepare, or where the networks would take too much memory.

    Args:
        model: any, with all its parameters made.
        zoo: whose networks the model is about to read many times.
    """
    counts = torch.bincount(zoo.spec_index, minlength=len(zoo.specs)).tolist()
    sizes = [sum(math.prod(shape) for shape in spec.params.values()) for spec in zoo.specs]
    numbers = sum(count * size for count, size in zip(counts, sizes, strict=True))
    if not isinstance(model, (GraphMetaNet, RenderThenClassify)) or numbers > MOST_PREPARED:
        return zoo
    if isinstance(model, GraphMetaNet) and model.config.head != "invariant":
        return zoo
    with torch.no_grad():
        return zoo.with_networks(model.prepare(zoo.batch(slice(None))))


def count_parameters(model: nn.Module, sample: NeuralGraph) -> int:
    """Trained numbers of a model, after one forward pass in case it makes its parameters only then."""
    was_training = model.training
    model.eval()(sample)
    model.train(was_training)
    return sum(p.numel() for p in model.parameters())
