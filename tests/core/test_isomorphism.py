"""``assert_isomorphic``: renamed neurons are found again, everything else is told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import graphnfn as gn
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.symmetry import GroupElement
from graphnfn.testing import assert_isomorphic, random_graph

SPECS = [mlp_spec([3, 6, 5, 2], "tanh"), small_cnn_spec([1, 4, 5], 3, "relu")]


@pytest.mark.parametrize("spec", SPECS)
def test_a_permutation_is_found(spec: gn.NetSpec) -> None:
    graph = random_graph(spec)
    element = gn.random_element(spec, decades=0.0, seed=1)
    actions = {k: replace(a, sign=torch.ones_like(a.sign)) for k, a in element.actions.items()}
    plain = GroupElement(spec, actions)
    moved = gn.act(plain, graph)
    mapping = assert_isomorphic(graph, moved)
    assert torch.equal(mapping.sort().values, torch.arange(graph.num_nodes))
    assert torch.equal(moved.x[mapping], graph.x)
    for group in spec.groups[1:-1]:
        span = spec.span(group.id)
        places = mapping[span] - span.start
        assert torch.equal(plain.actions[group.id].perm[places], torch.arange(group.size))


def _changed(graph: gn.NeuralGraph, name: str, change: Tensor) -> gn.NeuralGraph:
    state = graph.state_dict()
    state[name] = state[name] + change
    return gn.NeuralGraph.build(graph.spec, state)


@pytest.mark.parametrize("name", ["layers.0.bias", "layers.1.weight"])
def test_one_other_number_is_noticed(name: str) -> None:
    graph = random_graph(SPECS[0])
    change = torch.zeros_like(graph.state_dict()[name])
    change.view(-1)[0] = 1e-14
    with pytest.raises(AssertionError, match="have no counterpart|edges differ"):
        assert_isomorphic(graph, _changed(graph, name, change))


def test_columns_that_do_not_follow_are_noticed() -> None:
    graph = random_graph(SPECS[0])
    state = graph.state_dict()
    state["layers.1.weight"] = state["layers.1.weight"].flip(1)
    with pytest.raises(AssertionError, match="no counterpart"):
        assert_isomorphic(graph, gn.NeuralGraph.build(graph.spec, state))


def test_other_roles_and_symmetries_are_noticed() -> None:
    one, other = (random_graph(mlp_spec([3, 4, 2], act)) for act in ("relu", "gelu"))
    same = gn.NeuralGraph.build(other.spec, one.state_dict())
    with pytest.raises(AssertionError, match="4 neurons of the first graph"):
        assert_isomorphic(one, same)


def test_other_numbers_of_neurons_or_edges() -> None:
    with pytest.raises(AssertionError, match="11 neurons in the first graph, 16 in the second"):
        assert_isomorphic(random_graph(mlp_spec([3, 6, 2], "relu")), random_graph(SPECS[0]))
    with pytest.raises(AssertionError, match="edges in the first graph"):
        assert_isomorphic(random_graph(mlp_spec([3, 5, 6, 2], "tanh")), random_graph(mlp_spec([3, 4, 7, 2], "tanh")))


def test_refinement_alone_is_not_trusted() -> None:
    """Two four-cycles and one cycle of eight: every neuron looks the same from all sides, the edges differ."""
    spec = mlp_spec([4, 4, 1], "relu")
    blocks = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).double()
    ring = (torch.eye(4) + torch.eye(4).roll(1, 1)).double()
    graphs = []
    for weight in (blocks, ring):
        state = {k: torch.zeros(s, dtype=torch.float64) for k, s in spec.params.items()}
        state["layers.0.weight"] = weight
        graphs.append(gn.NeuralGraph.build(spec, state))
    assert_isomorphic(graphs[0], graphs[0])
    with pytest.raises(AssertionError, match="their edges differ"):
        assert_isomorphic(*graphs)
