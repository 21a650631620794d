"""Networks that were prepared once are read as those that are prepared in every step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import graphnfn as gn
from graphnfn import testing
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError
from graphnfn.models import LAYERS
from graphnfn.nn.answers import fields
from graphnfn.prepared import Prepared
from graphnfn.stack import Stack
from graphnfn.symmetry import act, random_element

CNN = small_cnn_spec([1, 4, 5], 3, "relu", input_shape=(1, 8, 8))
SIREN = mlp_spec([2, 6, 5, 1], "sin", omega=30.0)
MLP = mlp_spec([7, 6, 5, 2], "abs")
FIELD = mlp_spec([3, 6, 5, 1], "relu")


def model_of(graph: gn.NeuralGraph, layer: str = "gated", **settings: Any) -> gn.GraphMetaNet:
    config = gn.MetaNetConfig(width=6, layer=layer, out=3, **settings)  # type: ignore[arg-type]
    model = gn.GraphMetaNet(config, specs=set(graph.specs)).eval()
    model.fit([graph])
    return model


def gradients(model: gn.GraphMetaNet, graph: gn.NeuralGraph) -> list[Tensor]:
    model.zero_grad()
    out = model(graph)
    assert isinstance(out, Tensor)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def mixed() -> gn.NeuralGraph:
    parts = [testing.random_graph(s, networks=2, seed=k, dtype=torch.float32) for k, s in enumerate((CNN, MLP, CNN))]
    return gn.NeuralGraph.batch(parts)


@pytest.mark.parametrize("layer", list(LAYERS))
@pytest.mark.parametrize("spec", [CNN, SIREN, MLP, FIELD], ids=["cnn", "siren", "mlp", "field"])
def test_predictions_and_gradients_are_the_same(spec: gn.NetSpec, layer: str) -> None:
    graph = testing.random_graph(spec, networks=4, dtype=torch.float32)
    model = model_of(graph, layer, statistics=True, functionals=True)
    prepared = model.prepare(graph)
    assert all(isinstance(stack, Prepared) for stack in prepared.stacks())
    for want, got in zip(gradients(model, graph), gradients(model, prepared), strict=True):
        assert torch.equal(want, got)


@pytest.mark.parametrize("settings", [{"statistics": True}, {"units": True}, {"reference_width": 4}])
def test_in_mixed_batches_and_with_other_settings(settings: dict[str, Any]) -> None:
    graph = mixed()
    model = model_of(graph, **settings)
    prepared = model.prepare(graph)
    assert torch.equal(model(graph), model(prepared))
    torch.testing.assert_close(model(graph), model.forward_on_edges(prepared), rtol=1e-4, atol=1e-4)


def test_prepared_once_whatever_the_scales() -> None:
    graph = testing.random_graph(CNN, networks=3)
    model = model_of(graph, statistics=True).double()
    moved = act(random_element(CNN, 4.0, 0), graph)
    torch.testing.assert_close(model(model.prepare(moved)), model(graph))


def test_nothing_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = testing.random_graph(CNN, networks=3, dtype=torch.float32)
    model = model_of(graph, statistics=True)
    prepared = model.prepare(graph)

    def made(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("graphnfn.models.canonical_scales", made)
    monkeypatch.setattr("graphnfn.nn.statistics.balanced_form", made)
    model(prepared)
    with pytest.raises(AssertionError, match="made again"):
        model(graph)


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_no_network_is_run_again(monkeypatch: pytest.MonkeyPatch, jitter: float) -> None:
    graph = testing.random_graph(SIREN, networks=3, dtype=torch.float32)
    model = model_of(graph, "probes", functionals=True, jitter=jitter)
    prepared = model.prepare(graph)
    want = model(graph)

    def made(*_: object) -> None:
        raise AssertionError("run again")

    monkeypatch.setattr("graphnfn.nn.lattice.fields", made)
    monkeypatch.setattr("graphnfn.nn.field_reader.fields", made)
    assert torch.equal(model(prepared), want)
    model.train()
    assert torch.equal(model(prepared), want) == (not jitter)  # pictures are moved
    with pytest.raises(AssertionError, match="run again"):
        model(graph)


def test_networks_are_run_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = testing.random_graph(SIREN, networks=5, dtype=torch.float32)
    model = model_of(graph, "probes", functionals=True)
    (want,), sizes = model.prepare(graph).stacks(), []

    def noted(stack: Stack, *rest: Any) -> Tensor:
        sizes.append(stack.size)
        return fields(stack, *rest)

    monkeypatch.setattr("graphnfn.models.TOGETHER", 2)
    monkeypatch.setattr("graphnfn.nn.lattice.fields", noted)
    monkeypatch.setattr("graphnfn.nn.field_reader.fields", noted)
    (got,) = model.prepare(graph).stacks()
    assert sizes == [2, 2, 1, 2, 2, 1]
    assert isinstance(got, Prepared) and isinstance(want, Prepared)
    torch.testing.assert_close((got.picture, got.field), (want.picture, want.field))


def test_networks_are_run_once_for_all_that_read_their_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = testing.random_graph(SIREN, networks=3, dtype=torch.float32)
    model, runs = model_of(graph, "native", functionals=True), []

    def noted(stack: Stack, *rest: Any) -> Tensor:
        runs.append(stack.size)
        return fields(stack, *rest)

    monkeypatch.setattr("graphnfn.nn.field_reader.fields", noted)
    model(graph)
    model.fit([graph])
    model.prepare(graph)
    assert runs == [3, 3, 3]


def test_rows_types_and_edits() -> None:
    graph = testing.random_graph(CNN, networks=4, dtype=torch.float32)
    model = model_of(graph, statistics=True)
    prepared = model.prepare(graph)
    (stack,) = prepared.stacks()
    part = gn.NeuralGraph.from_stacks([stack.take(torch.tensor([2, 0]))])
    torch.testing.assert_close(model(part), model(graph)[[2, 0]])
    wide = prepared.astype(torch.float64).stacks()[0]
    assert wide.statistics.dtype == wide.nodes.dtype == torch.float64
    edited = act(random_element(CNN, 1.0, 0), prepared)
    assert not isinstance(edited.stacks()[0], Prepared)  # canonical no more
    torch.testing.assert_close(model(edited), model(graph), rtol=1e-4, atol=1e-4)


def test_statistics_are_left_out_where_no_model_reads_them() -> None:
    graph = testing.random_graph(SIREN, networks=2)
    (siren,) = model_of(testing.random_graph(CNN), statistics=True).prepare(graph).stacks()
    (plain,) = model_of(testing.random_graph(CNN)).prepare(testing.random_graph(CNN)).stacks()
    assert siren.statistics is None and plain.statistics is None


def test_editors_take_networks_as_they_are() -> None:
    graph = testing.random_graph(CNN, networks=2, dtype=torch.float32)
    editor = gn.GraphMetaNet(gn.MetaNetConfig(width=6, head="edit"), specs=[CNN])
    with pytest.raises(SpecError, match="only models with head 'invariant'"):
        editor.prepare(graph)
    with pytest.raises(SpecError, match="prepared for a model with head 'invariant'"):
        editor(model_of(graph).prepare(graph))
