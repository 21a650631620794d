"""MAGEP-NFN: the official weights, the terms by their definitions, the claimed symmetry, what it sees, sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from baselines import magep, nfn
from baselines.chain_form import ChainForm, chain_form
from baselines.errors import BaselineError
from baselines.magep.layers import StableTerms
from baselines.magep.models import dense_form
from baselines.official import load_official
from baselines.weight_space import WeightSpace, add, weight_spaces
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.testing import (
    assert_batch_independent,
    assert_equivariant,
    assert_pure,
    assert_separates,
    equivariance_error,
    random_graph,
)

REPOSITORY = "Fsoft-AIC/MAGEP-NFN"
FORM = ChainForm((2, 4, 5, 6, 3), ((), (), (), ()))
MODELS = {"relu": magep.MagepNFN, "tanh": magep.SignMagepNFN}


def generic(module: nn.Module) -> nn.Module:
    """Weights of a size at which every term matters."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    return module.double().eval()


def made(kind: type[nn.Module], specs: list[NetSpec]) -> nn.Module:
    return generic(kind(specs, 2, channels=(4, 3, 5), pooled=4, head=nfn.Head(width=16)))


def specs_of(shape: str, activation: str) -> list[NetSpec]:
    deep = mlp_spec([2, 6, 5, 3], activation)
    return {
        "mlp": [deep],
        "widths": [deep, mlp_spec([2, 7, 9, 3], activation)],
        "cnn": [small_cnn_spec([1, 4, 5, 6], 2, activation)],
        "two layers": [mlp_spec([2, 6, 3], activation)],
    }[shape]


def networks(specs: list[NetSpec]) -> NeuralGraph:
    parts = [g for i, s in enumerate(specs) for g in random_graph(s, seed=i, networks=3).to_data_list()]
    return NeuralGraph.batch(parts[::2] + parts[1::2])


def features(channels: int = 3) -> WeightSpace:
    weights = (torch.randn(2, *FORM.weight_shape(i), channels, dtype=torch.float64) for i in range(FORM.depth))
    return WeightSpace(tuple(weights), tuple(torch.randn(2, n, channels).double() for n in FORM.widths[1:]))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["hnpslinear_B", "hnpsmixerlinear_A", "hnpsmixerlinear_C", "hnpsmixerinv_C"])
def test_official_layers(peer: Callable, name: str) -> None:
    file = peer(f"magep_{name}")
    module = file.load()
    for given, wanted in (("input", "output"), ("input_g", "output_g")):
        got = module(file.space(given).channels_last())
        got = got if isinstance(got, Tensor) else got.channels_first(dense_form(chain_form(file.spec)))
        assert file.error(got, wanted) <= 1


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mixer_inv_relu_B", "mixer_inv_tanh_B"])
def test_official_models(peer: Callable, name: str) -> None:
    file = peer(f"magep_{name}")
    module = file.load()
    assert type(module) is MODELS[name.split("_")[2]]
    for given, wanted in (("input", "output"), ("input_g", "output_g")):
        assert file.error(module(file.graph(given)), wanted) <= 1
    unused = 2 * 3 * 8 * 2 * 10  # in two layers, psi of the pairs (3, 1), (4, 1) and (4, 2): 8 channels, [2, 10] each
    assert sum(p.numel() for p in module.parameters()) == file.meta["parameters"] - unused


@pytest.mark.shared
@pytest.mark.parametrize("name", ["layer_1_W_WW.weight", "layer_2_b_bW_L.weight", "Psi_s_0_L_t.2_1"])
def test_a_changed_weight_is_noticed(peer: Callable, name: str) -> None:
    file = peer("magep_hnpsmixerlinear_C")
    file.tensors[f"param/{name}"][0, 0] += 1e-3
    got = file.load()(file.space().channels_last())
    assert file.error(got.channels_first(chain_form(file.spec))) > 1


