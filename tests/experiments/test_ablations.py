"""Ablations: each breaks what it must break and keeps the rest."""

from __future__ import annotations

import pytest
import torch

from experiments.ablations import ABLATIONS, ablated
from experiments.config import load, make
from experiments.errors import ExperimentError
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.models import LAYERS, GraphMetaNet
from graphnfn.nn.native import NativeSweep
from graphnfn.nn.state import State
from graphnfn.testing import equivariance_error, random_graph

SYMMETRIES = {
    "scale": [mlp_spec([3, 6, 5, 2], "relu"), small_cnn_spec([1, 4, 4], 3, "relu")],
    "sign": [mlp_spec([3, 6, 5, 2], "tanh"), mlp_spec([2, 6, 5, 1], "sin", omega=3.0)],
}
EXACT, BROKEN = 1e-9, 1e-4


def perturbed(name: str, layer: str, graph: NeuralGraph) -> GraphMetaNet:
    """No weight is zero, so that nothing hides behind a start at zero."""
    torch.manual_seed(0)
    model = ablated(out=2, specs=graph.specs, name=name, layer=layer, width=8, rounds=1)
    assert isinstance(model, GraphMetaNet)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model.double()


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("layer", ["native", "gated", "synchronous", "complete"])
@pytest.mark.parametrize("name", ABLATIONS)
def test_what_is_broken_and_what_holds(name: str, layer: str, symmetry: str) -> None:
    specs = SYMMETRIES[symmetry]
    graph = NeuralGraph.batch([random_graph(s, seed=i, networks=2) for i, s in enumerate(specs)])
    model = perturbed(name, layer, graph)
    error = equivariance_error(model, graph, decades=4.0, half_turns=2)
    broken = symmetry in ABLATIONS[name].breaks
    assert error > BROKEN if broken else error < EXACT, error
    assert equivariance_error(model, graph, symmetry="permutation") < EXACT


@pytest.mark.parametrize("name", ABLATIONS)
def test_both_wirings_agree(name: str) -> None:
    graph = random_graph(SYMMETRIES["scale"][0], networks=2)
    model = perturbed(name, "combined", graph)
    one, other = model(graph), model.forward_on_edges(graph)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("name", "back"), [("forward_only", False), ("no_parity", True)])
@pytest.mark.parametrize("layer", ["native", "gated"])
def test_nothing_comes_back_without_a_backward_sweep(name: str, layer: str, back: bool) -> None:
    """First hidden neurons hear of the last weights through the backward sweep only."""
    graph = random_graph(SYMMETRIES["scale"][0], networks=2)
    model = perturbed(name, layer, graph)

    def first_layer(scale: float) -> torch.Tensor:
        _, stack = model._canonical(graph.stacks()[0])
        last = stack.blocks[-1] * torch.linspace(1.0, scale, stack.blocks[-1].shape[2])[:, None].double()
        (wiring,) = model._wirings([type(stack)(stack.spec, stack.nodes, (*stack.blocks[:-1], last))], False)
        return model._features(wiring).even[1]

    assert torch.equal(first_layer(1.0), first_layer(3.0)) != back


def test_fixed_probes_get_no_gradient() -> None:
    graph = random_graph(SYMMETRIES["scale"][0], networks=2)
    model = perturbed("fixed_probes", "combined", graph)
    model(graph).sum().backward()
    (sweep,) = [layer for layer in model.layers if isinstance(layer, NativeSweep)]
    assert sweep.inputs.vectors.grad is None and sweep.beta.grad is not None


@pytest.mark.parametrize(("name", "unread"), [("outputs_only", "hidden"), ("hidden_only", "output")])
def test_heads_read_their_part_only(name: str, unread: str) -> None:
    graph = random_graph(SYMMETRIES["scale"][0], networks=2)
    model = perturbed(name, "combined", graph)
    (wiring,) = model._wirings([model._canonical(graph.stacks()[0])[1]], False)
    state = model._features(wiring)
    for role in ("hidden", "output"):
        noise = [e + torch.randn_like(e) * (v.role == role) for v, e in zip(wiring.levels, state.even, strict=True)]
        still = torch.equal(model.head(State(noise), wiring), model.head(state, wiring))
        assert still == (role == unread), role


def test_pictures_are_read_as_they_are_without_deviations() -> None:
    graph = random_graph(SYMMETRIES["sign"][1], networks=4)
    for name, same in (("no_deviations", True), ("no_moves", False)):
        model = perturbed(name, "probes", graph)
        before = model(graph)
        model.fit([graph])
        assert torch.equal(model(graph), before) == same, name


@pytest.mark.parametrize("name", ABLATIONS)
def test_configurations_name_what_they_ablate(name: str) -> None:
    config = load([f"model={name}"])
    whole = load([f"model={config.model.ablates}"])
    assert config.model.name == config.model.build.name == name and config.model.ours
    assert dict(config.trainer) == dict(whole.trainer) and whole.model.name in LAYERS
    assert isinstance(make(config.model.build, out=1, specs=(mlp_spec([2, 4, 1], "relu"),)), ABLATIONS[name].model)


def test_an_unknown_ablation() -> None:
    with pytest.raises(ExperimentError, match="expected one of no_canonical"):
        ablated(out=1, specs=(), name="no_luck", layer="gated", width=4, rounds=1)
