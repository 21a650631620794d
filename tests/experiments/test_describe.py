"""What inspect says of a network."""

from __future__ import annotations

import torch

from experiments.describe import dead_neurons, describe
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.symmetry import act, random_element
from graphnfn.testing import random_graph


def test_scales_are_subtracted_once_per_live_relu_neuron() -> None:
    facts = describe(random_graph(small_cnn_spec([1, 16, 16, 16], 10, "relu")))
    assert (facts.parameters, facts.freedom) == (4970, 4970 - 48)
    assert [g.symmetry for g in facts.groups] == ["fixed", *["permutations, positive scales"] * 3, "fixed"]


def test_signs_leave_the_degrees_of_freedom_alone() -> None:
    facts = describe(random_graph(mlp_spec([2, 5, 1], "sin", omega=30.0)))
    assert facts.parameters == facts.freedom
    assert facts.groups[1].symmetry == "permutations, sign flips, half turns"


def test_dead_neurons_are_found_on_both_sides_and_carry_no_scale() -> None:
    spec = mlp_spec([2, 5, 3, 1], "relu")
    weights = random_graph(spec).state_dict()
    weights["layers.0.weight"][1] = 0
    weights["layers.0.bias"][1] = 0
    weights["layers.1.weight"][:, 3] = 0
    graph = NeuralGraph.build(spec, weights)
    assert dead_neurons(graph.stacks()[0], 1).tolist() == [[False, True, False, True, False]]
    facts = describe(graph)
    assert facts.groups[1].dead == 2 and facts.parameters - facts.freedom == 3 + 3


def test_a_bias_alone_keeps_a_neuron_alive() -> None:
    spec = mlp_spec([2, 3, 1], "relu")
    weights = random_graph(spec).state_dict()
    weights["layers.0.weight"][1] = 0
    assert describe(NeuralGraph.build(spec, weights)).groups[1].dead == 0


def test_the_description_is_the_same_on_an_orbit() -> None:
    spec = mlp_spec([2, 5, 4, 1], "relu")
    graph = random_graph(spec)
    assert describe(act(random_element(spec, 4.0, 0), graph)) == describe(graph)


def test_numbers_are_plain() -> None:
    facts = describe(random_graph(mlp_spec([2, 5, 1], "relu"), dtype=torch.float32))
    assert all(isinstance(n, int) for g in facts.groups for n in (g.size, g.scales, g.dead))
