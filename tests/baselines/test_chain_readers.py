"""What DNG-like and NFT-like share: permutations, what they do not claim, mixed batches, gradients, clear errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from baselines import BaselineError
from baselines.dng_like import DNGLike
from baselines.nft_like import NFTLike
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.testing import assert_batch_independent, assert_equivariant, assert_pure, equivariance_error, random_graph

MLP, WIDER = mlp_spec([3, 8, 7, 2], "tanh"), mlp_spec([3, 5, 9, 6, 2], "tanh")
CNN = small_cnn_spec([3, 4, 5, 6], 2, "relu")
FAMILIES = {"mlp": [MLP], "cnn": [CNN], "mixed": [MLP, WIDER, CNN]}
Reader = Callable[..., nn.Module]
readers = pytest.mark.parametrize("reader", [DNGLike, NFTLike])


def networks(specs: list[NetSpec]) -> NeuralGraph:
    parts = [g for i, s in enumerate(specs) for g in random_graph(s, seed=i, networks=3).to_data_list()]
    return NeuralGraph.batch(parts[::2] + parts[1::2])


def trained_on(reader: Reader, specs: list[NetSpec], graph: NeuralGraph) -> nn.Module:
    torch.manual_seed(0)
    model = reader(specs, 3, width=8).double()
    model(graph)
    return model.eval()


@readers
@pytest.mark.parametrize("family", FAMILIES)
def test_permutations_change_nothing(family: str, reader: Reader) -> None:
    graph = networks(FAMILIES[family])
    model = trained_on(reader, FAMILIES[family], graph)
    assert_equivariant(model, graph, symmetry="permutation", tol=1e-10)
    assert_batch_independent(model, graph.to_data_list(), tol=1e-10)
    assert_pure(model, graph)


@readers
def test_signs_and_scales_change_the_result(reader: Reader) -> None:
    for spec in (MLP, mlp_spec([3, 8, 7, 2], "relu")):
        graph = networks([spec])
        assert equivariance_error(trained_on(reader, [spec], graph), graph, decades=2.0) > 1e-3


@readers
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_finite_gradient(family: str, reader: Reader) -> None:
    graph = networks(FAMILIES[family])
    model = trained_on(reader, FAMILIES[family], graph)
    model(graph).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name


@readers
@pytest.mark.parametrize(
    "other", [mlp_spec([4, 8, 2], "tanh"), mlp_spec([3, 8, 1], "tanh"), WIDER, small_cnn_spec([3, 4], 2, "relu")]
)
def test_other_networks_are_refused(other: NetSpec, reader: Reader) -> None:
    with pytest.raises(BaselineError, match="build the model with the specs"):
        reader([MLP], 1, width=8).double()(random_graph(other))


@readers
def test_specs_with_different_ends_are_refused(reader: Reader) -> None:
    with pytest.raises(BaselineError, match="one model for each pair"):
        reader([MLP, mlp_spec([4, 8, 2], "tanh")], 1)
