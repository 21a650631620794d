"""Statistics of weights: exact under the whole group, right numbers, and only of the network itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

import graphnfn as gn
from graphnfn import testing
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError
from graphnfn.nn.statistics import MOMENTS, SETS, WeightStatistics
from graphnfn.nn.taps import Sizes
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack

SPECS = [
    mlp_spec([7, 6, 6, 1], "sin", omega=30.0),
    mlp_spec([7, 6, 5, 2], "relu"),
    mlp_spec([7, 6, 5, 2], "abs"),
    small_cnn_spec([1, 4, 5], 3, "tanh", input_shape=(1, 8, 8)),
    small_cnn_spec([1, 4, 5], 3, "relu", input_shape=(1, 8, 8)),
    mlp_spec([3, 6, 5, 1], "relu"),
]


class Signed(WeightStatistics):
    """Reads weights with their signs wherever they are: it must fail where signs are free."""

    def features(self, stack: Stack) -> Tensor:
        return torch.cat([torch.cat([w.flatten(1), w.flatten(1)], 1).amax(1, keepdim=True) for w in stack.blocks], 1)


class Unbalanced(WeightStatistics):
    """Reads the weights as they are: it must fail where there are scales."""

    def forward(self, canonical: Sequence[Stack]) -> Tensor:
        rows = torch.cat([self.features(stack) for stack in self.raw])
        return self.predict((rows - self.center) * self.scale)

    raw: Sequence[Stack]


def fitted(spec: NetSpec, layer: str = "gated") -> gn.GraphMetaNet:
    torch.manual_seed(0)
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=6, layer=layer, statistics=True), specs=[spec]).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    model.fit([testing.random_graph(spec, networks=6, seed=9)])
    return model


def statistics_of(model: gn.GraphMetaNet) -> WeightStatistics:
    assert model.statistics is not None
    return model.statistics


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("layer", ["gated", "native", "complete"])
def test_exact_under_the_group(spec: NetSpec, layer: str) -> None:
    graph, model = testing.random_graph(spec, networks=3), fitted(spec, layer)
    testing.assert_equivariant(model, graph)
    torch.testing.assert_close(model.forward_on_edges(graph), model(graph), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", SPECS)
def test_the_prediction_uses_them(spec: NetSpec) -> None:
    model, graph = fitted(spec), testing.random_graph(spec, networks=3)
    before = model(graph)
    torch.nn.init.zeros_(statistics_of(model).predict.weight)
    assert bool(((model(graph) - before).abs() > 1e-3).all())


@pytest.mark.parametrize("spec", [SPECS[0], SPECS[3]])
def test_signs_are_caught(spec: NetSpec) -> None:
    model = fitted(spec)
    wrong = Signed(4 * model.config.width, Sizes.of([spec])).double()
    wrong.predict = torch.nn.Linear(len(spec.blocks), 4 * model.config.width).double()
    wrong.center, wrong.scale = torch.zeros(1), torch.ones(1)
    model.statistics = wrong
    with pytest.raises(AssertionError):
        testing.assert_equivariant(model, testing.random_graph(spec, networks=2))


@pytest.mark.parametrize("spec", [SPECS[1], SPECS[4], SPECS[5]])
def test_scales_are_caught(spec: NetSpec) -> None:
    model = fitted(spec)
    wrong = Unbalanced(4 * model.config.width, Sizes.of([spec])).double()
    model.statistics = wrong

    class Raw(torch.nn.Module):
        def forward(self, graph: gn.NeuralGraph) -> Tensor:
            wrong.raw = graph.stacks()  # type: ignore[assignment]
            return model(graph)

    with pytest.raises(AssertionError):
        testing.assert_equivariant(Raw(), testing.random_graph(spec, networks=2))


def test_numbers_are_those_of_numpy() -> None:
    """tanh has no scales: weights are read as they are."""
    spec = mlp_spec([7, 6, 1], "tanh")
    graph = testing.random_graph(spec, networks=2)
    (stack,) = graph.stacks()
    assert isinstance(stack, Stack)
    found = WeightStatistics(4, Sizes.of([spec])).features(stack).unflatten(1, (2, 2, len(SETS), MOMENTS))
    weight, bias = stack.blocks[0][1, :, :, 0].numpy(), stack.group(1)[1, :, 0].numpy()
    sets = {
        "sizes": abs(weight).ravel(), "incoming norms": np.linalg.norm(weight, axis=1),
        "outgoing norms": np.linalg.norm(weight, axis=0), "biases": abs(bias), "signed weights": np.zeros(1),
        "singular values": np.linalg.svd(weight, compute_uv=False),
    }  # fmt: skip
    for end, place in ((0, 0), (1, 1)):  # the first layer from the inputs, the second from the outputs
        for name, values in sets.items():
            want = [values.mean(), values.std(), *np.quantile(values, [0, 0.25, 0.5, 0.75, 1])]
            got = found[1, end, place, SETS.index(name)].tolist()
            assert got == pytest.approx(want, abs=1e-5), (end, name)


def test_a_diverged_network_has_no_singular_values_and_spoils_no_other() -> None:
    spec = mlp_spec([7, 6, 1], "tanh")
    stack = testing.random_graph(spec, networks=3).stacks()[0].apply(torch.clone)
    assert isinstance(stack, Stack)
    module, place = WeightStatistics(4, Sizes.of([spec])), SETS.index("singular values")
    before = module.features(stack).unflatten(1, (2, 2, len(SETS), MOMENTS))[:, 0, 0, place]
    stack.blocks[0][1, 2, 3] = torch.nan
    after = module.features(stack).unflatten(1, (2, 2, len(SETS), MOMENTS))[:, 0, 0, place]
    assert after[1].isnan().all() and torch.equal(after[[0, 2]], before[[0, 2]])


def test_singular_values_of_large_layers_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = mlp_spec([7, 6, 1], "tanh")
    stack, place = testing.random_graph(spec, networks=2).stacks()[0], SETS.index("singular values")
    monkeypatch.setattr("graphnfn.nn.statistics.LARGEST_SIDE", 5)  # shorter sides are 6 and 1
    found = WeightStatistics(4, Sizes.of([spec])).features(stack).unflatten(1, (2, 2, len(SETS), MOMENTS))
    assert (found[:, 0, 0, place] == 0).all() and (found[:, 0, 1, place, 0] > 0).all()


def test_signs_that_are_not_free_are_read() -> None:
    graph = testing.random_graph(SPECS[1], networks=2)
    (stack,) = graph.stacks()
    assert isinstance(stack, Stack)
    module = WeightStatistics(4, Sizes.of([SPECS[1]])).double()
    negated = Stack(stack.spec, stack.nodes, (stack.blocks[0], -stack.blocks[1], stack.blocks[2]))
    assert not torch.allclose(module([stack]), module([negated]))


def test_fit_standardises_and_is_kept() -> None:
    spec = SPECS[3]
    model, graph = fitted(spec), testing.random_graph(spec, networks=6, seed=9)
    statistics = statistics_of(model)
    (stack,) = graph.stacks()
    found: list[Tensor] = []
    statistics.predict.register_forward_pre_hook(lambda _, rows: found.append(rows[0]))
    model(graph)
    (rows,) = found
    varies = statistics.scale > 0
    assert 30 < int(varies.sum()) < len(varies)  # signed weights say nothing here
    torch.testing.assert_close(rows.mean(0), torch.zeros_like(rows[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows[:, varies].std(0, correction=0), torch.ones(int(varies.sum())).double())
    assert bool((rows[:, ~varies] == 0).all())
    fresh = gn.GraphMetaNet(model.config, specs=[spec]).double()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(graph), model(graph))
    alone = torch.cat([model(g) for g in graph.to_data_list()])
    torch.testing.assert_close(model(graph), alone)


def test_other_depths_and_several_blocks_to_a_layer() -> None:
    shallow, deep = mlp_spec([7, 4, 1], "relu"), mlp_spec([7, 4, 4, 4, 4, 1], "relu")
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=4, layer="gated", statistics=True), specs=[shallow]).double()
    mixed = gn.NeuralGraph.batch([testing.random_graph(s) for s in (deep, shallow, deep)])
    testing.assert_equivariant(model, testing.random_graph(deep, networks=2))
    torch.testing.assert_close(model.forward_on_edges(mixed), model(mixed))


def test_sirens_are_left_out() -> None:
    picture = mlp_spec([2, 6, 1], "sin")
    alone = gn.GraphMetaNet(gn.MetaNetConfig(width=6, layer="gated", statistics=True), specs=[picture])
    assert alone.statistics is None
    spec = SPECS[1]
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=6, layer="gated", statistics=True), specs=[spec, picture]).double()
    graphs = [testing.random_graph(s, networks=3) for s in (spec, picture)]
    model.fit(graphs)
    before = [model(g) for g in graphs]
    torch.nn.init.zeros_(statistics_of(model).predict.weight)
    torch.nn.init.zeros_(statistics_of(model).predict.bias)
    assert not torch.allclose(model(graphs[0]), before[0])
    assert torch.equal(model(graphs[1]), before[1])


def test_other_coordinate_networks_are_read() -> None:
    spec = mlp_spec([2, 6, 1], "relu")
    graph, model = testing.random_graph(spec, networks=3), fitted(spec)
    before = model(graph)
    torch.nn.init.zeros_(statistics_of(model).predict.weight)
    assert not torch.allclose(model(graph), before)


def test_models_from_before_read_coordinate_networks_without() -> None:
    """Their saved sizes end in front of ``spread``."""
    field, other = SPECS[5], SPECS[1]
    graph, predictions = testing.random_graph(field, networks=3), []
    for saved in (Sizes.of([field, other]), dataclasses.replace(Sizes.of([field, other]), spread=False)):
        model = gn.GraphMetaNet(gn.MetaNetConfig(width=6, layer="gated", statistics=True))
        model.set_extra_state(dataclasses.astuple(saved)[: None if saved.spread else -1])
        torch.manual_seed(0)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3)
        model = model.double()
        want = model(graph)
        torch.testing.assert_close(model(model.prepare(graph)), want)
        torch.nn.init.zeros_(statistics_of(model).predict.weight)
        torch.nn.init.zeros_(statistics_of(model).predict.bias)
        predictions.append((want, model(graph)))
    (read, without), (before, same) = predictions
    assert not torch.allclose(read, without) and torch.equal(before, same) and torch.equal(same, without)


def test_heads_that_do_not_read_them_refuse_them() -> None:
    with pytest.raises(SpecError, match="head='edit'"):
        gn.MetaNetConfig(head="edit", statistics=True)


def test_unsized_models_cannot_be_fitted() -> None:
    with pytest.raises(SpecError, match="specs="):
        gn.GraphMetaNet(gn.MetaNetConfig(statistics=True)).fit([])
