"""Baselines: what they claim (permutations), what they do not (scales, signs), batches, clear errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import baselines
from baselines.errors import BaselineError
from baselines.standardize import Standardize
from baselines.statnn import statistics
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.nn.quantiles import QUANTILES, quantiles
from graphnfn.spec import NetSpec
from graphnfn.testing import assert_batch_independent, assert_equivariant, assert_pure, equivariance_error, random_graph

MLP = mlp_spec([3, 8, 7, 2], "relu")
DEEPER = mlp_spec([3, 6, 5, 4, 2], "relu")
CNN = small_cnn_spec([1, 4, 5, 6], 2, "relu")
FAMILIES = {"mlp": [MLP], "cnn": [CNN], "two activations": [MLP, mlp_spec([3, 8, 7, 2], "tanh")]}
SMALL = {"statnn": {"hidden": 16}, "flat_mlp": {"hidden": 16}, "gmn": {"width": 8}}


def trained_on(name: str, specs: list[NetSpec], graph: NeuralGraph, out: int = 3) -> nn.Module:
    """A float64 baseline in evaluation mode that has seen the statistics of ``graph``."""
    model = baselines.build(name, out=out, specs=specs, **SMALL[name]).double()
    model(graph)
    return model.eval()


def networks(specs: list[NetSpec], count: int = 3) -> NeuralGraph:
    parts = [g for i, s in enumerate(specs) for g in random_graph(s, seed=i, networks=count).to_data_list()]
    return NeuralGraph.batch(parts[::2] + parts[1::2])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["statnn", "gmn"])
def test_permutations_change_nothing(name: str, family: str) -> None:
    graph = networks(FAMILIES[family])
    model = trained_on(name, FAMILIES[family], graph)
    assert_equivariant(model, graph, symmetry="permutation", tol=1e-10)


@pytest.mark.parametrize("name", SMALL)
def test_scales_change_the_result(name: str) -> None:
    """No baseline claims scale invariance: if this fails, the comparison under group elements is meaningless."""
    graph = networks([MLP])
    assert equivariance_error(trained_on(name, [MLP], graph), graph, decades=2.0) > 1e-3


def test_the_flat_mlp_notices_permutations() -> None:
    graph = networks([MLP])
    assert equivariance_error(trained_on("flat_mlp", [MLP], graph), graph, symmetry="permutation") > 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_batches_do_not_matter(name: str) -> None:
    specs = FAMILIES["two activations"]
    graph = networks(specs)
    model = trained_on(name, specs, graph)
    assert_batch_independent(model, graph.to_data_list(), tol=1e-10)
    assert_pure(model, graph)


@pytest.mark.parametrize("name", ["statnn", "gmn"])
def test_mixed_architectures(name: str) -> None:
    specs = [MLP, DEEPER]
    graph = networks(specs)
    model = trained_on(name, specs, graph)
    assert model(graph).shape == (6, 3)
    assert_batch_independent(model, graph.to_data_list(), tol=1e-10)


@pytest.mark.parametrize("name", SMALL)
def test_a_network_beyond_the_specs_is_refused(name: str) -> None:
    model = trained_on(name, [MLP], networks([MLP]))
    with pytest.raises(BaselineError, match="build it with the specs|equal layers"):
        model(networks([DEEPER]))


@pytest.mark.parametrize(
    "other",
    [mlp_spec([4, 8, 7, 2], "relu"), mlp_spec([3, 8, 7, 5], "relu"), mlp_spec([3, 8, 7, 2], "prelu"), CNN],
    ids=["inputs", "outputs", "slopes", "kernels"],
)
def test_the_gmn_names_what_is_too_large(other: NetSpec) -> None:
    model = trained_on("gmn", [MLP], networks([MLP]))
    with pytest.raises(BaselineError, match="build it"):
        model(networks([other]))


def test_the_flat_mlp_wants_equal_shapes() -> None:
    with pytest.raises(BaselineError, match="one list of parameter shapes"):
        baselines.build("flat_mlp", out=1, specs=[MLP, DEEPER])


def test_bad_names_are_refused() -> None:
    with pytest.raises(BaselineError, match="unknown baseline 'resnet'; known: statnn"):
        baselines.build("resnet", out=1, specs=[MLP])
    with pytest.raises(BaselineError, match="no argument depth; it takes hidden, dropout"):
        baselines.build("statnn", out=1, specs=[MLP], depth=3)
    with pytest.raises(BaselineError, match="got no specs"):
        baselines.build("statnn", out=1, specs=[])


@pytest.mark.parametrize("name", SMALL)
def test_a_baseline_learns_the_size_of_weights(name: str) -> None:
    graphs = [random_graph(MLP, seed=i, dtype=torch.float32) for i in range(32)]
    sizes = torch.linspace(0.5, 2.0, 32)
    batch = NeuralGraph.batch(
        [g.map_stacks(lambda s, c=c: s.apply(lambda t: t * c)) for g, c in zip(graphs, sizes, strict=True)]
    )
    model = baselines.build(name, out=1, specs=[MLP], **SMALL[name])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = nn.functional.mse_loss(model(batch)[:, 0], sizes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 5, 160, 2304])
def test_quantiles_are_those_of_torch(n: int, dtype: torch.dtype) -> None:
    values = torch.randn(7, n, dtype=dtype)
    values[1, 0], values[2, n // 2], values[3, -1] = torch.nan, torch.inf, -torch.inf
    want = torch.quantile(values, torch.tensor(QUANTILES, dtype=dtype), dim=1).T
    torch.testing.assert_close(quantiles(values), want, rtol=0, atol=0, equal_nan=True)
    assert quantiles(values)[1].isnan().all() and quantiles(values)[0].isfinite().all()


def test_quantiles_have_gradients() -> None:
    values = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(quantiles, values)
    torch.testing.assert_close(quantiles(values), quantiles(values.detach()))


def test_statistics_are_the_textbook_ones() -> None:
    row = statistics(torch.tensor([[4.0, 0.0, 2.0, 1.0, 3.0]]))[0]
    assert row.tolist() == [2.0, 2.0, 0.0, 1.0, 2.0, 3.0, 4.0]


def test_standardize_merges_moments() -> None:
    rows = torch.randn(50, 4, dtype=torch.float64) * 3 + 1
    layer = Standardize(4)
    for part in rows.split([1, 30, 19]):
        layer(part)
    whole = layer.eval()(rows)
    torch.testing.assert_close(whole.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(whole.std(0, correction=0), torch.ones(4, dtype=torch.float64))


def test_standardize_ignores_constant_features_and_keeps_still_in_evaluation() -> None:
    layer = Standardize(2)
    layer(torch.tensor([[5.0, 1.0], [5.0, 3.0]]))
    layer.eval()
    before = layer.mean.clone()
    assert layer(torch.tensor([[7.0, 2.0]])).tolist() == [[0.0, 0.0]]
    assert torch.equal(layer.mean, before)
