"""The testing kit itself: round trips, equal functions, batches, random graphs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kit_modules import (
    CNN,
    RELU,
    SINE,
    TANH,
    RowNorms,
    Shrink,
    mixed_batch,
    per_network,
    probe,
)
from torch import Tensor, nn

from graphnfn import testing
from graphnfn.errors import GraphNFNError
from graphnfn.functional import run
from graphnfn.graph import NeuralGraph
from graphnfn.stack import Stack

# ---- round trips ----------------------------------------------------------------------------------


def test_roundtrip_of_graphs() -> None:
    testing.assert_roundtrip(mixed_batch())
    testing.assert_roundtrip(testing.random_graph(CNN, dtype=torch.float16))


def read(source: object) -> NeuralGraph:
    assert isinstance(source, dict)
    return NeuralGraph.build(RELU, source)


def test_roundtrip_of_sources() -> None:
    state = testing.random_graph(RELU).state_dict()
    testing.assert_roundtrip(state, read, lambda graph, *, like: graph.state_dict())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: {k: v.float().double() for k, v in s.items()}, "layers.0.weight: .* bytes"),
        (lambda s: {k: v.float() for k, v in s.items()}, "torch.float32 .* instead of torch.float64"),
        (lambda s: dict(reversed(s.items())), "keys"),
        (lambda s: {k: v for k, v in s.items() if "bias" not in k}, "keys"),
        (lambda s: {k: v + 0.0 for k, v in s.items()}, "layers.0.bias: 1 bytes"),
    ],
)
def test_lossy_roundtrips_are_caught(damage: Callable[[dict], dict], message: str) -> None:
    state = testing.random_graph(RELU).state_dict()
    state["layers.0.bias"][0] = -0.0  # equal to 0.0, but not to the bit
    with pytest.raises(AssertionError, match=message):
        testing.assert_roundtrip(state, read, lambda graph, *, like: damage(graph.state_dict()))


class Forgetful(NeuralGraph):
    """Loses the last network's biases when it is taken apart."""

    def to_data_list(self) -> list[NeuralGraph]:
        singles = super().to_data_list()
        last = singles[-1].map_stacks(lambda s: Stack(s.spec, s.nodes * 0, s.blocks))
        return [*singles[:-1], last]


def test_lossy_graphs_are_caught() -> None:
    graph = Forgetful.from_stacks(mixed_batch().stacks(), mixed_batch().members())
    with pytest.raises(AssertionError, match="to_data_list.*node parameters"):
        testing.assert_roundtrip(graph)


def test_roundtrip_needs_both_functions() -> None:
    with pytest.raises(TypeError, match="convert and restore"):
        testing.assert_roundtrip({})


# ---- functions ------------------------------------------------------------------------------------


def test_same_function_of_graphs_and_modules() -> None:
    module = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    state = {}
    for i, layer in enumerate((0, 2, 4)):
        state[f"layers.{i}.weight"] = module[layer].weight
        state[f"layers.{i}.bias"] = module[layer].bias
    graph = NeuralGraph.build(RELU, state)
    assert testing.assert_same_function(graph, module) < 1e-14
    assert testing.assert_same_function(module, graph) < 1e-14
    assert testing.assert_same_function(module, module, torch.randn(4, 3, dtype=torch.float64)) == 0
    with torch.no_grad():
        module[2].bias[0] += 1e-4
    copy = NeuralGraph.build(RELU, {k: v.detach().clone() for k, v in state.items()})
    with torch.no_grad():
        module[2].bias[0] += 1e-4
    with pytest.raises(AssertionError, match="network 0 has relative error"):
        testing.assert_same_function(copy, module)


def test_the_worst_network_is_named() -> None:
    graph = testing.random_graph(TANH, networks=3)
    moved = graph.map_stacks(lambda s: Stack(s.spec, s.nodes * torch.tensor([1.0, 1, 1.001])[:, None, None], s.blocks))
    with pytest.raises(AssertionError, match="network 2"):
        testing.assert_same_function(moved, graph)


def test_functions_need_inputs_and_equal_numbers() -> None:
    with pytest.raises(GraphNFNError, match="inputs="):
        testing.assert_same_function(torch.relu, torch.relu)
    with pytest.raises(GraphNFNError, match="compared 3 networks with 1"):
        testing.assert_same_function(testing.random_graph(TANH, networks=3), testing.random_graph(TANH))


# ---- batches --------------------------------------------------------------------------------------


def test_batch_independence() -> None:
    graphs = mixed_batch().to_data_list()
    assert testing.assert_batch_independent(per_network(probe), graphs) < 1e-12
    assert testing.assert_batch_independent(Shrink(), graphs) == 0


def test_normalising_over_the_batch_is_caught() -> None:
    def module(graph: NeuralGraph) -> Tensor:
        out = per_network(probe)(graph)
        return out / (1 + out.norm())

    with pytest.raises(AssertionError, match="differs at place"):
        testing.assert_batch_independent(module, mixed_batch().to_data_list())


def test_dependence_on_the_place_is_caught() -> None:
    def module(graph: NeuralGraph) -> Tensor:
        out = per_network(probe)(graph)
        return out * (1 + 1e-3 * torch.arange(len(out))[:, None])

    with pytest.raises(AssertionError, match="of batch"):
        testing.assert_batch_independent(module, mixed_batch().to_data_list())


def test_one_network_is_no_batch() -> None:
    with pytest.raises(GraphNFNError, match="two at least"):
        testing.assert_batch_independent(RowNorms(), [testing.random_graph(RELU)])


def test_pure_modules_and_others() -> None:
    testing.assert_pure(per_network(probe), mixed_batch())

    def scales_in_place(graph: NeuralGraph) -> Tensor:
        graph.edge_attr.mul_(2)
        return graph.edge_attr

    def adds_a_field(graph: NeuralGraph) -> Tensor:
        graph.extra = graph.x
        return graph.x

    with pytest.raises(AssertionError, match="changed 'edge_attr'"):
        testing.assert_pure(scales_in_place, mixed_batch())
    with pytest.raises(AssertionError, match="extra"):
        testing.assert_pure(adds_a_field, mixed_batch())


# ---- random graphs --------------------------------------------------------------------------------


def test_random_graphs_are_generic() -> None:
    graph = testing.random_graph(SINE, networks=2)
    assert graph.validate()
    assert not torch.equal(graph.stacks()[0].nodes[0], graph.stacks()[0].nodes[1])
    output = run(graph, torch.randn(256, 3, dtype=torch.float64))
    assert 0.1 < float(output.std()) < 10
    assert torch.equal(testing.random_graph(SINE, 3).x, testing.random_graph(SINE, 3).x)
    assert not torch.equal(testing.random_graph(SINE, 3).x, testing.random_graph(SINE, 4).x)
