"""DWSNets: the official weights, the claimed symmetry, what as-published cannot tell apart, sizes, errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import nn

from baselines import dws
from baselines.dws.layers import DeepSet, DWSLayer, DWSLayerAsPublished, Pooled, SetAttention, Tensors
from baselines.errors import BaselineError
from baselines.official import load_official
from baselines.weight_space import WeightSpace, add, chain_form, weight_space, weight_spaces
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.testing import assert_batch_independent, assert_equivariant, assert_pure, equivariance_error, random_graph

MLP = mlp_spec([2, 6, 5, 3], "tanh")
WIDER = mlp_spec([2, 7, 9, 3], "relu")
DEEPER = mlp_spec([2, 4, 5, 6, 3], "relu")
SHALLOW = mlp_spec([2, 6, 3], "relu")
SIREN = mlp_spec([2, 32, 32, 1], "sin", omega=30.0)
NETS = [dws.DWSNet, dws.DeepSetsDWSNet, dws.DWSNetAsPublished]
EDITORS = [dws.DWSEditor, dws.DeepSetsDWSEditor, dws.DeepSetsDWSEditorAsPublished]
SMALL = {"width": 6, "layers": 2}
SET_MAPS = {
    "attention": lambda a, b: SetAttention(a, b, 1),
    "deepsets": lambda a, b: DeepSet(a, b, lambda x, dim: x.mean(dim)),
}


def small(kind: type[nn.Module]) -> dict[str, int]:
    """Few channels, and two heads where there are heads."""
    return SMALL | ({"heads": 2} if "heads" in inspect.signature(kind.__init__).parameters else {})


def made(kind: type[nn.Module], specs: list, *args: object, **settings: object) -> nn.Module:
    return shaken(kind(specs, *args, **small(kind), **settings).double().eval())


def shaken(module: nn.Module) -> nn.Module:
    """Weights of a size that lets every part of the output differ."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    return module


def networks(specs: list[NetSpec], count: int = 3) -> NeuralGraph:
    parts = [g for i, s in enumerate(specs) for g in random_graph(s, seed=i, networks=count).to_data_list()]
    return NeuralGraph.batch(parts[::2] + parts[1::2])


@pytest.mark.shared
@pytest.mark.parametrize("name", ["ds_max_inv", "ds_mean_inv", "sab_max_inv", "ds_equiv", "sab_equiv"])
def test_official_weights(peer: Callable, name: str) -> None:
    file = peer(f"dws_{name}_A")
    module = file.load()
    counted = [v for k, v in module.state_dict().items() if "num_batches" not in k and "running" not in k]
    assert sum(v.numel() for v in counted) == sum(p.numel() for p in module.parameters())
    for given, wanted in (("input", "output"), ("input_g", "output_g")):
        if isinstance(module, dws.DWSEditor):
            assert file.error(module.delta(file.space(given)), wanted) <= 1
        else:
            assert file.error(module(file.graph(given)), wanted) <= 1


@pytest.mark.parametrize("spec", [MLP, SHALLOW, DEEPER], ids=["mlp", "two layers", "deeper"])
@pytest.mark.parametrize("pool", ["max", "mean", "sum"])
@pytest.mark.parametrize("sets", SET_MAPS)
@pytest.mark.parametrize("kind", [DWSLayer, DWSLayerAsPublished])
def test_layers_commute_with_permutations(kind: type[DWSLayer], sets: str, pool: str, spec: NetSpec) -> None:
    tensors = Tensors(chain_form(spec))
    layer = shaken(kind(tensors.slots, (1, 1), pool=pool, set_map=SET_MAPS[sets]).double())

    def edit(graph: NeuralGraph) -> NeuralGraph:
        parts = weight_spaces(graph)
        done = [tensors.write(layer(tensors.read(p.features.channels_last()))) for p in parts]
        return add(graph, parts, [d.channels_first(p.form) for p, d in zip(parts, done, strict=True)])

    assert_equivariant(edit, random_graph(spec, networks=3), symmetry="permutation", tol=1e-12)


