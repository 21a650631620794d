"""GraphMetaNet on traced networks: exact, awake to other functions, trainable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphnfn as gn
from converters import convert
from graphnfn.errors import SpecError


@pytest.fixture
def mixed(all_graphs: list[gn.NeuralGraph]) -> list[gn.NeuralGraph]:
    chain = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    return [*all_graphs, convert(chain)]


def _model(graphs: list[gn.NeuralGraph], head: str) -> gn.GraphMetaNet:
    torch.manual_seed(0)
    config = gn.MetaNetConfig(width=8, out=3, head=head)  # type: ignore[arg-type]
    return gn.GraphMetaNet(config, specs=[g.spec for g in graphs]).double().eval()


def test_predictions_are_invariant_and_independent_of_the_batch(mixed: list[gn.NeuralGraph]) -> None:
    model = _model(mixed, "invariant")
    moved = [gn.act(gn.random_element(g.spec, decades=4.0, seed=7), g) for g in mixed]
    with torch.no_grad():
        base, other = model(gn.NeuralGraph.batch(mixed)), model(gn.NeuralGraph.batch(moved))
        alone = torch.cat([model(g) for g in mixed])
    assert (base - other).abs().max() < 1e-11 * base.abs().max()
    assert (base - alone).abs().max() < 1e-11 * base.abs().max()


def test_predictions_notice_other_weights(mixed: list[gn.NeuralGraph]) -> None:
    model = _model(mixed, "invariant")
    torch.manual_seed(1)
    for graph in mixed:
        other = graph.map_stacks(lambda s: s.apply(lambda t: t * (1 + 0.2 * torch.rand_like(t))))
        with torch.no_grad():
            assert (model(graph) - model(other)).abs().max() > 1e-5 * model(graph).abs().max()


def test_edits_are_equivariant(all_graphs: list[gn.NeuralGraph]) -> None:
    model = _model(all_graphs, "edit")
    model.reader.scale.data.fill_(0.5)
    for graph in all_graphs:
        element = gn.random_element(graph.spec, decades=4.0, seed=3)
        with torch.no_grad():
            one, two = model(gn.act(element, graph)), gn.act(element, model(graph))
        for key, value in two.state_dict().items():
            assert torch.allclose(one.state_dict()[key], value, rtol=1e-9, atol=1e-12)
        assert any(
            not torch.allclose(v, graph.state_dict()[k], rtol=1e-3) for k, v in model(graph).state_dict().items()
        )


def test_it_learns(all_graphs: list[gn.NeuralGraph]) -> None:
    """Tells small weights from large ones."""
    graph = next(g for g in all_graphs if "stem.weight" in g.spec.params)
    networks = [graph.map_stacks(lambda s, k=k: s.apply(lambda t: t * (1 + 0.1 * k))) for k in range(6)]
    batch, wanted = gn.NeuralGraph.batch(networks), torch.arange(6.0).double()[:, None]
    model = _model([graph], "invariant")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = ((model(batch)[:, :1] - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


def test_a_model_for_chains_says_so(all_graphs: list[gn.NeuralGraph]) -> None:
    chain = convert(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double())
    model = _model([chain], "invariant")
    with pytest.raises(SpecError, match="traced network"):
        model(all_graphs[0])


def test_a_saved_model_reads_traced_networks(all_graphs: list[gn.NeuralGraph]) -> None:
    model = _model(all_graphs, "invariant")
    twin = gn.GraphMetaNet(model.config).double()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(twin.double()(all_graphs[0]), model(all_graphs[0]))


def test_the_testing_kit_knows_traced_networks(mixed: list[gn.NeuralGraph]) -> None:
    for head in ("invariant", "edit"):
        model, batch = _model(mixed, head), gn.NeuralGraph.batch(mixed)
        assert gn.testing.assert_equivariant(model, batch) < 1e-10
    assert gn.testing.assert_batch_independent(_model(mixed, "invariant"), mixed) < 1e-9


def test_the_testing_kit_catches_a_reader_of_raw_weights(all_graphs: list[gn.NeuralGraph]) -> None:
    """Negative control; signs and permutations, all that an LSTM has, leave largest entries as they are."""

    def norms(graph: gn.NeuralGraph) -> torch.Tensor:
        return torch.stack([sum(t.abs().amax() for t in g.state_dict().values()) for g in graph.to_data_list()])

    for graph in all_graphs:
        assert gn.testing.equivariance_error(norms, graph) > 1e-4 or "lstm.weight_ih_l0" in graph.spec.params


def test_what_is_for_chains_only_says_so(all_graphs: list[gn.NeuralGraph]) -> None:
    with pytest.raises(gn.GraphNFNError, match="MLPs and CNNs"):
        gn.canonical_signs(all_graphs[0])


@pytest.mark.parametrize("layer", ["native", "gated", "combined"])
def test_every_layer_notices_what_is_no_symmetry(layer: str, graph: gn.NeuralGraph) -> None:
    config = gn.MetaNetConfig(width=8, rounds=2, layer=layer)  # type: ignore[arg-type]
    model = gn.GraphMetaNet(config, specs=[graph.spec]).double()
    with torch.no_grad():
        assert len(gn.testing.assert_separates(model, graph)) >= 3


def test_separation_catches_a_blind_reader_of_traced_networks(graph: gn.NeuralGraph) -> None:
    """Negative control: sums of squares are blind to everything but factors."""

    def blind(networks: gn.NeuralGraph) -> torch.Tensor:
        return torch.stack([sum(t.square().sum() for t in g.state_dict().values()) for g in networks.to_data_list()])

    with pytest.raises(AssertionError, match="blind to .*'uncoupled rows'"):
        gn.testing.assert_separates(blind, graph)
