"""Checkpointed models of chains: the same numbers from less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import graphnfn as gn
from graphnfn.chain import mlp_spec
from graphnfn.models import LAYERS
from graphnfn.testing import random_graph


def _model(graph: gn.NeuralGraph, layer: str, *, checkpoint: bool) -> gn.GraphMetaNet:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"width": 16, "rounds": 3, "layer": layer, "checkpoint": checkpoint}
    return gn.GraphMetaNet(gn.MetaNetConfig(**settings), specs=[graph.spec]).double()


@pytest.mark.parametrize("layer", list(LAYERS))
def test_checkpoints_change_no_number(layer: str) -> None:
    graph = random_graph(mlp_spec([2, 12, 12, 1], "tanh"), networks=3)
    found = []
    for checkpoint in (False, True):
        model = _model(graph, layer, checkpoint=checkpoint)
        out = model(graph)
        out.square().sum().backward()
        found.append([out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 5
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-13)


def test_checkpoints_save_memory() -> None:
    graph = random_graph(mlp_spec([2, *[100] * 6, 1], "relu"), networks=4)
    peaks = []
    for checkpoint in (False, True):
        model = _model(graph, "gated", checkpoint=checkpoint)
        model(graph).sum().backward()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
            model(graph).sum().backward()
        events: Any = run.profiler and run.profiler.kineto_results
        held = most = 0
        for event in sorted((e for e in events.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
            held += event.nbytes()
            most = max(most, held)
        peaks.append(most)
    assert peaks[1] < 0.7 * peaks[0]