def test_terms_are_what_they_are_defined_to_be() -> None:
    space = features()
    terms, depth = StableTerms(space), FORM.depth
    w, b = [t.movedim(-1, 1) for t in space.weights], [t.movedim(-1, 1) for t in space.biases]
    psi = {s: torch.randn(3, 3, 3, dtype=torch.float64) for s in range(depth)}

    def product(s: int, t: int) -> Tensor:
        out = torch.eye(FORM.widths[s], dtype=torch.float64).expand(2, 3, -1, -1)
        for layer in range(s, t, -1):
            out = out @ w[layer - 1]
        return out

    def ww(s: int, t: int, own: Tensor) -> Tensor:
        return product(s, 0) @ own[:, :2] @ product(depth, t)

    def bw(s: int, t: int, own: Tensor) -> Tensor:
        return b[s - 1][..., None] @ own[:, 2:] @ product(depth, t)

    for s in range(1, depth + 1):
        for t in {0, s - 1}:
            want = torch.cat([product(s, t), ww(s, t, psi[0]), bw(s, t, psi[0])], 1)
            torch.testing.assert_close(terms.matrices(s, t, psi[0]).movedim(-1, 1), want)
        want = sum((product(s, t) @ b[t - 1][..., None] for t in range(1, s)), torch.zeros_like(b[s - 1][..., None]))
        torch.testing.assert_close(terms.bias_products[s], want[..., 0])
    traces = [
        term(s, s, psi[s]).diagonal(dim1=2, dim2=3).sum(-1) for term in (ww, bw) for s in range(1, depth)
    ]  # [2, 3] each
    got = terms.outputs(psi[0], [psi[s] for s in range(1, depth)])
    torch.testing.assert_close(got[:, -len(traces) * 3 :], torch.cat(traces, 1))


