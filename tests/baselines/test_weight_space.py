"""Features on weights: exact values, order of the batch, folded norms, edits, clear errors."""

from __future__ import annotations

import pytest
import torch

from baselines.errors import BaselineError
from baselines.weight_space import (
    ChainForm,
    WeightSpace,
    add,
    chain_form,
    common_ends,
    common_form,
    in_order,
    parts_like,
    weight_space,
    weight_spaces,
)
from converters import convert
from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec, SpatialOp
from graphnfn.testing import assert_same_function, random_graph

MLP = mlp_spec([3, 8, 7, 2], "relu")
TWIN = mlp_spec([3, 8, 7, 2], "tanh")
WIDER = mlp_spec([3, 9, 6, 2], "relu")
CNN = small_cnn_spec([1, 4, 5], 2, "relu")
PRELU = mlp_spec([3, 8, 2], "prelu")


def flattened(bias: bool = True) -> NetSpec:
    """A convolution, a flatten to 2 x 2 positions, a dense layer."""
    chain = ChainBuilder(1)
    chain.conv("conv.weight", (4, 1, 3, 3), bias="conv.bias" if bias else None)
    chain.activation(Activation("relu"))
    chain.spatial(SpatialOp("flatten", (2, 2)))
    chain.linear("fc.weight", (3, 16), bias="fc.bias")
    return chain.build()


def normed() -> tuple[torch.nn.Sequential, NeuralGraph]:
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 5, bias=False), torch.nn.BatchNorm1d(5), torch.nn.ReLU(), torch.nn.Linear(5, 2)
    )
    net(torch.randn(50, 3) * 2 + 1)
    return net.eval(), convert(net.eval())


