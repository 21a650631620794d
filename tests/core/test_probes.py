"""Spatial probes: exact under the whole group, the same on both wirings, clear where the geometry is unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import graphnfn as gn
from graphnfn import testing
from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError
from graphnfn.functional import run
from graphnfn.nn.blocks import BlockWiring
from graphnfn.nn.probes import SpatialProbes
from graphnfn.nn.state import State
from graphnfn.nn.taps import Sizes
from graphnfn.spec import NetSpec, SpatialOp


def flat_cnn(activation: str) -> NetSpec:
    """Stride, padding, max pooling and a flatten: everything that the sweeps leave out."""
    chain = ChainBuilder(1, (1, 9, 9))
    chain.conv("conv.weight", (4, 1, 3, 3), bias="conv.bias", stride=(2, 2), padding=(1, 1), dilation=(1, 1))
    chain.activation(Activation(activation))
    chain.spatial(SpatialOp("max_pool", (2, 2), (2, 2), (0, 0), (1, 1)))
    chain.spatial(SpatialOp("flatten", (2, 2)))
    chain.linear("fc.weight", (3, 16), bias="fc.bias")
    return chain.build()


SPECS = [
    small_cnn_spec([1, 4, 4], 3, "relu"),
    small_cnn_spec([1, 4, 4], 3, "tanh"),
    flat_cnn("relu"),
    mlp_spec([2, 8, 8, 3], "sin", omega=3.0),
    mlp_spec([3, 5, 3], [[Activation("relu")] * 2 + [Activation("cos")] * 3]),
]


def batch() -> gn.NeuralGraph:
    return gn.NeuralGraph.batch([testing.random_graph(s, seed=i) for i, s in enumerate(SPECS * 2)])


def model_for(graph: gn.NeuralGraph, layer: str) -> gn.GraphMetaNet:
    torch.manual_seed(0)
    config = gn.MetaNetConfig(width=8, out=2, layer=layer)  # pyright: ignore[reportArgumentType]
    return gn.GraphMetaNet(config, specs=graph.specs).double()


@pytest.mark.parametrize("layer", ["probes", "complete"])
def test_exact_over_six_decades_on_both_wirings(layer: str) -> None:
    graph = batch()
    model = model_for(graph, layer)
    testing.assert_equivariant(model, graph, decades=6.0, half_turns=2, tol=1e-10)
    testing.assert_equivariant(model.forward_on_edges, graph, decades=6.0, half_turns=2, tol=1e-10)
    torch.testing.assert_close(model(graph), model.forward_on_edges(graph), rtol=1e-10, atol=1e-10)


def test_hidden_activations_themselves_are_not_invariant() -> None:
    graph = testing.random_graph(SPECS[1], networks=3)
    images = torch.randn(4, 1, 14, 14, dtype=torch.float64)

    def means(g: gn.NeuralGraph) -> torch.Tensor:
        seen = []
        run(g.stacks()[0], images, hidden=lambda i, h: (seen.append(h.flatten(3).mean(-1).sum(-1).T), h)[1])
        return torch.cat(seen, 1)

    assert testing.equivariance_error(means, graph) > 1e-3


def test_output_neurons_see_the_answers_of_the_network() -> None:
    graph = testing.random_graph(SPECS[2], networks=2)
    layer = SpatialProbes(4, Sizes.of([graph.spec])).double()
    stack = graph.stacks()[0]
    state = State([torch.zeros(2, g.size, 4, dtype=torch.float64) for g in graph.spec.groups])
    even = layer(state, BlockWiring(stack)).even
    z = layer.output(run(stack, layer.images(graph.spec)).transpose(1, 2))
    torch.testing.assert_close(even[-1], z / torch.sqrt(1 + z.abs()))
    assert not even[0].any() and even[1].any()


def test_all_probe_parameters_learn() -> None:
    graph = batch()
    model = model_for(graph, "probes")
    model(graph).square().sum().backward()
    for name, parameter in model.layers.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def unknown(window: int, spatial: SpatialOp, linear: tuple[int, int]) -> NetSpec:
    """A CNN as a bare state dict tells it, without strides and input size."""
    chain = ChainBuilder(1)
    chain.conv("conv.weight", (4, 1, window, window), bias="conv.bias", facts_known=False)
    chain.activation(Activation("tanh"))
    chain.spatial(spatial)
    chain.linear("fc.weight", linear)
    return chain.build()


@pytest.mark.parametrize(
    ("spec", "side"),
    [
        (unknown(3, SpatialOp("global_avg_pool"), (2, 4)), 14),
        (unknown(17, SpatialOp("global_avg_pool"), (2, 4)), 17),
        (unknown(3, SpatialOp("flatten", (2, 2)), (2, 16)), 4),
        (small_cnn_spec([1, 4, 4, 4, 4], 3, "relu", stride=2), 31),
    ],
)
def test_networks_of_unknown_size_or_strides_get_images_that_fit(spec: NetSpec, side: int) -> None:
    model = model_for(testing.random_graph(spec), "probes")
    assert model.layers[0].images(spec).shape[-2:] == (side, side)
    testing.assert_equivariant(model, testing.random_graph(spec, networks=2), decades=3.0)


def test_input_sizes_follow_from_a_flatten() -> None:
    spec = replace(SPECS[2], input_shape=None)
    graph = testing.random_graph(spec)
    assert SpatialProbes(4, Sizes.of([spec])).images(spec).shape == (16, 1, 7, 7)
    assert model_for(graph, "probes")(graph).isfinite().all()


@pytest.mark.parametrize(
    ("small", "large", "words"),
    [
        (
            mlp_spec([2, 4, 1], "tanh"),
            mlp_spec([3, 4, 1], "tanh"),
            "3 input neurons and 1 output.* for 2 and 1",
        ),
        (
            mlp_spec([2, 4, 1], "tanh"),
            mlp_spec([2, 4, 3], "tanh"),
            "2 input neurons and 3 output.* for 2 and 1",
        ),
        (mlp_spec([5, 4, 1], "tanh"), mlp_spec([6, 4, 1], "tanh"), "6 input neurons; this model was sized for 5"),
        (mlp_spec([5, 4, 1], "tanh"), mlp_spec([5, 4, 2], "tanh"), "2 output neurons; this model was sized for 1"),
        (
            mlp_spec([5, 4, 1], "tanh"),
            small_cnn_spec([1, 4], 1, "tanh"),
            "2 axes of positions; .* for 0",
        ),
    ],
)
def test_larger_networks_than_sized_for(small: NetSpec, large: NetSpec, words: str) -> None:
    model = model_for(testing.random_graph(small), "probes")
    with pytest.raises(SpecError, match=words):
        model(testing.random_graph(large))
