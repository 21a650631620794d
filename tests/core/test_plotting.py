"""The drawing: what is drawn, in which colours, and what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from graphnfn import testing
from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError
from graphnfn.graph import NeuralGraph
from graphnfn.plotting import plot
from graphnfn.spec import NetSpec

SIREN = mlp_spec([2, 32, 32, 1], "sin", omega=30.0)
CNN = small_cnn_spec([1, 16, 16, 16], 10, "relu", stride=2)


def lines(figure: Figure) -> dict[str, LineCollection]:
    return {str(c.get_gid()): c for c in figure.axes[0].collections if isinstance(c, LineCollection)}


def dots(figure: Figure) -> dict[str, PathCollection]:
    return {str(c.get_gid()): c for c in figure.axes[0].collections if isinstance(c, PathCollection)}


def words(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.axes[0].texts)


@pytest.mark.parametrize(("spec", "edges"), [(SIREN, (64, 804, 32)), (CNN, (16, 256, 256, 160))])
def test_everything_is_drawn(spec: NetSpec, edges: tuple[int, ...]) -> None:
    figure = plot(testing.random_graph(spec))
    assert tuple(len(c.get_segments()) for c in lines(figure).values()) == edges
    assert [len(c.get_offsets()) for c in dots(figure).values()] == [g.size for g in spec.groups]
    for group in spec.groups:
        assert group.id in words(figure)
    for block in spec.blocks:
        assert block.param in words(figure)
    assert len(figure.axes) == 2  # the drawing and its colour bar


def test_labels() -> None:
    figure = plot(testing.random_graph(CNN), title="a small CNN")
    assert "16 · relu" in words(figure)
    assert "1 input" in words(figure)
    assert "10 outputs" in words(figure)
    assert "conv0.weight  3×3" in words(figure)
    assert "largest tap" in words(figure)
    assert "strongest" not in words(figure)
    assert figure.axes[0].get_title() == "a small CNN"
    assert "strongest 900 of 1,120 edges" in words(plot(testing.random_graph(SIREN)))
    assert "strongest 30 of 1,120" in words(plot(testing.random_graph(SIREN), max_edges=30))


def by_hand() -> NeuralGraph:
    """Weights and biases whose colours are known."""
    spec = mlp_spec([2, 2, 1], "relu")
    return NeuralGraph.build(
        spec,
        {
            "layers.0.weight": torch.tensor([[4.0, -2.0], [0.0, -1.0]]),
            "layers.0.bias": torch.tensor([3.0, -0.3]),
            "layers.1.weight": torch.tensor([[-5.0, 1.0]]),
            "layers.1.bias": torch.tensor([0.0]),
        },
    )


def test_colours_follow_the_signs() -> None:
    figure = plot(by_hand())
    collection = lines(figure)["block layers.0.weight"]
    seen = {}
    for segment, (red, _, blue, alpha), width in zip(
        collection.get_segments(), collection.get_colors(), collection.get_linewidths(), strict=True
    ):
        seen[tuple(np.round(segment[:, 1], 3))] = (red - blue, alpha, width)
    upper, lower = 0.1, -0.1
    assert seen[upper, upper][0] > 0 > seen[lower, upper][0]
    assert seen[lower, lower][0] < 0
    strength = [seen[pair][1:] for pair in ((upper, upper), (lower, upper), (lower, lower), (upper, lower))]
    assert strength == sorted(strength, reverse=True)
    biases = dots(figure)["group layers.0"].get_facecolors()
    assert biases[0][0] > biases[0][2]
    assert biases[1][0] < biases[1][2]
    assert all(tuple(c) == to_rgba("white") for c in dots(figure)["group input"].get_facecolors())


def test_the_strongest_edges_stay() -> None:
    collection = lines(plot(by_hand(), max_edges=4))["block layers.0.weight"]
    assert len(collection.get_segments()) == 2
    ends = {tuple(np.round(s[:, 1], 3)) for s in collection.get_segments()}
    assert ends == {(0.1, 0.1), (-0.1, 0.1)}  # the weights 4 and -2 of the first neuron


def test_kernels_show_the_sign_of_their_largest_tap() -> None:
    spec = small_cnn_spec([1, 1], 1, "relu")
    state = {k: torch.zeros(s) for k, s in spec.params.items()}
    state["conv0.weight"][0, 0, 1, 1], state["conv0.weight"][0, 0, 0, 0] = 1.0, -3.0
    figure = plot(NeuralGraph.build(spec, state))
    red, _, blue, _ = lines(figure)["block conv0.weight"].get_colors()[0]
    assert red < blue
    assert "|w| ≤ 3" in words(figure)


def test_kept_norms_are_folded_in() -> None:
    chain = ChainBuilder(2)
    chain.linear("fc.weight", (3, 2))
    chain.norm({f: f"n.{f}" for f in ("norm_mean", "norm_var", "norm_weight", "norm_bias")}, 1e-5)
    chain.activation(Activation("relu"))
    chain.linear("out.weight", (1, 3))
    figure = plot(testing.random_graph(chain.build()))
    assert "batch norms are folded in" in words(figure)
    assert "|b|" in words(figure)


def test_saving(tmp_path: Path) -> None:
    graph = testing.random_graph(CNN)
    kept = graph.edge_attr.clone()
    plot(graph, tmp_path / "cnn.png")
    assert (tmp_path / "cnn.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    plot(graph, tmp_path / "cnn.svg")
    assert "<svg" in (tmp_path / "cnn.svg").read_text()
    assert torch.equal(graph.edge_attr, kept)


def test_one_network_at_a_time() -> None:
    with pytest.raises(SpecError, match="plot draws one network, this batch has 2"):
        plot(testing.random_graph(CNN, networks=2))
