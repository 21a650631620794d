"""The descent head: its start, its typing, and what it must not touch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import graphnfn as gn
from graphnfn import testing
from graphnfn.chain import mlp_spec
from graphnfn.errors import SpecError
from graphnfn.nn.descent import DescentHead


def descent(graph: gn.NeuralGraph, noise: float = 0.3) -> gn.GraphMetaNet:
    config = gn.MetaNetConfig(width=4, rounds=0, head="descent", points=6)
    model = gn.GraphMetaNet(config, specs=graph.specs).to(graph.x.dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)
    return model


def test_it_starts_as_the_identity() -> None:
    graph = testing.random_graph(mlp_spec([2, 6, 6, 1], "sin"))
    assert torch.equal(descent(graph, 0.0)(graph).edge_attr, graph.edge_attr)
    assert not torch.equal(descent(graph)(graph).edge_attr, graph.edge_attr)


class Mistyped(DescentHead):
    """Negative control: activations in place of adjoints, which half turns negate and weights do not."""

    def _adjoints(self, xs: list[Tensor], *_: object) -> list[Tensor]:
        return [torch.zeros_like(xs[0]), *xs[1:]]


def test_a_wrong_parity_is_caught() -> None:
    graph = testing.random_graph(mlp_spec([2, 6, 6, 1], "sin"), networks=3)
    model = descent(graph)
    testing.assert_equivariant(model, graph, half_turns=2)
    model.head.__class__ = Mistyped
    with pytest.raises(AssertionError):
        testing.assert_equivariant(model, graph, half_turns=2)


@pytest.mark.parametrize("head", ["edit", "descent"])
def test_a_network_without_biases_keeps_none(head: str) -> None:
    """A bias that the checkpoint has no tensor for would be lost on the way back."""
    graph = testing.random_graph(mlp_spec([3, 6, 4], "tanh", bias=False))
    config = gn.MetaNetConfig(width=4, head=head)  # type: ignore[arg-type]
    model = gn.GraphMetaNet(config, specs=graph.specs).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    edited = model(graph)
    assert isinstance(edited, gn.NeuralGraph)
    assert torch.equal(edited.x, graph.x) and not torch.equal(edited.edge_attr, graph.edge_attr)


def test_layers_are_optional_for_this_head_only() -> None:
    with pytest.raises(SpecError, match="rounds 0 with head 'descent'"):
        gn.MetaNetConfig(rounds=0, head="edit")
    with pytest.raises(SpecError, match="points"):
        gn.MetaNetConfig(points=0)
