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
from graphnfn.testing import random_graph

MLP, CNN = mlp_spec([3, 8, 7, 2], "tanh"), small_cnn_spec([3, 4, 5, 6], 2, "relu")


@pytest.mark.parametrize("axis", ["inputs", "outputs"])
def test_inputs_and_outputs_are_told_apart(axis: str) -> None:
    """The layer alone would not; the encodings of places do."""
    graph = random_graph(MLP, networks=3)
    stack = graph.stacks()[0]
    first, *middle, last = stack.blocks
    first, last = (first.flip(2), last) if axis == "inputs" else (first, last.flip(1))
    nodes = stack.nodes.clone()
    if axis == "outputs":
        nodes[:, -2:] = nodes[:, -2:].flip(1)
    moved = NeuralGraph.from_stacks([type(stack)(stack.spec, nodes, (first, *middle, last))])
    torch.manual_seed(0)
    model = NFTLike([MLP], 3, width=8).double()
    model(graph)  # takes its statistics
    model.eval()
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


def test_bad_settings_are_refused() -> None:
    with pytest.raises(BaselineError, match="that 3 heads can share; got 8"):
        NFTLike([MLP], 1, width=8, block=Sizes(heads=3))
