"""Models that read networks in balanced form: exact, and deaf to neurons that do hardly anything."""

from __future__ import annotations

import pytest
import torch

import graphnfn as gn
from graphnfn import testing
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.config import Head
from graphnfn.models import GraphMetaNet, MetaNetConfig
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack

RELU = mlp_spec([7, 6, 5, 2], "relu")
COORDINATES = mlp_spec([2, 6, 5, 1], "relu")
SPECS = [RELU, COORDINATES, small_cnn_spec([1, 4, 5], 3, "relu")]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("head", ["invariant", "edit", "descent"])
def test_symmetry(spec: NetSpec, head: Head) -> None:
    torch.manual_seed(0)
    config = MetaNetConfig(width=8, layer="gated", head=head, balanced=True, statistics=head == "invariant")
    graph = testing.random_graph(spec, networks=3)
    testing.assert_equivariant(GraphMetaNet(config, specs=[spec]).double(), graph)


@pytest.mark.parametrize("spec", SPECS)
def test_it_is_another_form_but_for_coordinate_networks(spec: NetSpec) -> None:
    graph, found = testing.random_graph(spec, networks=3), []
    for balanced in (False, True):
        torch.manual_seed(0)
        model = GraphMetaNet(MetaNetConfig(width=8, layer="gated", balanced=balanced), specs=[spec]).double().eval()
        assert torch.equal(model(model.prepare(graph)), model(graph))
        found.append(model(graph))
    assert torch.equal(*found) == (spec == COORDINATES)


def test_at_the_reference_width_it_is_plain() -> None:
    spec, found = mlp_spec([7, 6, 6, 2], "relu"), []
    graph = testing.random_graph(spec, networks=3)
    for reference in (None, 6, 3):
        torch.manual_seed(0)
        config = MetaNetConfig(width=8, layer="gated", balanced=True, reference_width=reference)
        found.append(GraphMetaNet(config, specs=[spec]).double()(graph))
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def change_where_a_quiet_neuron_turns(balanced: bool) -> float:
    """How far predictions move, relative to their spread, when what enters a neuron of little effect is negated."""
    torch.manual_seed(0)
    stack = testing.random_graph(RELU, networks=16).stacks()[0].apply(torch.clone)
    assert isinstance(stack, Stack)
    for values in (
        stack.blocks[0][:, 2],
        stack.blocks[1][:, :, 2],
        stack.nodes[:, stack.spec.span("layers.0").start + 2],
    ):
        values *= 1e-3
    turned = stack.apply(torch.clone)
    turned.blocks[0][:, 2] *= -1
    model = GraphMetaNet(MetaNetConfig(width=16, layer="gated", balanced=balanced), specs=[RELU]).double()
    before, after = (model(gn.NeuralGraph.from_stacks([s])) for s in (stack, turned))
    return float(((after - before).abs().mean() / before.std()).detach())


def test_a_neuron_that_does_hardly_anything_is_hardly_seen() -> None:
    loud, quiet = (change_where_a_quiet_neuron_turns(balanced) for balanced in (False, True))
    assert quiet < loud / 20
