"""Units of blocks: exact under the whole group, unlike entrywise standardisation, and kept in checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import graphnfn as gn
from graphnfn import testing
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError
from graphnfn.nn.units import BlockUnits
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack

SPECS = [
    mlp_spec([2, 6, 6, 1], "sin", omega=30.0),
    mlp_spec([3, 6, 5, 2], "relu"),
    small_cnn_spec([1, 4, 5], 3, "tanh", input_shape=(1, 8, 8)),
]


class Entrywise(BlockUnits):
    """The usual standardisation: mean and deviation of every entry over the zoo. It must fail."""

    def fit(self, stacks: list[Stack]) -> None:  # type: ignore[override]
        (stack,) = stacks
        self.moments = [(w.mean(0), w.std(0)) for w in stack.blocks]

    def forward(self, stack: Stack) -> Stack:
        pairs = zip(stack.blocks, self.moments, strict=True)
        return replace(stack, blocks=tuple((w - mean) / std for w, (mean, std) in pairs))


def fitted(spec: NetSpec, layer: str, head: str = "invariant", **settings: object) -> gn.GraphMetaNet:
    torch.manual_seed(0)
    config = gn.MetaNetConfig(width=6, layer=layer, head=head, units=True, **settings)  # type: ignore[arg-type]
    model = gn.GraphMetaNet(config, specs=[spec]).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    model.fit([testing.random_graph(spec, networks=4, seed=9)])
    return model


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    ("layer", "head"),
    [("gated", "invariant"), ("paths", "invariant"), ("synchronous", "invariant"), ("combined", "edit")],
)
def test_exact_under_the_group(spec: NetSpec, layer: str, head: str) -> None:
    graph = testing.random_graph(spec, networks=2)
    model = fitted(spec, layer, head)
    testing.assert_equivariant(model, graph)
    if head == "invariant":
        torch.testing.assert_close(model.forward_on_edges(graph), model(graph), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", SPECS)
def test_entrywise_standardisation_is_caught(spec: NetSpec) -> None:
    model = fitted(spec, "gated")
    model.units = Entrywise()
    model.units.fit(testing.random_graph(spec, networks=4, seed=9).stacks())
    with pytest.raises(AssertionError):
        testing.assert_equivariant(model, testing.random_graph(spec, networks=2))


def test_rows_have_mean_square_one() -> None:
    graph, units = testing.random_graph(SPECS[0], networks=20), BlockUnits()
    (stack,) = graph.stacks()
    units.fit([stack])
    for weight in units(stack).blocks:
        assert float(weight.square().sum((2, 3)).mean()) == pytest.approx(1)


def test_units_are_of_the_zoo_not_of_the_batch() -> None:
    """A network's prediction depends on what was fitted and on nothing beside it."""
    model, graph = fitted(SPECS[0], "gated"), testing.random_graph(SPECS[0], networks=3)
    alone = torch.cat([model(g) for g in graph.to_data_list()])
    torch.testing.assert_close(model(graph), alone)
    before = model(graph)
    model.fit([graph])
    assert not torch.allclose(model(graph), before)


def test_layers_that_run_networks_do_not_see_units() -> None:
    model, graph = fitted(SPECS[0], "native"), testing.random_graph(SPECS[0])
    before = model(graph)
    model.units.units = {}
    assert torch.equal(model(graph), before)


def test_checkpoints_keep_units() -> None:
    model, graph = fitted(SPECS[0], "gated"), testing.random_graph(SPECS[0])
    fresh = gn.GraphMetaNet(model.config, specs=[SPECS[0]]).double()
    assert fresh.units.units == {}
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(graph), model(graph))


def test_silent_blocks_and_unsized_models() -> None:
    spec, units = SPECS[1], BlockUnits()
    units.fit(gn.NeuralGraph.build(spec, {n: torch.zeros(s) for n, s in spec.params.items()}).stacks())
    assert units.units == {}
    with pytest.raises(SpecError, match="specs="):
        gn.GraphMetaNet(gn.MetaNetConfig(units=True)).fit([])