@pytest.mark.parametrize("shape", ["mlp", "two layers"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_layers_commute_with_the_group(activation: str, shape: str) -> None:
    (spec,) = specs_of(shape, activation)
    layer = generic(magep.PolynomialLinear(chain_form(spec), 1, 1))

    def edit(graph: NeuralGraph) -> NeuralGraph:
        parts = weight_spaces(graph)
        return add(graph, parts, [layer(p.features.channels_last()).channels_first(p.form) for p in parts])

    assert_equivariant(edit, random_graph(spec, networks=3), tol=1e-11)


def test_a_layer_mixes_all_tensors() -> None:
    """Every tensor behind depends on every tensor before, save that the first layer's do not hear later biases."""
    layer = generic(magep.PolynomialLinear(FORM, 3, 2))
    space = features().map(lambda t: t.requires_grad_())
    out = layer(space)
    inputs = (*space.weights, *space.biases)
    heard = [
        [
            float(g.abs().max()) > 0
            for g in torch.autograd.grad(o.sum(), inputs, retain_graph=True, materialize_grads=True)
        ]
        for o in (*out.weights, *out.biases)
    ]
    assert all(all(row[: FORM.depth]) for row in heard), "all weights"
    assert heard[-1] == [True] * 8, "the outputs hear everything"
    assert heard[0][FORM.depth :] == [True, False, False, False], "products run from inputs to outputs"


def test_the_pool_is_blind_to_any_change_of_hidden_basis() -> None:
    pool, space = generic(magep.PolynomialPool(FORM, 3, 2)), features()
    basis = [torch.eye(2), *(torch.randn(n, n) + 2 * torch.eye(n) for n in FORM.widths[1:-1]), torch.eye(3)]
    basis = [b.double() for b in basis]
    moved = WeightSpace(
        tuple(
            torch.einsum("jp,bpqc,qk->bjkc", basis[i + 1], w, basis[i].inverse()) for i, w in enumerate(space.weights)
        ),
        tuple(torch.einsum("jp,bpc->bjc", basis[i + 1], b) for i, b in enumerate(space.biases)),
    )
    torch.testing.assert_close(pool(moved), pool(space), rtol=1e-9, atol=1e-9)
    bent = [m(s.map(torch.relu)) for s in (space, moved) for m in (pool,)]
    assert (bent[0] - bent[1]).abs().max() > 1e-2, "activations end that"


@pytest.mark.parametrize("shape", ["mlp", "widths", "cnn", "two layers"])
@pytest.mark.parametrize("activation", MODELS)
def test_invariance(activation: str, shape: str) -> None:
    kind, specs = MODELS[activation], specs_of(shape, activation)
    graph, model = networks(specs), made(kind, specs)
    assert kind.symmetry == {"permutation", "scale" if activation == "relu" else "sign"}
    assert_equivariant(model, graph, tol=1e-10)
    assert_batch_independent(model, graph.to_data_list(), tol=1e-11)
    assert_pure(model, graph)
    other = {"relu": "tanh", "tanh": "relu"}[activation]
    assert equivariance_error(made(kind, specs_of(shape, other)), networks(specs_of(shape, other)), decades=2.0) > 1e-4


@pytest.mark.parametrize("shape", ["mlp", "cnn"])
@pytest.mark.parametrize("activation", MODELS)
def test_changes_of_the_function_are_seen(activation: str, shape: str) -> None:
    specs = specs_of(shape, activation)
    assert_separates(made(MODELS[activation], specs).requires_grad_(False), networks(specs))


def test_parameters() -> None:
    """The zoo preset has 998,121 trained parameters, as measured on the published class."""
    model = magep.MagepNFN(
        [small_cnn_spec([1, 16, 16, 16], 10, "relu", stride=2)], 1, **magep.MagepNFN.presets["small_cnn_zoo"]
    )
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 998_121
    assert [k for k, p in model.layers.named_parameters() if not p.requires_grad and "psi" not in k] == [
        f"{i}.traces.{s}_{s}" for i in (1, 2) for s in (1, 2, 3)
    ]


@pytest.mark.parametrize("kind", MODELS.values())
def test_presets_are_arguments(kind: type[nn.Module]) -> None:
    for settings in kind.presets.values():
        assert set(settings) <= set(inspect.signature(kind.__init__).parameters)


@pytest.mark.parametrize("activation", MODELS)
def test_a_step_of_training(activation: str) -> None:
    (spec,) = specs_of("mlp", activation)
    model = MODELS[activation]([spec], 1)
    result = model(random_graph(spec, networks=4, dtype=torch.float32))
    assert 0 < float(result.detach().std()) < 10, "as published, it starts almost constant"
    result.pow(2).mean().backward()
    for name, p in model.named_parameters():
        frozen = name.startswith("layers") and ("psi" in name or "traces" in name)
        assert (p.grad is None) == frozen and (frozen or p.grad.isfinite().all()), name


def test_networks_of_another_form_are_refused() -> None:
    (spec,) = specs_of("mlp", "relu")
    model = made(magep.MagepNFN, [spec])
    with pytest.raises(BaselineError, match="with any hidden widths; got .*build it with the specs"):
        model(random_graph(mlp_spec([2, 6, 3], "relu")))
    with pytest.raises(BaselineError, match="two dense layers or more; got .*map kernels to one entry first"):
        magep.PolynomialLinear(ChainForm((1, 4, 2), ((3, 3), ())), 1, 1)
    with pytest.raises(BaselineError, match="two dense layers or more"):
        magep.PolynomialPool(ChainForm((1, 4), ((),)), 1, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mode": "NP"}, "mode='NP' is not supported"),
        ({"model_type": "sin"}, "no published model is of type 'sin'; known: .'relu', 'tanh'."),
        ({}, "a layer without constants"),
    ],
)
def test_settings_that_were_not_published(change: dict, words: str) -> None:
    settings = {"mode": "HNPSMixerInv", "model_type": "relu", "head": {"num_out": 1, "h_size": 4}} | change
    state = {"nfnet_features.0.other": torch.ones(1)}
    with pytest.raises(BaselineError, match=words):
        load_official(
            f"{REPOSITORY}/experiments/models.py:HNPSMixer_Inv", settings, state, specs=specs_of("mlp", "relu")
        )


def test_weights_that_do_not_fit_a_layer() -> None:
    path, settings = f"{REPOSITORY}/nfn/layers/equiv_layers.py:HNPSMixerLinear", {"in_channels": 1, "out_channels": 1}
    with pytest.raises(BaselineError, match="the official weights lack 'Psi_s_0_L_t.3_1'"):
        load_official(path, settings, {}, specs=specs_of("mlp", "relu"))