def equal(a: WeightSpace, b: WeightSpace) -> bool:
    pairs = zip((*a.weights, *a.biases), (*b.weights, *b.biases), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_values_of_an_mlp_and_a_cnn() -> None:
    for spec, names in ((MLP, "layers.{}"), (CNN, "conv{}")):
        graph = random_graph(spec, networks=3)
        space = weight_space(graph)
        for n, one in enumerate(graph.to_data_list()):
            params = one.state_dict()
            assert torch.equal(space.weights[1][n, 0], params[names.format(1) + ".weight"])
            assert torch.equal(space.biases[1][n, 0], params[names.format(1) + ".bias"])


def test_flattened_positions_are_taps() -> None:
    graph = random_graph(flattened())
    assert chain_form(graph.spec) == ChainForm((1, 4, 3), ((3, 3), (4,)))
    weight = weight_space(graph).weights[1]
    assert torch.equal(weight[0, 0].flatten(1), graph.state_dict()["fc.weight"])


def test_missing_biases_are_zero_and_stay_so() -> None:
    graph = random_graph(flattened(bias=False))
    assert weight_space(graph).biases[0].abs().max() == 0
    parts = weight_spaces(graph)
    moved = add(graph, parts, [parts[0].features.map(torch.ones_like)])
    assert weight_space(moved).biases[0].abs().max() == 0
    torch.testing.assert_close(weight_space(moved).biases[1], weight_space(graph).biases[1] + 1)


def test_two_activations_of_one_form_keep_the_order_of_the_batch() -> None:
    graphs = [random_graph(spec, seed=i) for i, spec in enumerate([MLP, TWIN, TWIN, MLP, TWIN])]
    space = weight_space(NeuralGraph.batch(graphs))
    for n, graph in enumerate(graphs):
        assert equal(space.map(lambda t, n=n: t[n : n + 1]), weight_space(graph))


def test_parts_and_results_in_the_order_of_the_batch() -> None:
    specs = [MLP, WIDER, TWIN, WIDER, MLP]
    graphs = [random_graph(spec, seed=i) for i, spec in enumerate(specs)]
    parts = weight_spaces(NeuralGraph.batch(graphs))
    assert [p.places.tolist() for p in parts] == [[0, 2, 4], [1, 3]]
    sums = in_order(parts, [p.features.weights[1].sum((1, 2, 3)) for p in parts])
    torch.testing.assert_close(sums, torch.stack([weight_space(g).weights[1].sum() for g in graphs]))


def test_edits_reach_their_networks() -> None:
    specs = [MLP, WIDER, TWIN, CNN, WIDER, MLP]
    graph = NeuralGraph.batch([random_graph(spec, seed=i) for i, spec in enumerate(specs)])
    parts = weight_spaces(graph)
    deltas = [p.features.map(lambda t: 0.5 * t * t) for p in parts]
    edited = add(graph, parts, deltas)
    assert edited.specs == graph.specs
    for before, after in zip(graph.to_data_list(), edited.to_data_list(), strict=True):
        for name, value in before.state_dict().items():
            torch.testing.assert_close(after.state_dict()[name], value + 0.5 * value * value, rtol=1e-14, atol=0)


def test_norms_are_folded() -> None:
    net, graph = normed()
    x = torch.randn(7, 3)
    space = weight_space(graph)
    hidden = (x @ space.weights[0][0, 0].T + space.biases[0][0, 0]).relu()
    torch.testing.assert_close(hidden @ space.weights[1][0, 0].T + space.biases[1][0, 0], net(x))
    parts = weight_spaces(graph)
    same = add(graph, parts, [space.map(torch.zeros_like)])
    assert all(g.norm_eps is None for g in same.spec.groups)
    assert_same_function(graph, same, torch.randn(5, 3), rtol=1e-5)


def test_gradients_flow_through_reading_and_editing() -> None:
    graph = random_graph(MLP)
    parts = weight_spaces(graph)
    delta = parts[0].features.map(lambda t: torch.zeros_like(t).requires_grad_())
    edited = add(graph, parts, [delta])
    (edited.x.pow(2).sum() + edited.edge_attr.pow(2).sum()).backward()
    for d, value in zip(delta.weights, parts[0].features.weights, strict=True):
        torch.testing.assert_close(d.grad, 2 * value)


@pytest.mark.parametrize("spec", [MLP, CNN, flattened()], ids=["mlp", "cnn", "flattened"])
def test_layouts_go_there_and_back(spec: NetSpec) -> None:
    form = chain_form(spec)
    wide = weight_space(random_graph(spec, networks=2)).map(lambda t: torch.cat([t, 2 * t, t * t], 1))
    assert equal(wide.fold_taps().unfold_taps(form), wide)
    assert equal(wide.channels_last().channels_first(form), wide)
    taps = form.tap_counts[0]
    assert torch.equal(
        wide.channels_last().weights[0][..., taps : 2 * taps].flatten(), 2 * wide.weights[0][:, 0].flatten()
    )


def test_what_is_no_chain_of_one_form() -> None:
    with pytest.raises(BaselineError, match="networks of one form; got 2"):
        weight_space(NeuralGraph.batch([random_graph(MLP), random_graph(WIDER)]))
    with pytest.raises(BaselineError, match="networks of one form"):
        common_form([MLP, WIDER])
    with pytest.raises(BaselineError, match="PReLU slopes: use a graph metanetwork"):
        weight_space(random_graph(PRELU))
    with pytest.raises(BaselineError, match="differ in hidden widths only"):
        common_ends([MLP, WIDER, CNN])
    with pytest.raises(BaselineError, match="any hidden widths; got"):
        parts_like(random_graph(CNN), chain_form(MLP))
    graph = random_graph(MLP)
    with pytest.raises(BaselineError, match=r"one channel; got \[2\]"):
        add(graph, weight_spaces(graph), [weight_space(graph).map(lambda t: torch.cat([t, t], 1))])


def test_branches_and_traced_networks_are_refused() -> None:
    block = torch.nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8, batch_first=True).eval()
    with pytest.raises(BaselineError, match="got a traced network"):
        weight_space(convert(block, example_input=torch.randn(1, 3, 8)))
