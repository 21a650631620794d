"""NFN: the official weights, the claimed symmetry, what as-published breaks, sizes, errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import nn

from baselines import nfn
from baselines.errors import BaselineError
from baselines.nfn.layers import HNPLinear, NPLinear, PositionedNPLinear
from baselines.official import load_official
from baselines.weight_space import WeightSpace, add, chain_form, weight_space, weight_spaces
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.testing import assert_batch_independent, assert_equivariant, assert_pure, equivariance_error, random_graph

MLP = mlp_spec([2, 6, 5, 3], "tanh")
WIDER = mlp_spec([2, 7, 9, 3], "relu")
CNN = small_cnn_spec([1, 4, 5, 6], 2, "relu")
SHALLOW = mlp_spec([2, 6, 3], "relu")
SINES = nfn.Encoding(fourier=4, fourier_scale=1.0, bands=2, max_freq=3.0, layers=True)
SMALL = {"channels": (6, 4), "head": nfn.Head(width=16)}
INVARIANT = [nfn.HNPInvariant, nfn.NPInvariant, nfn.PositionedNPInvariant]
EDITORS = [nfn.HNPEditor, nfn.NPEditor]


def made(kind: type[nn.Module], specs: list, *args: object, **settings: object) -> nn.Module:
    return kind(specs, *args, **settings).double().eval()


def networks(specs: list[NetSpec], count: int = 3) -> NeuralGraph:
    parts = [g for i, s in enumerate(specs) for g in random_graph(s, seed=i, networks=count).to_data_list()]
    return NeuralGraph.batch(parts[::2] + parts[1::2])


def flat(graph: NeuralGraph) -> list[torch.Tensor]:
    """All parameters, tensor by tensor."""
    return [t for stack in graph.stacks() for t in stack.unpack().values()]


def shaken(module: nn.Module) -> nn.Module:
    """Weights of a size that lets every part of the output differ."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    return module


@pytest.mark.shared
@pytest.mark.parametrize("model", ["nplinear", "nplinear_posemb", "hnplinear", "nppool", "hnppool"])
@pytest.mark.parametrize("data", "AB")
def test_official_layers(peer: Callable, model: str, data: str) -> None:
    file = peer(f"nfn_{model}_{data}")
    module = file.load()
    for given in {"input", "input_g"} & file.kinds():
        got = module(file.space(given).channels_last())
        got = got if isinstance(got, torch.Tensor) else got.channels_first(chain_form(file.spec))
        assert file.error(got, given.replace("input", "output")) <= 1


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["np_inv_B", "np_inv_nonorm_B", "hnp_inv_B", "hnp_inv_A", "np_inv_A", "np_enclayers_inv_A", "np_edit_A"]
)
def test_official_models(peer: Callable, name: str) -> None:
    file = peer(f"nfn_{name}")
    module = file.load()
    for given, wanted in (("input", "output"), ("input_g", "output_g")):
        if isinstance(module, nfn.NPEditor):
            assert file.error(module.delta(file.space(given)), wanted) <= 1
        else:
            assert file.error(module(file.graph(given)), wanted) <= 1


@pytest.mark.parametrize("spec", [MLP, CNN, SHALLOW], ids=["mlp", "cnn", "two layers"])
@pytest.mark.parametrize("kind", [NPLinear, PositionedNPLinear, HNPLinear])
def test_layers_commute_with_permutations(kind: type[NPLinear], spec: NetSpec) -> None:
    """Also the parts of a layer that start small or are averaged out: every output depends on every input."""
    layer = shaken(kind(chain_form(spec), 1, 1).double())

    def edit(graph: NeuralGraph) -> NeuralGraph:
        parts = weight_spaces(graph)
        return add(graph, parts, [layer(p.features.channels_last()).channels_first(p.form) for p in parts])

    assert_equivariant(edit, random_graph(spec, networks=3), symmetry="permutation", tol=1e-12)


