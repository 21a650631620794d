"""Units of inputs: the function stays, networks in several units become one, and what cannot be undone is refused."""

from __future__ import annotations

import pytest
import torch

import graphnfn as gn
from graphnfn import testing
from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError
from graphnfn.functional import run
from graphnfn.inputs import rescale_inputs
from graphnfn.spec import NetSpec

CNN = small_cnn_spec([2, 4, 5], 3, "relu", stride=2, input_shape=(2, 9, 9))


def padded(bias: bool = True) -> NetSpec:
    chain = ChainBuilder(2)
    chain.conv(
        "conv.weight", (4, 2, 3, 3), bias="conv.bias" if bias else None, stride=(1, 1), padding=(1, 1), dilation=(1, 1)
    )
    chain.activation(Activation("tanh"))
    chain.conv("last.weight", (3, 4, 3, 3), bias="last.bias", stride=(1, 1), padding=(0, 0), dilation=(1, 1))
    return chain.build()


@pytest.mark.parametrize(("spec", "shape"), [(mlp_spec([2, 6, 6, 2], "sin", omega=5.0), (2,)), (CNN, (2, 9, 9))])
@pytest.mark.parametrize("own", [False, True])
def test_the_function_stays(spec: NetSpec, shape: tuple[int, ...], own: bool) -> None:
    graph, u = testing.random_graph(spec, networks=3), torch.randn(7, *shape, dtype=torch.float64)
    lead = (3, 2) if own else (2,)
    scale, shift = 10 ** torch.randn(lead, dtype=torch.float64), torch.randn(lead, dtype=torch.float64)
    scale[..., 0] *= -1
    moved = rescale_inputs(graph, scale, shift)
    for i, (one, two) in enumerate(zip(graph.to_data_list(), moved.to_data_list(), strict=True)):
        d, t = ((v[i] if own else v).view(2, *[1] * (len(shape) - 1)) for v in (scale, shift))
        torch.testing.assert_close(run(two, d * u + t), run(one, u), rtol=1e-9, atol=1e-9)
    back = rescale_inputs(moved, 1 / scale, -shift / scale)
    torch.testing.assert_close(back.x, graph.x)
    torch.testing.assert_close(back.edge_attr, graph.edge_attr)


@pytest.mark.parametrize("layer", ["native", "gated", "complete"])
def test_networks_in_several_units_read_alike(layer: str) -> None:
    """Trained on raw data (mean m, deviation s) or on standardised data: the same prediction, once units agree."""
    graph = testing.random_graph(CNN, networks=2)
    m, s = torch.tensor([120.0, 33.0]).double(), torch.tensor([60.0, 7.0]).double()
    raw = rescale_inputs(graph, s, m)
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=6, layer=layer), specs=[CNN]).double()  # type: ignore[arg-type]
    expected = model(graph)
    torch.testing.assert_close(model(rescale_inputs(raw, 1 / s, -m / s)), expected, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(model(raw), expected, rtol=1e-3), "a model that cannot tell units apart tests nothing"
    element = gn.random_element(CNN, decades=4.0, seed=0)
    one, two = rescale_inputs(gn.act(element, graph), s, m), gn.act(element, raw)
    torch.testing.assert_close(one.edge_attr, two.edge_attr)
    torch.testing.assert_close(one.x, two.x)


def test_several_architectures_in_one_batch() -> None:
    specs = [mlp_spec([2, 4, 1], "relu"), mlp_spec([2, 5, 3, 1], "tanh"), mlp_spec([2, 4, 1], "relu")]
    graphs = [testing.random_graph(spec, seed=i) for i, spec in enumerate(specs)]
    scale = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    together = rescale_inputs(gn.NeuralGraph.batch(graphs), scale, 1.0).to_data_list()
    for graph, row, found in zip(graphs, scale, together, strict=True):
        assert torch.equal(found.edge_attr, rescale_inputs(graph, row, 1.0).edge_attr)
        assert torch.equal(found.x, rescale_inputs(graph, row, 1.0).x)


def test_padding_takes_scales_but_no_shifts() -> None:
    graph, u = testing.random_graph(padded()), torch.randn(4, 2, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(run(rescale_inputs(graph, 3.0), 3 * u), run(graph, u))
    with pytest.raises(SpecError, match="pad its inputs"):
        rescale_inputs(graph, 3.0, 1.0)
    # what is refused would be wrong, except where no padding is read
    weight = graph.state_dict()["conv.weight"]
    state = graph.state_dict() | {"conv.bias": graph.state_dict()["conv.bias"] - weight.sum((1, 2, 3))}
    wrong = (run(gn.NeuralGraph.build(padded(), state), u + 1) - run(graph, u)).abs().amax((0, 1, 2))
    assert wrong[0].max() > 1e-3 and wrong[1:-1, 1:-1].max() < 1e-9


@pytest.mark.parametrize(
    ("spec", "scale", "shift", "words"),
    [
        (CNN, 0.0, 0.0, "scales other than 0"),
        (CNN, float("inf"), 0.0, "finite"),
        (CNN, torch.ones(3), 0.0, "2 inputs"),
        (padded(bias=False), 1.0, 1.0, "give shift=0"),
        (mlp_spec([3, 6, 4], "tanh", bias=False), 1.0, 1.0, "no bias"),
    ],
)
def test_what_cannot_be_done(spec: NetSpec, scale: torch.Tensor | float, shift: float, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        rescale_inputs(testing.random_graph(spec), scale, shift)


def test_rows_must_fit_the_networks() -> None:
    graph = testing.random_graph(mlp_spec([2, 4, 1], "relu"), networks=3)
    with pytest.raises(SpecError, match=r"\[3, inputs\]"):
        rescale_inputs(graph, torch.ones(2, 2))
    with pytest.raises(SpecError, match="a network has 2 inputs"):
        rescale_inputs(graph, torch.ones(3))
