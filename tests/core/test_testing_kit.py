"""The testing kit itself: what is right passes, what is deliberately broken is caught."""

from __future__ import annotations

import pytest
import torch
from kit_modules import (
    RELU,
    SINE,
    TANH,
    EdgeMoments,
    GradientStep,
    ReverseMessage,
    RowNorms,
    Shrink,
    SignedBias,
    mixed_batch,
    per_network,
    probe,
)
from torch import Tensor

from graphnfn import testing
from graphnfn.chain import mlp_spec
from graphnfn.errors import GraphNFNError, SymmetryError
from graphnfn.graph import NeuralGraph
from graphnfn.stack import Stack


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_exact_module_passes_on_mixed_architectures(dtype: torch.dtype, limit: float) -> None:
    assert testing.assert_equivariant(per_network(probe), mixed_batch(dtype)) <= limit


def test_equivariant_module_passes() -> None:
    graph = NeuralGraph.collate([testing.random_graph(TANH, 1), testing.random_graph(TANH, 2)])
    assert testing.assert_equivariant(GradientStep(), graph) < 1e-12
    # of the scale group, W and its gradient have opposite charges: the same step is wrong for ReLU
    with pytest.raises(AssertionError, match="parameter 'layers.1.weight'"):
        testing.assert_equivariant(GradientStep(), testing.random_graph(RELU))


def test_bias_on_a_charged_field_is_caught() -> None:
    with pytest.raises(AssertionError, match=r"network 1, bias of group 'layers\.[01]': relative error"):
        testing.assert_equivariant(SignedBias(), NeuralGraph.collate([testing.random_graph(TANH, i) for i in (0, 5)]))


def test_reverse_message_with_w_is_caught_on_relu_and_right_under_permutations() -> None:
    graph = testing.random_graph(RELU, networks=3)
    with pytest.raises(AssertionError, match="spec symmetry"):
        testing.assert_equivariant(ReverseMessage(), graph)
    assert testing.equivariance_error(ReverseMessage(), graph, decades=0.5) > 1e-3
    assert testing.assert_equivariant(ReverseMessage(), graph, symmetry="permutation") < 1e-13


def test_one_broken_decade_of_scale_is_enough() -> None:
    graph = testing.random_graph(RELU, networks=2)
    assert testing.equivariance_error(RowNorms(), graph, decades=1.0) > 1e-2
    assert testing.equivariance_error(RowNorms(), graph, symmetry="permutation") < 1e-13


def test_order_dependence_is_caught_by_permutations() -> None:
    first_neuron = per_network(lambda s: s.blocks[0][:, 0].flatten(1).abs())
    assert testing.equivariance_error(first_neuron, testing.random_graph(TANH), symmetry="permutation") > 1e-2


def test_phase_dependence_is_caught_by_half_turns_only() -> None:
    biases = per_network(lambda s: s.nodes[..., 0].abs().sum(1, keepdim=True))
    graph = testing.random_graph(SINE, networks=2)
    assert testing.equivariance_error(biases, graph) < 1e-13
    assert testing.equivariance_error(biases, graph, half_turns=2) > 1e-2
    assert testing.equivariance_error(per_network(probe), graph, half_turns=2) < 1e-10


def test_nan_is_no_agreement() -> None:
    nan = per_network(lambda s: s.nodes.sum((1, 2), keepdim=True) * torch.nan)
    with pytest.raises(AssertionError, match="inf"):
        testing.assert_equivariant(nan, testing.random_graph(RELU))


def test_a_broken_row_is_not_hidden_by_large_ones() -> None:
    def module(graph: NeuralGraph) -> Tensor:
        good = per_network(probe)(graph)
        bad = per_network(lambda s: s.blocks[0].sum((1, 2, 3))[:, None])(graph)
        good[2] = 1e-6 * bad[2]
        return good

    with pytest.raises(AssertionError, match="network 2, output"):
        testing.assert_equivariant(module, testing.random_graph(TANH, networks=4))


