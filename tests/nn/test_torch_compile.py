"""``torch.compile(model)`` gives the numbers of the model, forward and backward, for batches of other sizes, too."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.models import LAYERS, GraphMetaNet, MetaNetConfig
from graphnfn.testing import random_graph

SPECS = {"siren": mlp_spec([2, 5, 4, 1], "sin", omega=30.0), "cnn": small_cnn_spec([1, 3, 4], 3, "relu", stride=2)}
pytestmark = pytest.mark.filterwarnings("ignore")  # Dynamo's on functions whose values are kept, PyTorch's on itself
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def _results(run: Any, model: nn.Module, graph: NeuralGraph) -> list[Tensor]:
    """Predictions and the gradient of their mean square."""
    model.zero_grad()
    out = run(graph)
    out.square().mean().backward()
    grads = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in model.parameters()]
    return [out.detach(), torch.cat([g.flatten() for g in grads])]


def _error(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(float((f - w).norm() / w.norm()) for f, w in zip(found, wanted, strict=True))


def _check(layer: Any, name: str, backend: str) -> None:
    torch.manual_seed(0)
    model = GraphMetaNet(MetaNetConfig(layer=layer, width=8, out=2), specs=[SPECS[name]])
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)  # gates that start at zero hide nothing
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend=backend)
    for networks in (3, 5):
        graph = random_graph(SPECS[name], seed=networks, dtype=torch.float32, networks=networks)
        found, wanted = _results(compiled, twin, graph), _results(model, model, graph)
        assert _error(found, wanted) < 1e-4
    assert counters["stats"]["unique_graphs"] > 0  # something was compiled
    next(twin.head.parameters()).data *= 1.01  # negative control: another model
    assert _error(_results(compiled, twin, graph), wanted) > 1e-3


def test_a_traced_model_has_the_same_numbers() -> None:
    _check("synchronous", "siren", "eager")  # traced, and run by PyTorch's operators


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.parametrize("layer", list(LAYERS))
def test_compiled_models_have_the_same_numbers(layer: str, name: str) -> None:
    _check(layer, name, "inductor")


@needs_compiler
@pytest.mark.slow
def test_gradients_are_finite_at_the_size_of_zoos() -> None:
    """Maxima over 32 neurons: compiled code computes them again for the backward pass, not bit for bit."""
    spec = mlp_spec([2, 32, 32, 1], "sin", omega=30.0)
    torch.manual_seed(0)
    model = GraphMetaNet(MetaNetConfig(layer="native", out=10), specs=[spec])
    twin, graph = copy.deepcopy(model), random_graph(spec, dtype=torch.float32, networks=64)
    found, wanted = _results(torch.compile(twin), twin, graph), _results(model, model, graph)
    assert _error(found, wanted) < 1e-3
