"""Monomial-NFN: the official weights, the claimed symmetry, what it does not see, the broken editor, sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import nn

from baselines import monomial, nfn
from baselines.chain_form import chain_form
from baselines.errors import BaselineError
from baselines.monomial.layers import MonomialStack
from baselines.official import load_official
from baselines.weight_space import WeightSpace, add, weight_spaces
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.testing import (
    assert_batch_independent,
    assert_equivariant,
    assert_pure,
    equivariance_error,
    random_graph,
    separating_transforms,
)

REPOSITORY = "MathematicalAI-NUS/Monomial-NFN"
RELU, TANH, SINE = (mlp_spec([2, 6, 5, 3], name) for name in ("relu", "tanh", "sin"))
CNN = {name: small_cnn_spec([1, 4, 5, 6], 2, name) for name in ("relu", "tanh", "sin")}
SHALLOW = {name: mlp_spec([2, 6, 3], name) for name in ("relu", "tanh", "sin")}
PLACES = nfn.Encoding(fourier=4, fourier_scale=1.0, bands=2, max_freq=3.0)
TAIL = {"width": 5, "channels": (6, 4), "encoding": PLACES}
ZOO = [monomial.MonomialNFN, monomial.SignMonomialNFN]
SIRENS = [monomial.HNPMonomialSiren, monomial.NPMonomialSiren, monomial.UnitMonomialSiren]
OWN = {kind: "relu" if kind is monomial.MonomialNFN else "tanh" for kind in ZOO} | dict.fromkeys(SIRENS, "sin")
"""Per model, the activation whose networks it is made for."""


def made(kind: type[nn.Module], specs: list[NetSpec]) -> nn.Module:
    """A small model in float64 with generic weights."""
    small = {"channels": (6, 4), "head": nfn.Head(width=16)} if kind in ZOO else TAIL
    model = kind(specs, 2, **small) if kind in OWN else kind(specs, **small)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.double().eval()


def networks(specs: list[NetSpec]) -> NeuralGraph:
    parts = [g for i, s in enumerate(specs) for g in random_graph(s, seed=i, networks=3).to_data_list()]
    return NeuralGraph.batch(parts[::2] + parts[1::2])


def numbers(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        "hnpslinear_A",
        "hnpslinear_B",
        "hnpslinear_C",
        "hnpssirenlinear_A",
        "hnpssirenlinear_C",
        "hnpspool_B",
        "hnpspool_C",
    ],
)
def test_official_layers(peer: Callable, name: str) -> None:
    file = peer(f"monomial_{name}")
    module = file.load()
    for given in {"input", "input_g"} & {k for k in file.kinds() if k.replace("input", "output") in file.kinds()}:
        got = module(file.space(given).channels_last())
        got = got if isinstance(got, torch.Tensor) else got.channels_first(chain_form(file.spec))
        assert file.error(got, given.replace("input", "output")) <= 1


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("hnps_inv_B", 10),
        ("hnps_inv_C", 10),
        ("hnps_inv_tanh_B", 10),
        ("s_sin_abs_A", 0),
        ("s_sin_abs_np_A", 0),
        ("s_sin_abs_fashion_A", 16),
        ("style_editor_A", 0),
    ],
)
def test_official_models(peer: Callable, name: str, unused: int) -> None:
    """``unused``: parameters of the published pool that nothing reads."""
    file = peer(f"monomial_{name}")
    module = file.load()
    assert sum(v.numel() for v in module.state_dict().values()) == file.meta["parameters"] - unused
    for given, wanted in (("input", "output"), ("input_g", "output_g")):
        if isinstance(module, monomial.MonomialEditorAsPublished):
            assert file.error(module.delta(file.space(given)), wanted) <= 1
        else:
            assert file.error(module(file.graph(given)), wanted) <= 1


@pytest.mark.shared
def test_a_changed_weight_is_noticed(peer: Callable) -> None:
    file = peer("monomial_hnps_inv_C")
    file.tensors["param/nfnet_features.0.layer_1_Y_W.weight"][0, 0] += 1e-3
    assert file.error(file.load()(file.graph())) > 1


@pytest.mark.parametrize("shape", ["mlp", "cnn", "two layers"])
@pytest.mark.parametrize(
    ("layer", "activation", "exact"),
    [
        (monomial.MonomialLinear, "relu", True),
        (monomial.MonomialLinear, "tanh", True),
        (monomial.SignLinear, "tanh", True),
        (monomial.SignLinear, "relu", False),
    ],
)
def test_layers_commute_with_the_group(layer: type[nn.Module], activation: str, exact: bool, shape: str) -> None:
    deep = mlp_spec([2, 6, 5, 3], activation)
    spec = {"mlp": deep, "cnn": CNN.get(activation, deep), "two layers": SHALLOW.get(activation, deep)}[shape]
    module = layer(chain_form(spec), 1, 1).double()

    def edit(graph: NeuralGraph) -> NeuralGraph:
        parts = weight_spaces(graph)
        return add(graph, parts, [module(p.features.channels_last()).channels_first(p.form) for p in parts])

    graph = random_graph(spec, networks=3)
    if exact:
        assert_equivariant(edit, graph, tol=1e-12)
    else:
        assert equivariance_error(edit, graph, decades=2.0) > 1e-2, "only signs are claimed"


@pytest.mark.parametrize("shape", ["mlp", "widths", "cnn", "two layers"])
@pytest.mark.parametrize("kind", [*ZOO, *SIRENS])
def test_invariance(kind: type[nn.Module], shape: str) -> None:
    own = OWN[kind]
    deep = mlp_spec([2, 6, 5, 3], own)
    wide = [deep, mlp_spec([2, 7, 9, 3], own)]
    specs = {"mlp": [deep], "widths": wide, "cnn": [CNN[own]], "two layers": [SHALLOW[own]]}[shape]
    graph, model = networks(specs), made(kind, specs)
    assert kind.symmetry == {"permutation", "scale" if own == "relu" else "sign"}
    assert_equivariant(model, graph, tol=1e-10)
    assert_batch_independent(model, graph.to_data_list(), tol=1e-11)
    assert_pure(model, graph)


@pytest.mark.parametrize("kind", [*ZOO, *SIRENS])
def test_what_is_not_claimed_does_not_hold(kind: type[nn.Module]) -> None:
    other = TANH if OWN[kind] == "relu" else RELU
    assert equivariance_error(made(kind, [other]), random_graph(other, networks=3), decades=2.0) > 1e-3


@pytest.mark.parametrize(
    ("kind", "blind", "sees"),
    [
        (monomial.MonomialNFN, {"uncoupled rows", "uncoupled columns", "shuffled signs"}, {"kernel factors"}),
        (monomial.SignMonomialNFN, {"uncoupled rows", "uncoupled columns", "shuffled signs"}, {"kernel factors"}),
        (monomial.HNPMonomialSiren, {"shuffled signs"}, {"uncoupled rows", "uncoupled columns", "kernel factors"}),
    ],
)
def test_what_the_published_models_cannot_see(kind: type[nn.Module], blind: set[str], sees: set[str]) -> None:
    """Transformations that change what the networks compute."""
    graph = random_graph(mlp_spec([2, 6, 6, 6, 3], OWN[kind]), networks=3)
    model = made(kind, [graph.spec]).requires_grad_(False)
    still = model(graph)
    changed = {
        name: float((model(move(graph)) - still).abs().max() / still.std())
        for name, move in separating_transforms(graph).items()
    }
    assert {name for name, change in changed.items() if change < 1e-10} == blind
    assert {name for name, change in changed.items() if change > 1e-6} == sees


def test_the_published_pool_sees_directions_of_hidden_kernels_only() -> None:
    """A positive factor for every single hidden kernel and bias; factors in the last weights are seen."""
    model = made(monomial.MonomialNFN, [CNN["relu"]]).requires_grad_(False)
    space = weight_spaces(random_graph(CNN["relu"], networks=3))[0].features.channels_last()

    def rescaled(weights: set[int], biases: set[int]) -> WeightSpace:
        factors = [1 + 9 * torch.rand_like(w[..., :1]) for w in (*space.weights, *space.biases)]
        return WeightSpace(
            tuple(w * f if i in weights else w for i, (w, f) in enumerate(zip(space.weights, factors, strict=False))),
            tuple(b * f if i in biases else b for i, (b, f) in enumerate(zip(space.biases, factors[4:], strict=True))),
        )

    still = model.pool(model.layers(space))
    torch.testing.assert_close(model.pool(model.layers(rescaled({1, 2}, {1, 2}))), still, rtol=0, atol=1e-12)
    assert (model.pool(model.layers(rescaled({3}, set()))) - still).abs().max() > 1e-2


@pytest.mark.parametrize("shape", ["mlp", "cnn", "two layers"])
def test_the_editor_is_equivariant_to_signs_and_the_published_one_is_not(shape: str) -> None:
    spec = {"mlp": SINE, "cnn": CNN["sin"], "two layers": SHALLOW["sin"]}[shape]
    graph = random_graph(spec, networks=3)
    right, wrong = (made(kind, [spec]) for kind in (monomial.MonomialEditor, monomial.MonomialEditorAsPublished))
    assert_equivariant(right, graph, tol=1e-11)
    assert_batch_independent(right, graph.to_data_list(), tol=1e-11)
    assert_equivariant(wrong, graph, symmetry="permutation", tol=1e-11)
    assert equivariance_error(wrong, graph) > 0.1
    assert (right.symmetry, wrong.symmetry) == ({"permutation", "sign"}, {"permutation"})
    for old, new in zip(graph.stacks()[0].blocks, right(graph).stacks()[0].blocks, strict=True):
        assert (old - new).abs().min() > 0


def test_the_editor_of_signs_sees_more_than_its_own_entry() -> None:
    """Every edited tensor depends on every tensor, which linear layers alone do not do."""
    model = made(monomial.MonomialEditor, [SINE])
    space = weight_spaces(random_graph(SINE))[0].features.map(lambda t: t.requires_grad_())
    inputs = (*space.weights, *space.biases)
    delta = model.delta(space)
    for out in (*delta.weights, *delta.biases):
        grads = torch.autograd.grad(out.sum(), inputs, retain_graph=True)
        assert all(float(g.abs().max()) > 0 for g in grads)


@pytest.mark.parametrize(
    ("widths", "layer", "count"),
    [
        ([2, 32, 32, 1], monomial.MonomialLinear, 3_344),
        ([2, 32, 32, 1], monomial.SignLinear, 3_856),
        ([784, 128, 128, 10], monomial.MonomialLinear, 157_805_472),
    ],
)
def test_parameters_of_a_layer(widths: list[int], layer: type[nn.Module], count: int) -> None:
    with torch.device("meta"):
        assert numbers(layer(chain_form(mlp_spec(widths, "tanh")), 16, 16)) == count


@pytest.mark.parametrize(
    ("kind", "preset", "outputs", "count"),
    [
        (monomial.MonomialNFN, "small_cnn_zoo", 10, 254_619 - 10),
        (monomial.SignMonomialNFN, "small_cnn_zoo", 10, 254_619 - 10),
        (monomial.HNPMonomialSiren, "siren_mnist", 1, 22_146_603),
        (monomial.HNPMonomialSiren, "siren_fashion", 1, 20_494_603),
        (monomial.NPMonomialSiren, "siren_cifar", 3, 16_248_045),
    ],
)
def test_parameters_of_the_presets(kind: type[nn.Module], preset: str, outputs: int, count: int) -> None:
    """As measured on the published classes, less what their pools do not read."""
    if preset == "small_cnn_zoo":
        spec, out = small_cnn_spec([1, 16, 16, 16], outputs, "relu", stride=2), 1
    else:
        spec, out = mlp_spec([2, 32, 32, outputs], "sin"), 10
    assert numbers(kind([spec], out, **kind.presets[preset])) == count


@pytest.mark.parametrize(("outputs", "count"), [(1, 4_134_153), (3, 4_134_827)])
def test_parameters_of_the_published_editor(outputs: int, count: int) -> None:
    assert numbers(monomial.MonomialEditorAsPublished([mlp_spec([2, 32, 32, outputs], "sin")])) == count


@pytest.mark.parametrize("kind", [*ZOO, *SIRENS, monomial.MonomialEditor, monomial.MonomialEditorAsPublished])
def test_presets_are_arguments(kind: type[nn.Module]) -> None:
    assert kind.presets or kind is monomial.UnitMonomialSiren
    for settings in kind.presets.values():
        assert set(settings) <= set(inspect.signature(kind.__init__).parameters)


@pytest.mark.parametrize("kind", [*ZOO, *SIRENS, monomial.MonomialEditor, monomial.MonomialEditorAsPublished])
def test_a_step_of_training(kind: type[nn.Module]) -> None:
    model = made(kind, [SINE]).float().train()
    result = model(random_graph(SINE, networks=4, dtype=torch.float32))
    tensors = [result] if isinstance(result, torch.Tensor) else result.stacks()[0].unpack().values()
    sum(t.pow(2).mean() for t in tensors).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_initial_features_neither_vanish_nor_explode() -> None:
    form = chain_form(mlp_spec([2, 32, 32, 10], "relu"))
    space = WeightSpace(
        tuple(torch.randn(8, *form.weight_shape(i), 1) for i in range(form.depth)),
        tuple(torch.randn(8, n, 1) for n in form.widths[1:]),
    )
    out = MonomialStack(monomial.SignLinear, form, (1, 16, 16, 16), torch.tanh, nn.Identity())(space).map(torch.detach)
    assert all(0.05 < float(t.std()) < 5 for t in (*out.weights, *out.biases))


def test_networks_of_another_form_are_refused() -> None:
    model = made(monomial.MonomialNFN, [RELU])
    with pytest.raises(BaselineError, match="with any hidden widths; got .*build it with the specs"):
        model(random_graph(SHALLOW["relu"]))
    with pytest.raises(BaselineError, match="differ in hidden widths only"):
        monomial.HNPMonomialSiren([SINE, CNN["sin"]], 1)
    with pytest.raises(BaselineError, match=r"needs hidden neurons; got widths \(2, 3\)"):
        monomial.MonomialNFN([mlp_spec([2, 3], "relu")], 1)


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        ("models.py:InvariantNFN", {"mode": "HNP"}, "mode='HNP' is not supported"),
        ("models.py:InvariantNFN_HNPS", {"model_type": "S_abs"}, "no published model is a InvariantNFN_HNPS of type"),
        ("models.py:InvariantNFN", {"hchannels": [3]}, "expected weights of 1 layers; got 0"),
        ("models.py:InvariantNFN_HNPS", {"model_type": "S_sin_abs"}, "no published model has"),
        ("stylize_models.py:TransferNet", {"mode": "NP", "special": False}, "special=False is not supported"),
    ],
)
def test_settings_that_were_not_published(path: str, change: dict, words: str) -> None:
    head = {"num_out": 1, "h_size": 4, "pool_mode": "HNPS_param_mul_L2"}
    settings = {"hchannels": [], "mode": "HNPS", "head": head} | change
    with pytest.raises(BaselineError, match=words):
        load_official(f"{REPOSITORY}/experiments/{path}", settings, {}, specs=[RELU])


def test_weights_of_another_shape_are_refused() -> None:
    path, settings = f"{REPOSITORY}/nfn/layers/layers.py:HNPSLinear", {"in_channels": 1, "out_channels": 1}
    with pytest.raises(BaselineError, match="'layer_0_Y_W': expected axes mnqk; got shape"):
        load_official(path, settings, {"layer_0_Y_W.weight": torch.ones(1, 1)}, specs=[RELU])
    with pytest.raises(BaselineError, match="lack 'layer_0_Y_W.weight'"):
        load_official(path, settings, {}, specs=[RELU])
