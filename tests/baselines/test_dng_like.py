"""DNG-like scan: permutations, what it does not claim, mixed batches, a layer by hand, parameters, clear errors."""

from __future__ import annotations

import pytest
import torch

from baselines import BaselineError, build
from baselines.dng_like import DNGLike, LayerScan
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.testing import assert_batch_independent, assert_equivariant, assert_pure, equivariance_error, random_graph

MLP, WIDER = mlp_spec([3, 8, 7, 2], "tanh"), mlp_spec([3, 5, 9, 6, 2], "tanh")
CNN = small_cnn_spec([3, 4, 5, 6], 2, "relu")
FAMILIES = {"mlp": [MLP], "cnn": [CNN], "mixed": [MLP, WIDER, CNN]}


def networks(specs: list[NetSpec]) -> NeuralGraph:
    parts = [g for i, s in enumerate(specs) for g in random_graph(s, seed=i, networks=3).to_data_list()]
    return NeuralGraph.batch(parts[::2] + parts[1::2])


def trained_on(specs: list[NetSpec], graph: NeuralGraph) -> DNGLike:
    torch.manual_seed(0)
    model = DNGLike(specs, 3, width=8).double()
    model(graph)
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_permutations_change_nothing(family: str) -> None:
    graph = networks(FAMILIES[family])
    model = trained_on(FAMILIES[family], graph)
    assert_equivariant(model, graph, symmetry="permutation", tol=1e-10)
    assert_batch_independent(model, graph.to_data_list(), tol=1e-10)
    assert_pure(model, graph)


def test_signs_and_scales_change_the_result() -> None:
    for spec in (MLP, mlp_spec([3, 8, 7, 2], "relu")):
        graph = networks([spec])
        assert equivariance_error(trained_on([spec], graph), graph, decades=2.0) > 1e-3


def test_one_layer_by_hand() -> None:
    """One output neuron with two inputs, message and cell written out."""
    torch.manual_seed(1)
    scan = LayerScan(4, 1).double()
    h, w, b = torch.randn(1, 2, 4).double(), torch.randn(1, 1, 2, 1).double(), torch.randn(1, 1, 1).double()
    message = sum(scan.of_weight(w[0, 0, i]) * scan.of_state(h[0, i]) for i in range(2)) / 2
    assert isinstance(message, torch.Tensor)
    want = scan.cell(torch.cat([message, scan.of_bias(b[0, 0])]), (h[0, 0] + h[0, 1]) / 2)
    torch.testing.assert_close(scan(h, w, b)[0, 0], want)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_finite_gradient(family: str) -> None:
    graph = networks(FAMILIES[family])
    model = trained_on(FAMILIES[family], graph)
    model(graph).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name


@pytest.mark.parametrize(("spec", "taps"), [(MLP, 1), (CNN, 9)])
def test_parameters(spec: NetSpec, taps: int) -> None:
    """Inputs, phi, psi, beta, GRU (three gates on 2d + d numbers with two biases each), head."""
    d, inputs, outputs, out = 16, 3, 2, 5
    phi, psi, beta = (taps + 1) * d + (d + 1) * d, (d + 1) * d, 2 * d + (d + 1) * d
    gru, head = 3 * (3 * d * d + 2 * d), (outputs * d + 1) * d + (d + 1) * out
    model = build("dng_like", out=out, specs=[spec], width=d)
    assert sum(p.numel() for p in model.parameters()) == inputs * d + phi + psi + beta + gru + head


@pytest.mark.parametrize(
    "other", [mlp_spec([4, 8, 2], "tanh"), mlp_spec([3, 8, 1], "tanh"), WIDER, small_cnn_spec([3, 4], 2, "relu")]
)
def test_other_networks_are_refused(other: NetSpec) -> None:
    with pytest.raises(BaselineError, match="build the model with the specs"):
        DNGLike([MLP], 1, width=8).double()(random_graph(other))


def test_specs_with_different_ends_are_refused() -> None:
    with pytest.raises(BaselineError, match="one model for each pair"):
        DNGLike([MLP, mlp_spec([4, 8, 2], "tanh")], 1)
