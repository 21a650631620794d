"""The gated sweep on neurons with a period: messages in units of the period, Fourier features behind the inputs."""

from __future__ import annotations

import math

import pytest
import torch

import graphnfn as gn
from graphnfn import testing
from graphnfn.activations import Activation
from graphnfn.chain import mlp_spec
from graphnfn.nn import gated
from graphnfn.nn.blocks import BlockWiring
from graphnfn.nn.gated import GatedSweep
from graphnfn.nn.gates import gate
from graphnfn.nn.wiring import Level

WIDTHS = [2, 6, 5, 1]


def siren(omega: float) -> gn.NeuralGraph:
    """One function for every omega: all hidden pre-activations are divided by it."""
    spec = mlp_spec(WIDTHS, "sin", omega=omega)
    torch.manual_seed(0)
    params = {name: torch.randn(shape, dtype=torch.float64) for name, shape in spec.params.items()}
    params = {k: v if k.startswith("layers.2") else v / omega for k, v in params.items()}
    return gn.NeuralGraph.build(spec, params)


def model_of(graph: gn.NeuralGraph) -> gn.GraphMetaNet:
    torch.manual_seed(1)
    return gn.GraphMetaNet(gn.MetaNetConfig(width=8, out=3, layer="gated", rounds=2), specs=graph.specs).double()


@pytest.fixture
def waves_only(monkeypatch):
    """Without sums of absolute weights, which stay in the units of the weights, and without what returns to inputs."""

    def without(mlp, level, e, mass, response, typed):
        return gate(mlp, level, e, torch.zeros_like(mass), response * (level.role != "input"), typed)

    monkeypatch.setattr(gated, "gate", without)


def test_a_frequency_in_the_weights_is_one_in_the_activation(waves_only, monkeypatch):
    fast, slow = siren(30.0), siren(1.0)
    torch.testing.assert_close(model_of(fast)(fast), model_of(slow)(slow), rtol=1e-9, atol=1e-10)
    monkeypatch.setattr(Level, "in_periods", lambda _, typed: typed)  # the control
    assert (model_of(fast)(fast) - model_of(slow)(slow)).abs().max() > 1e-3


@pytest.mark.parametrize(("weight", "seen"), [("layers.0.weight", False), ("layers.1.weight", True)])
def test_the_first_layer_is_read_as_waves(waves_only, weight, seen):
    """Whole periods more in its weights are nothing to input vectors of whole numbers."""
    graph = siren(30.0)
    model = model_of(graph)
    for layer in model.layers:
        assert isinstance(layer, GatedSweep)
        layer.inputs.vectors.data.round_()
    params = {k: v.clone() for k, v in graph.state_dict().items()}
    params[weight][0, 0] += 2 * math.pi / 30
    change = (model(gn.NeuralGraph.build(graph.spec, params)) - model(graph)).abs().max()
    assert change > 1e-3 if seen else change < 1e-10


def test_waves_have_their_types():
    """``sin m`` is odd in m, ``cos m`` even; without a period m itself is odd and 1 even."""
    acts = [Activation("sin", 3.0), Activation("cos", 0.5), Activation("tanh")]
    graph = testing.random_graph(mlp_spec([2, 3, 1], [acts]), dtype=torch.float64)
    level = BlockWiring(graph.stacks()[0]).levels[1]
    m = level.in_periods(torch.full((1, 3, 1), 0.7, dtype=torch.float64))
    (sine, cosine), (back, same) = level.waves(m), level.waves(-m)
    assert torch.equal(back, -sine) and torch.equal(same, cosine)
    expected = [math.sin(2.1), math.sin(0.35), 0.7], [math.cos(2.1), math.cos(0.35), 1.0]
    torch.testing.assert_close(torch.stack([sine, cosine])[:, 0, :, 0], torch.tensor(expected, dtype=torch.float64))