@pytest.mark.parametrize("sets", SET_MAPS)
def test_every_tensor_hears_every_tensor(sets: str) -> None:
    tensors = Tensors(chain_form(DEEPER))
    layer = shaken(DWSLayer(tensors.slots, (1, 2), pool="mean", set_map=SET_MAPS[sets]).double())
    given = tensors.read(weight_space(random_graph(DEEPER, networks=2)).channels_last())
    before = layer(given)
    for i in range(len(given)):
        after = layer([x + (j == i) * torch.randn_like(x) for j, x in enumerate(given)])
        assert all((a - b).abs().max() > 1e-6 for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("sets", SET_MAPS)
def test_as_published_outputs_hear_alike(sets: str) -> None:
    """The published block into the last weights repeats one result for all outputs; the corrected one does not."""
    tensors = Tensors(chain_form(MLP))
    before, last = tensors.slots[1], tensors.slots[2]
    features = torch.randn(4, 5, 6, 1, dtype=torch.float64)
    spread = {}
    for kind in (DWSLayer, DWSLayerAsPublished):
        layer = shaken(kind(tensors.slots, (1, 2), pool="mean", set_map=SET_MAPS[sets]).double())
        heard = layer.message(before, last, Pooled(before.hidden, features, lambda x, dim: x.mean(dim)))
        assert heard.shape == (4, 5, 3 * 2)
        spread[kind] = heard.unflatten(2, (3, 2)).std(2).max()
    assert spread[DWSLayerAsPublished] == 0 and spread[DWSLayer] > 1e-3


def test_features_go_there_and_back() -> None:
    form = chain_form(MLP)
    weights = tuple(torch.randn(3, form.widths[i + 1], form.widths[i], 2) for i in range(3))
    space = WeightSpace(weights, tuple(torch.randn(3, n, 2) for n in form.widths[1:]))
    back = Tensors(form).write(Tensors(form).read(space))
    for a, b in zip((*space.weights, *space.biases), (*back.weights, *back.biases), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("specs", [[MLP], [MLP, WIDER], [SHALLOW]], ids=["mlp", "widths", "two layers"])
@pytest.mark.parametrize("kind", NETS)
def test_invariance(kind: type[nn.Module], specs: list[NetSpec]) -> None:
    graph = networks(specs)
    model = made(kind, specs, 2, normalize=True)
    model.train()(graph)
    model.eval()
    assert kind.symmetry == {"permutation"}
    assert_equivariant(model, graph, symmetry="permutation", tol=1e-11)
    assert equivariance_error(model, graph, decades=1.0) > 1e-3, "scales and signs are not claimed"
    assert_batch_independent(model, graph.to_data_list(), tol=1e-11)
    assert_pure(model, graph)


@pytest.mark.parametrize("specs", [[MLP], [MLP, WIDER]], ids=["mlp", "widths"])
@pytest.mark.parametrize("kind", EDITORS)
def test_edits_are_equivariant(kind: type[nn.Module], specs: list[NetSpec]) -> None:
    graph = networks(specs)
    model = made(kind, specs)
    edited = model(graph)
    assert edited.specs == graph.specs and (edited.edge_attr - graph.edge_attr).abs().min() > 0
    assert_equivariant(model, graph, symmetry="permutation", tol=1e-11)
    assert equivariance_error(model, graph, decades=1.0) > 1e-3
    assert_batch_independent(model, graph.to_data_list(), tol=1e-11)


@pytest.mark.parametrize(("kind", "count"), [(dws.DWSNet, 552_650), (dws.DeepSetsDWSNet, 320_586)], ids=["sab", "ds"])
def test_parameters_of_the_default_model(kind: type[nn.Module], count: int) -> None:
    """As counted with the official code at its defaults: width 32, four hidden layers, ten classes, batch norms."""
    assert sum(p.numel() for p in kind([SIREN], 10).parameters()) == count


@pytest.mark.parametrize("kind", [*NETS, *EDITORS])
def test_presets_are_arguments(kind: type[nn.Module]) -> None:
    assert kind.presets
    for settings in kind.presets.values():
        assert set(settings) <= set(inspect.signature(kind.__init__).parameters)


@pytest.mark.parametrize("kind", [*NETS, *EDITORS])
def test_a_step_of_training(kind: type[nn.Module]) -> None:
    model = kind([MLP], 1, **small(kind)) if kind in NETS else kind([MLP], **small(kind), scale=1.0)
    result = model(random_graph(MLP, networks=4, dtype=torch.float32))
    tensors = [result] if isinstance(result, torch.Tensor) else [result.x, result.edge_attr]
    sum(t.pow(2).mean() for t in tensors).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_what_dwsnets_cannot_read() -> None:
    with pytest.raises(BaselineError, match="two or more dense layers"):
        dws.DWSNet([small_cnn_spec([1, 4, 5], 2, "relu")], 1)
    with pytest.raises(BaselineError, match="two or more dense layers"):
        dws.DWSNet([mlp_spec([2, 3], "relu")], 1)
    with pytest.raises(BaselineError, match="differ in hidden widths only"):
        dws.DWSNet([MLP, DEEPER], 1)
    with pytest.raises(BaselineError, match="build it with the specs"):
        made(dws.DWSNet, [MLP], 1)(random_graph(DEEPER))
    with pytest.raises(BaselineError, match="cannot be split into 4 heads"):
        dws.DWSNet([MLP], 1, width=6, heads=4)
    with pytest.raises(BaselineError, match="unknown pool 'median'; known: max, mean, sum"):
        dws.DWSEditor([MLP], pool="median")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dropout_rate": 0.5}, "dropout_rate=0.5 is not supported"),
        ({"n_hidden": 3}, "expected weights of 4 layers; got 3"),
        ({"hidden_dim": 4}, "do not fit"),
    ],
)
def test_constructors_that_do_not_fit(peer: Callable, change: dict, words: str) -> None:
    file = peer("dws_ds_equiv_A")
    with pytest.raises(BaselineError, match=words):
        load_official(file.class_path, file.meta["constructor"] | change, file.state, specs=[file.spec])