@pytest.mark.parametrize("kind", [NPLinear, PositionedNPLinear, HNPLinear])
def test_only_np_is_blind_to_the_order_of_inputs(kind: type[NPLinear]) -> None:
    layer = shaken(kind(chain_form(MLP), 1, 1).double())
    space = weight_space(random_graph(MLP, networks=3)).channels_last()
    swapped = WeightSpace((space.weights[0].flip(2), *space.weights[1:]), space.biases)
    before, after = (layer(layer(s).map(torch.relu)).weights[-1] for s in (space, swapped))
    assert ((before - after).abs().max() < 1e-12) == (kind is NPLinear)


@pytest.mark.parametrize("specs", [[MLP], [MLP, WIDER], [CNN], [SHALLOW]], ids=["mlp", "widths", "cnn", "two layers"])
@pytest.mark.parametrize("kind", INVARIANT)
def test_invariance(kind: type[nn.Module], specs: list[NetSpec]) -> None:
    graph = networks(specs)
    model = shaken(made(kind, specs, 2, encoding=SINES, normalize=True, **SMALL))
    model.train()(graph)
    model.eval()
    assert kind.symmetry == {"permutation"}
    assert_equivariant(model, graph, symmetry="permutation", tol=1e-11)
    assert equivariance_error(model, graph, decades=1.0) > 1e-3, "scales and signs are not claimed"
    assert_batch_independent(model, graph.to_data_list(), tol=1e-11)
    assert_pure(model, graph)


@pytest.mark.parametrize("specs", [[MLP], [MLP, WIDER], [CNN]], ids=["mlp", "widths", "cnn"])
@pytest.mark.parametrize("kind", EDITORS)
def test_edits_are_equivariant(kind: type[nn.Module], specs: list[NetSpec]) -> None:
    graph = networks(specs)
    model = shaken(made(kind, specs, channels=(6, 4), encoding=SINES))
    edited = model(graph)
    assert edited.specs == graph.specs
    assert all((a - b).abs().min() > 0 for a, b in zip(flat(edited), flat(graph), strict=True))
    assert_equivariant(model, graph, symmetry="permutation", tol=1e-11)
    assert equivariance_error(model, graph, decades=1.0) > 1e-3
    assert_batch_independent(model, graph.to_data_list(), tol=1e-11)


def test_statistics_per_entry_break_the_symmetry() -> None:
    """As published; the corrected normalisation is tested above."""
    graph = random_graph(MLP, networks=20)
    model = made(nfn.PositionedNPInvariantAsPublished, [MLP], 2, normalize=True, **SMALL)
    space = weight_space(graph).channels_last()
    model.normalize.fit(space)
    torch.testing.assert_close(model.normalize(space).weights[1].std(0), torch.ones(5, 6, 1, dtype=torch.float64))
    assert equivariance_error(model, graph, symmetry="permutation") > 1e-3
    assert model.symmetry == frozenset()
    with pytest.raises(BaselineError, match=r"statistics per entry.*got \[\(7, 1\)"):
        model(random_graph(WIDER))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["np_inv_nonorm_B", "hnp_inv_B", "hnp_inv_A", "np_inv_A", "np_edit_A"])
def test_as_many_parameters_as_the_official_models(peer: Callable, name: str) -> None:
    """Fourier frequencies are buffers, which the file counts too."""
    file = peer(f"nfn_{name}")
    assert sum(v.numel() for v in file.load().state_dict().values()) == file.meta["parameters"]


@pytest.mark.parametrize(
    ("kind", "count"), [(nfn.HNPInvariant, 2_811_743), (nfn.PositionedNPInvariant, 2_031_390)], ids=["HNP", "NP"]
)
def test_parameters_of_the_zoo_presets(kind: type[nn.Module], count: int) -> None:
    spec = small_cnn_spec([1, 16, 16, 16], 10, "relu", stride=2)
    model = kind([spec], 1, **kind.presets["small_cnn_zoo"])
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("kind", [*INVARIANT, *EDITORS])
def test_presets_are_arguments(kind: type[nn.Module]) -> None:
    assert kind.presets
    for settings in kind.presets.values():
        assert set(settings) <= set(inspect.signature(kind.__init__).parameters)


