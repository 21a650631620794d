"""NFT-like transformer: permutations, what it does not claim, the published attention, parameters, clear errors."""

from __future__ import annotations

import pytest
import torch

from baselines import BaselineError, build
from baselines.nft_like import NFTLike, Sizes, Values, WeightAttention
from baselines.weight_space import WeightSpace
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


def trained_on(specs: list[NetSpec], graph: NeuralGraph) -> NFTLike:
    torch.manual_seed(0)
    model = NFTLike(specs, 3, width=8).double()
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


@pytest.mark.parametrize("axis", ["inputs", "outputs"])
def test_inputs_and_outputs_are_told_apart(axis: str) -> None:
    """The layer alone would not; the encodings of places do."""
    graph = networks([MLP])
    stack = graph.stacks()[0]
    first, *middle, last = stack.blocks
    first, last = (first.flip(2), last) if axis == "inputs" else (first, last.flip(1))
    nodes = stack.nodes.clone()
    if axis == "outputs":
        nodes[:, -2:] = nodes[:, -2:].flip(1)
    moved = NeuralGraph.from_stacks([type(stack)(stack.spec, nodes, (first, *middle, last))])
    model = trained_on([MLP], graph)
    assert (model(moved) - model(graph)).abs().max() > 1e-3


def test_attention_is_the_published_one() -> None:
    """Against the package of the paper's authors."""
    layers = pytest.importorskip("nfn.layers", reason="the authors' package is not installed")
    common = pytest.importorskip("nfn.common")
    torch.manual_seed(2)
    widths = (3, 6, 5, 2)
    weights = tuple(torch.randn(4, 8, o, i).double() for i, o in zip(widths, widths[1:], strict=False))
    biases = tuple(torch.randn(4, 8, o).double() for o in widths[1:])
    features = common.WeightSpaceFeatures(weights, biases)
    theirs = layers.NPAttention(common.network_spec_from_wsfeat(features), 8, 2).double()
    ours = WeightAttention(8, 2).double()
    ours.qkv.load_state_dict(theirs.to_qkv.linear.state_dict())
    want = theirs(features)
    got = ours(WeightSpace(weights, biases).map(lambda t: t.movedim(1, -1))).map(lambda t: t.movedim(-1, 1))
    for a, b in zip((*got.weights, *got.biases), (*want.weights, *want.biases), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert (got.weights[0].std((2, 3)) > 1e-3).all()  # control: entries differ within a tensor


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_finite_gradient(family: str) -> None:
    graph = networks(FAMILIES[family])
    model = trained_on(FAMILIES[family], graph)
    model(graph).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name


@pytest.mark.parametrize("frequencies", [0, 16])
@pytest.mark.parametrize(("spec", "taps"), [(MLP, 1), (CNN, 9)])
def test_parameters(spec: NetSpec, taps: int, frequencies: int) -> None:
    """Encodings of values, layers, inputs and outputs; norms, attention and MLP per block; pooling; head."""
    d, inputs, outputs, out, blocks, expand, queries = 16, 3, 2, 5, 3, 2, 4
    values = (2 * frequencies or taps) * d + d + (2 * frequencies or 1) * d + d
    places = (2 * len(spec.blocks) + inputs + outputs) * d
    block = 2 * 2 * d + 3 * (d * d + d) + (d + 1) * expand * d + (expand * d + 1) * d
    pooling, head = 2 * d + queries * d + 2 * (d * d + d), (queries * d + 1) * d + (d + 1) * out
    model = build("nft_like", out=out, specs=[spec], width=d, blocks=blocks, values=Values(frequencies))
    assert sum(p.numel() for p in model.parameters()) == values + places + blocks * block + pooling + head


@pytest.mark.parametrize("preset", NFTLike.presets)
def test_presets_can_be_built(preset: str) -> None:
    model = NFTLike([MLP], 10, **NFTLike.presets[preset])
    assert model.blocks[0].attention.qkv.in_features == 256  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "other", [mlp_spec([4, 8, 2], "tanh"), mlp_spec([3, 8, 1], "tanh"), WIDER, small_cnn_spec([3, 4], 2, "relu")]
)
def test_other_networks_are_refused(other: NetSpec) -> None:
    with pytest.raises(BaselineError, match="build the model with the specs"):
        NFTLike([MLP], 1, width=8).double()(random_graph(other))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(BaselineError, match="one model for each pair"):
        NFTLike([MLP, mlp_spec([4, 8, 2], "tanh")], 1)
    with pytest.raises(BaselineError, match="that 3 heads can share; got 8"):
        NFTLike([MLP], 1, width=8, block=Sizes(heads=3))
