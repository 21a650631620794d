"""Lattice probes: the network's own picture, exact, for networks of 1 to 3 inputs, still where nothing is trained."""

from __future__ import annotations

import pytest
import torch

import graphnfn as gn
from graphnfn import testing
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError
from graphnfn.functional import run
from graphnfn.nn.blocks import BlockWiring
from graphnfn.nn.lattice import DEGREES, PACE, SIDES, LatticeProbes, LatticeReader, lattice, moments, moved
from graphnfn.nn.state import State
from graphnfn.nn.taps import Sizes
from graphnfn.spec import NetSpec

RANKS = {
    1: mlp_spec([1, 6, 2], "tanh"),
    2: mlp_spec([2, 8, 8, 1], "sin", omega=3.0),
    3: mlp_spec([3, 6, 4, 3], "relu"),
}
OTHERS = [mlp_spec([5, 6, 2], "tanh"), small_cnn_spec([1, 4, 4], 3, "relu")]


def start(spec: NetSpec, networks: int) -> State:
    return State([torch.zeros(networks, g.size, 4, dtype=torch.float64) for g in spec.groups])


@pytest.mark.parametrize("layer", ["probes", "complete"])
def test_exact_for_all_ranks_in_one_batch(layer: str) -> None:
    graph = gn.NeuralGraph.batch([testing.random_graph(s, seed=i) for i, s in enumerate([*RANKS.values(), *OTHERS])])
    torch.manual_seed(0)
    config = gn.MetaNetConfig(width=4, out=2, layer=layer, jitter=0.2, dropout=0.3)  # pyright: ignore
    model = gn.GraphMetaNet(config, specs=graph.specs).double().eval()
    testing.assert_equivariant(model, graph, decades=6.0, half_turns=2, tol=1e-9)
    torch.testing.assert_close(model(graph), model.forward_on_edges(graph), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rank", RANKS)
def test_the_reader_sees_the_picture_of_the_network(rank: int) -> None:
    spec = RANKS[rank]
    graph = testing.random_graph(spec, networks=2)
    layer = LatticeProbes(4, Sizes.of([spec])).double()
    side, outputs = SIDES[rank], spec.groups[-1].size
    picture = run(graph, lattice(rank, side).double()).transpose(1, 2).reshape(2, outputs, *[side] * rank)
    z = layer.readers[str(rank)](picture).view(2, outputs, 4)
    even = layer(start(spec, 2), BlockWiring(graph.stacks()[0])).even
    torch.testing.assert_close(even[-1], z)
    assert even[-1].any() and not any(e.any() for e in even[:-1])


@pytest.mark.parametrize("rank", RANKS)
def test_the_layout_of_a_reader_changes_no_number(rank: int) -> None:
    """Against convolution, ReLU and pooling in their usual order and layout, with gradients."""
    torch.manual_seed(0)
    reader = LatticeReader(rank, 2, 5, width=4).double()
    layers = reader.layers
    usual = torch.nn.Sequential(*(layers[i] for i in (0, 2, 1, 3, 5, 4, *range(6, len(layers)))))
    picture = torch.randn(3, 2, *[SIDES[rank]] * rank, dtype=torch.float64, requires_grad=True)
    wanted = [picture, *reader.parameters()]
    straight = reader.moments((picture.flatten(2) @ reader.integrals.T).flatten(1))
    seen, expected = reader(picture), usual(picture) + straight
    torch.testing.assert_close(seen, expected)
    for a, b in zip(*(torch.autograd.grad(t.square().sum(), wanted) for t in (seen, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_other_networks_are_left_alone() -> None:
    sizes = Sizes.of([RANKS[2], *OTHERS])
    layer = LatticeProbes(4, sizes).double()
    for spec in OTHERS:
        stack = testing.random_graph(spec, networks=2).stacks()[0]
        assert not any(e.any() for e in layer(start(spec, 2), BlockWiring(stack)).even)
    assert not list(LatticeProbes(4, Sizes.of(OTHERS)).parameters())


def test_jitter_is_of_training_only_and_of_every_network() -> None:
    spec = RANKS[2]
    stack = testing.random_graph(spec, networks=1).stacks()[0].take(torch.zeros(3, dtype=torch.long))
    layer = LatticeProbes(4, Sizes.of([spec]), jitter=0.2).double()

    def seen() -> torch.Tensor:
        return layer(start(spec, 3), BlockWiring(stack)).even[-1]

    assert (seen()[0] - seen()[1]).abs().max() > 1e-6  # equal networks, other grids
    layer.eval()
    assert torch.equal(seen(), seen()) and torch.equal(seen()[0], seen()[2])


@pytest.mark.parametrize("rank", RANKS)
def test_moved_pictures_are_those_at_moved_points(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly for functions linear along each axis, with the edge in place of what is outside."""
    drawn = torch.linspace(0.05, 0.95, 2 * 3 * rank, dtype=torch.float64).view(2, 3, rank, 1)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn)
    size, place = (2 * drawn[..., 0] - 1) * 0.3  # [3, rank]
    points = lattice(rank, SIDES[rank]).double()
    slopes = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.7, 2.0]], dtype=torch.float64)[:, :rank]

    def values(at: torch.Tensor) -> torch.Tensor:
        return torch.stack([at @ slopes[0] + at.prod(-1), at @ slopes[1]])

    picture = values(points).unflatten(1, [SIDES[rank]] * rank).expand(3, -1, *[-1] * rank)
    seen = moved(picture, 0.3)
    for k in range(3):
        there = (points * (1 + size[k]) + place[k]).clamp(-1, 1)
        torch.testing.assert_close(seen[k].flatten(1), values(there), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", RANKS)
def test_readers_see_deviations_of_training_networks(rank: int) -> None:
    """Networks of each number of coordinates those of their own kind."""
    stacks = {k: testing.random_graph(spec, networks=40).stacks()[0] for k, spec in RANKS.items()}
    layer = LatticeProbes(4, Sizes.of([*RANKS.values(), *OTHERS])).double()
    reader, picture = layer.readers[str(rank)], layer.picture(stacks[rank])
    assert isinstance(reader, LatticeReader) and torch.equal(reader.standardized(picture), picture)
    layer.fit([*stacks.values(), testing.random_graph(OTHERS[0]).stacks()[0]])
    outputs = RANKS[rank].groups[-1].size
    seen = reader.standardized(picture).transpose(0, 1).flatten(1)
    torch.testing.assert_close(seen[:outputs].mean(1), torch.zeros(outputs).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(seen[:outputs].std(1, correction=0), torch.ones(outputs).double(), atol=1e-9, rtol=0)
    assert not seen[outputs:].any(), "outputs that a network lacks stay 0"
    values = layer(start(RANKS[rank], 40), BlockWiring(stacks[rank])).even[-1]
    reader.fit(torch.zeros_like(picture))  # nothing varies: as they are but for the mean of 0
    assert torch.equal(reader.standardized(picture), picture)
    assert not torch.allclose(layer(start(RANKS[rank], 40), BlockWiring(stacks[rank])).even[-1], values)


def test_all_parameters_learn() -> None:
    graph = testing.random_graph(RANKS[2], networks=8)
    torch.manual_seed(0)
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=4, layer="probes"), specs=graph.specs).double()
    model(graph).square().sum().backward()
    for name, parameter in model.layers.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("bad", [{"jitter": 1.0}, {"jitter": -0.1}, {"dropout": 1.0}])
def test_bad_settings_are_refused(bad: dict) -> None:
    with pytest.raises(SpecError, match=r"expected numbers in \[0, 1\)"):
        gn.MetaNetConfig(**bad)


@pytest.mark.parametrize("rank", SIDES)
def test_moments_are_integrals_against_orthonormal_polynomials(rank):
    """By the trapezoid rule, so that products of linear functions have errors of the step's square."""
    points = lattice(rank, SIDES[rank]).double()
    found = moments(rank).double() @ torch.stack([torch.ones(len(points)), *(3**0.5 * points).T], 1)
    places = [0, *(DEGREES ** (rank - 1 - k) for k in range(rank))]  # of the constant and the linear polynomials
    expected = torch.zeros_like(found)
    expected[places, range(rank + 1)] = 1
    assert (found[[*places]] - expected[[*places]]).abs().max() < 2 / (SIDES[rank] - 1) ** 2 + 1e-6
    assert found[0, 0] == pytest.approx(1, abs=1e-6)


def test_a_mean_is_linear_in_what_the_reader_sees():
    """With the convolutions off, the reader can be the mean of the picture; with the plain mean, edges count twice."""
    reader = LatticeReader(3, 1, 1)
    with torch.no_grad():
        for parameter in reader.parameters():
            parameter.zero_()
        reader.moments.weight[0, 0] = 1 / PACE[3]
    points = lattice(3, SIDES[3])
    picture = points[:, 0] ** 2 + points[:, 1]  # of mean 1 / 3
    seen = reader(picture.view(1, 1, *[SIDES[3]] * 3)).item()
    assert abs(seen - 1 / 3) < 0.015 < abs(picture.mean().item() - 1 / 3)