@pytest.mark.parametrize("kind", [*INVARIANT, *EDITORS])
def test_a_step_of_training(kind: type[nn.Module]) -> None:
    settings = {"channels": (6, 4), "encoding": SINES}
    model = kind([MLP], 1, feature_dropout=0.1, **settings) if kind in INVARIANT else kind([MLP], **settings)
    result = model(random_graph(MLP, networks=4, dtype=torch.float32))
    loss = result.pow(2).mean() if isinstance(result, torch.Tensor) else sum(t.pow(2).mean() for t in flat(result))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_dropout_of_channels() -> None:
    model = made(nfn.HNPInvariant, [MLP], 1, feature_dropout=0.5, channels=(6,)).train()
    space = weight_space(random_graph(MLP, networks=4)).channels_last()
    thinned, whole = model.features(space).weights[1], model.eval().features(space).weights[1]
    lost = (thinned == 0).all((1, 2))
    assert lost.any() and not lost.all() and not (whole == 0).all((1, 2)).all()
    torch.testing.assert_close(thinned, 2 * whole * ~lost[:, None, None])


def test_networks_of_another_form_are_refused() -> None:
    model = made(nfn.HNPInvariant, [MLP], 1, **SMALL)
    with pytest.raises(BaselineError, match="with any hidden widths; got .*build it with the specs"):
        model(random_graph(SHALLOW))
    with pytest.raises(BaselineError, match="differ in hidden widths only"):
        nfn.HNPInvariant([MLP, CNN], 1)
    with pytest.raises(BaselineError, match="needs hidden neurons"):
        nfn.HNPInvariant([mlp_spec([2, 3], "relu")], 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lnorm": "simple"}, "lnorm='simple' is not supported"),
        ({"mode": "PT"}, "no published model has"),
        ({"hchannels": [3]}, "expected weights of 1 layers; got 0"),
    ],
)
def test_settings_that_were_not_published(change: dict, words: str) -> None:
    settings = {"hchannels": [], "mode": "HNP", "head": {"num_out": 1, "h_size": 4}}
    with pytest.raises(BaselineError, match=words):
        load_official("AllanYangZhou/nfn/experiments/models.py:InvariantNFN", settings | change, {}, specs=[MLP])


@pytest.mark.parametrize("spec", [MLP, CNN, SHALLOW], ids=["mlp", "cnn", "two layers"])
@pytest.mark.parametrize("name", ["NPLinear", "NPLinear with places", "HNPLinear", "NPPool", "HNPPool"])
def test_the_published_package_agrees(name: str, spec: NetSpec) -> None:
    """``nfn`` 0.1.2 from PyPI, with its own random weights."""
    layers, common = import_module("nfn.layers"), import_module("nfn.common")
    form = chain_form(spec)
    space = WeightSpace(
        tuple(torch.randn(3, 2, *form.weight_shape(i), dtype=torch.float64) for i in range(form.depth)),
        tuple(torch.randn(3, 2, n, dtype=torch.float64) for n in form.widths[1:]),
    )
    theirs_in = common.WeightSpaceFeatures(space.weights, space.biases)
    cls, places = name.split(" ")[0], {"io_embed": True} if "places" in name else {}
    settings = {} if "Pool" in name else {"in_channels": 2, "out_channels": 3, **places}
    theirs = getattr(layers, cls)(common.network_spec_from_wsfeat(theirs_in), **settings).double()
    path = f"AllanYangZhou/nfn/nfn/layers/layers.py:{cls}"
    ours = load_official(path, settings, theirs.state_dict(), specs=[spec]).double()
    theirs.load_state_dict({k: v.float().double() for k, v in theirs.state_dict().items()})
    want, got = theirs(theirs_in), ours(space.channels_last())
    if isinstance(got, WeightSpace):
        got = got.channels_first(form)
        pairs = zip((*got.weights, *got.biases), (*want.weights, *want.biases), strict=True)
    else:
        pairs = [(got, want)]
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