def test_networks_without_symmetry_are_refused() -> None:
    with pytest.raises(SymmetryError, match="nothing to test"):
        testing.assert_equivariant(per_network(probe), testing.random_graph(mlp_spec([3, 2], "relu")))


@pytest.mark.parametrize("output", [torch.ones(5), torch.tensor(1.0), "text"])
def test_outputs_that_are_no_rows_are_refused(output: object) -> None:
    with pytest.raises(GraphNFNError, match="the module returned"):
        testing.equivariance_error(lambda graph: output, testing.random_graph(RELU))  # type: ignore[arg-type,return-value]


def test_half_precision_needs_a_tolerance() -> None:
    with pytest.raises(GraphNFNError, match="bfloat16"):
        testing.assert_equivariant(RowNorms(), testing.random_graph(RELU, dtype=torch.bfloat16))


def test_random_elements_never_stand_still() -> None:
    pair = mlp_spec([2, 2, 1], "gelu")  # half of all draws would be the identity
    graph = testing.random_graph(pair, networks=64)
    (element,) = testing.random_elements(graph)
    assert (element.actions["layers.0"].perm == torch.tensor([1, 0])).all()


def test_elements_differ_between_networks() -> None:
    (element,) = testing.random_elements(testing.random_graph(RELU, networks=3))
    scale = element.actions["layers.0"].scale
    assert not torch.equal(scale[0], scale[1])
    assert not torch.equal(scale[1], scale[2])


def test_act_each_needs_an_element_per_architecture() -> None:
    with pytest.raises(SymmetryError, match="no group element"):
        testing.act_each(testing.random_elements(testing.random_graph(RELU)), mixed_batch())


# ---- separation -----------------------------------------------------------------------------------


def test_probing_separates_on_mixed_architectures() -> None:
    changes = testing.assert_separates(per_network(probe), mixed_batch())
    assert list(changes) == ["uncoupled rows", "uncoupled columns", "kernel factors", "shuffled signs"]
    assert min(changes.values()) > 1e-3


def test_separating_transforms_change_functions() -> None:
    graph = mixed_batch()
    for transform in testing.separating_transforms(graph).values():
        for moved, still in zip(transform(graph).to_data_list(), graph.to_data_list(), strict=True):
            with pytest.raises(AssertionError, match="different functions"):
                testing.assert_same_function(moved, still, rtol=1e-2)


def test_blindness_to_rearrangements_is_caught() -> None:
    with pytest.raises(AssertionError, match="'uncoupled rows'.*'uncoupled columns'.*'shuffled signs'") as caught:
        testing.assert_separates(EdgeMoments(), mixed_batch())
    assert "kernel factors" not in str(caught.value)


def test_blindness_to_kernel_factors_is_caught() -> None:
    signs = per_network(lambda s: (s.blocks[1] > 0).double().sum((2, 3)) @ torch.arange(s.blocks[1].shape[1]).double())
    with pytest.raises(AssertionError, match="'kernel factors'"):
        testing.assert_separates(signs, testing.random_graph(RELU, networks=2))


def test_blindness_in_one_network_of_a_batch_is_caught() -> None:
    def module(graph: NeuralGraph) -> Tensor:
        out = per_network(probe)(graph)
        return torch.cat([out[:1] * 0 + 1, out[1:]])

    with pytest.raises(AssertionError, match="blind"):
        testing.assert_separates(module, testing.random_graph(TANH, networks=3))


def test_equivariant_modules_are_compared_with_the_moved_output() -> None:
    graph = testing.random_graph(TANH, networks=2)
    assert min(testing.assert_separates(GradientStep(), graph).values()) > 1e-4
    with pytest.raises(AssertionError, match="blind"):
        testing.assert_separates(Shrink(), graph)


def test_transformations_that_change_nothing_do_not_count() -> None:
    silent = testing.random_graph(RELU)
    silent = silent.map_stacks(lambda s: Stack(s.spec, s.nodes * 0, (*s.blocks[:-1], s.blocks[-1] * 0)))
    with pytest.raises(GraphNFNError, match="no separating transformation changes"):
        testing.assert_separates(per_network(probe), silent)
