"""ScaleGMN: the official weights give the official results; what is claimed holds, what was published does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from baselines.errors import BaselineError
from baselines.scalegmn import (
    Design,
    PermutationScaleGMN,
    PermutationScaleGMNAsPublished,
    PermutationScaleGMNEditor,
    ScaleGMN,
    ScaleGMNAsPublished,
    ScaleGMNEditor,
    ScaleGMNEditorAsPublished,
)
from baselines.weight_space import WeightSpace
from converters import convert
from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
from graphnfn.effective import fold_norms
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

RELU, TANH = Activation("relu"), Activation("tanh")
SMALL: dict[str, Any] = {"width": 6, "layers": 3}


def flattened(activation: str) -> NetSpec:
    """Two convolutions of different kernels, a batch norm, a dense layer behind a flatten."""
    chain = ChainBuilder(1)
    chain.conv("a.weight", (4, 1, 3, 3), bias="a.bias")
    chain.norm({f"norm_{k}": f"n.{k}" for k in ("weight", "bias", "mean", "var")}, 1e-5)
    chain.activation(Activation(activation))
    chain.conv("b.weight", (5, 4, 1, 3), bias="b.bias")
    chain.activation(Activation(activation))
    chain.linear("c.weight", (2, 20), bias="c.bias")
    return chain.build()


FAMILIES = {
    "relu": [mlp_spec([3, 6, 5, 2], "relu")],
    "tanh": [mlp_spec([3, 6, 5, 2], "tanh")],
    "sin": [mlp_spec([3, 6, 5, 2], "sin", omega=30.0)],
    "relu cnn": [small_cnn_spec([1, 4, 5], 2, "relu")],
    "kernels, norm, flatten": [flattened("relu")],
    "relu and tanh networks": [mlp_spec([3, 6, 5, 2], "relu"), mlp_spec([3, 6, 5, 2], "tanh")],
    "relu and tanh layers": [mlp_spec([3, 6, 5, 2], [[RELU] * 6, [TANH] * 5])],
    "relu and tanh neurons": [mlp_spec([3, 6, 5, 2], [[RELU] * 3 + [TANH] * 3, [TANH] * 2 + [RELU] * 3])],
    "depths and widths": [mlp_spec([3, 6, 2], "relu"), mlp_spec([3, 5, 4, 7, 2], "relu")],
}
DESIGNS = {
    "plain": Design(),
    "gates at ends, positions": Design(free_ends=False, edge_positions=True, position_features=True, skips=True),
    "absolute values, whole graph": Design(sign_sum=False, separate_ends=True, whole_graph=True, layer_norm=False),
    "gates at ends, multiplied positions": Design(free_ends=False, add_at_ends=False, whole_graph=True),
}


def networks(specs: list[NetSpec], count: int = 2) -> NeuralGraph:
    parts = [g for i, s in enumerate(specs) for g in random_graph(s, seed=i, networks=count).to_data_list()]
    return NeuralGraph.batch(parts[::2] + parts[1::2])


def exact(module: nn.Module) -> nn.Module:
    """In float64, with matrices twice as large: at the usual start the weights read hardly change the result."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2 if parameter.ndim > 1 else 1)
    return module.double().eval()


# ---- the official code -------------------------------------------------------------------------

INVARIANT = (
    "scale_forward_B", "scale_forward_fullgraph_B", "scale_bidir_B", "sign_forward_A", "sign_bidir_A",
    "sign_forward_tanh_B", "permutation_forward_A",
)  # fmt: skip
EDITORS = ("sign_edit_forward_A", "sign_edit_bidir_A")
DEAD = {"scale_forward_fullgraph_B": 336, "sign_forward_tanh_B": 336}
"""Parameters of ``readout.phi``, which the official code never uses, and we do not have."""


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.shared
@torch.no_grad()
@pytest.mark.parametrize("name", INVARIANT)
def test_official_predictions(peer: Callable[[str], Any], name: str) -> None:
    golden = peer(f"scalegmn_{name}")
    model = golden.load()
    assert golden.error(model(golden.graph())) < 1e-4
    assert golden.error(model(golden.graph("input_g")), "output_g") < 1
    assert count(model) == golden.meta["parameters"] - DEAD.get(name, 0)


@pytest.mark.shared
@torch.no_grad()
@pytest.mark.parametrize("name", EDITORS)
def test_official_edits(peer: Callable[[str], Any], name: str) -> None:
    golden = peer(f"scalegmn_{name}")
    model, graph = golden.load(), golden.graph()
    blocks, biases = model.delta(graph.stacks()[0])
    delta = WeightSpace(tuple(b[:, None, ..., 0] for b in blocks), tuple(b[:, None, :, 0] for b in biases))
    assert golden.error(delta) < 1e-4
    edited = model(graph).stacks()[0]
    torch.testing.assert_close(edited.blocks[1], graph.stacks()[0].blocks[1] + blocks[1], rtol=0, atol=0)
    torch.testing.assert_close(edited.group(1)[..., :1], graph.stacks()[0].group(1)[..., :1] + biases[0])
    assert count(model) == golden.meta["parameters"]


@pytest.mark.shared
def test_official_weights_that_do_not_fit(peer: Callable[[str], Any]) -> None:
    golden = peer("scalegmn_sign_forward_A")
    golden.tensors["param/gnn.more.weight"] = torch.zeros(1)
    with pytest.raises(BaselineError, match=r"unknown \['gnn.more.weight'\]"):
        golden.load()
    golden = peer("scalegmn_sign_forward_A")
    del golden.tensors["param/construct_graph.proj_bias.weight"]
    with pytest.raises(BaselineError, match="missing .*lift_nodes"):
        golden.load()
    golden = peer("scalegmn_sign_forward_A")
    golden.meta["constructor"]["full"]["gnn_args"]["update_as_act"] = True
    with pytest.raises(BaselineError, match="update_as_act"):
        golden.load()


PRESETS = {
    "cifar10_relu": 1_356_801, "cifar10_relu_bidir": 2_263_809, "cifar10_tanh": 2_318_849 - 33_280,
    "cifar10_tanh_bidir": 3_441_665 - 33_280, "cifar10_hetero": 1_688_577, "cifar10_hetero_bidir": 4_250_625,
    "svhn_relu": 467_969 - 8_448, "svhn_relu_bidir": 559_105 - 8_448, "svhn_tanh": 547_457,
    "svhn_tanh_bidir": 2_680_577 - 33_280, "mnist_inr": 1_772_042, "mnist_inr_bidir": 3_089_162,
    "fmnist_inr": 1_160_970 - 33_280, "fmnist_inr_bidir": 1_722_378 - 33_280, "cifar_inr": 397_450,
    "cifar_inr_bidir": 492_298, "cifar_inr_augmented": 2_285_322 - 33_280, "cifar_inr_augmented_bidir": 3_324_938,
}  # fmt: skip
"""Parameters of the official configurations, less the dead ones."""


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_official_size(name: str) -> None:
    if "inr" in name:
        specs = [mlp_spec([2, 32, 32, 3 if name.startswith("cifar") else 1], "sin", omega=30.0)]
    else:
        kinds = ("relu", "tanh") if "hetero" in name else (name.split("_")[1],)
        specs = [small_cnn_spec([1, 16, 16, 16], 10, kind) for kind in kinds]
    with torch.device("meta"):
        model = ScaleGMN(specs, 10 if "inr" in name else 1, **ScaleGMN.presets[name])
    assert count(model) == PRESETS[name]
    assert set(PRESETS) == set(ScaleGMN.presets)


@pytest.mark.parametrize(("name", "size"), [("mnist_editing", 4_002_058), ("mnist_editing_bidir", 4_821_385)])
def test_editor_presets_have_the_official_size(name: str, size: int) -> None:
    with torch.device("meta"):
        model = ScaleGMNEditor([mlp_spec([2, 32, 32, 1], "sin")], **ScaleGMNEditor.presets[name])
    assert count(model) == size


def test_the_permutation_only_model_has_the_official_size() -> None:
    with torch.device("meta"):
        preset = ScaleGMN.presets["mnist_inr"]
        assert count(PermutationScaleGMN([mlp_spec([2, 32, 32, 1], "sin")], 10, **preset)) == 680_458


# ---- symmetry ----------------------------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_symmetries_change_nothing(family: str, bidirectional: bool, design: str) -> None:
    specs = FAMILIES[family]
    model = exact(ScaleGMN(specs, 3, bidirectional=bidirectional, design=DESIGNS[design], **SMALL))
    assert_equivariant(model, networks(specs), tol=1e-9)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_edits_move_with_the_networks(family: str, bidirectional: bool) -> None:
    specs = FAMILIES[family]
    graph = fold_norms(networks(specs))
    model = ScaleGMNEditor(
        list(dict.fromkeys(graph.specs)), bidirectional=bidirectional, design=Design(skips=True), scale=1.0, **SMALL
    )
    assert_equivariant(exact(model), graph, tol=1e-9)


def test_the_published_bidirectional_model_is_not_invariant_to_scales() -> None:
    graph, specs = networks(FAMILIES["relu"]), FAMILIES["relu"]
    published = exact(ScaleGMNAsPublished(specs, 3, bidirectional=True, **SMALL))
    corrected = exact(ScaleGMN(specs, 3, bidirectional=True, **SMALL))
    corrected.load_state_dict(published.state_dict())
    assert equivariance_error(published, graph, decades=1.0) > 1e-3
    assert equivariance_error(corrected, graph, decades=1.0) < 1e-11
    assert_equivariant(published, graph, symmetry="permutation")
    editor = exact(ScaleGMNEditorAsPublished(specs, bidirectional=True, scale=1.0, **SMALL))
    assert equivariance_error(editor, graph, decades=1.0) > 1e-3


def test_the_published_forward_model_feels_its_epsilon() -> None:
    """Norms of 1e-6 are no rounding errors; the published code adds 1e-10 to them."""
    graph = networks(FAMILIES["relu"]).map_stacks(lambda s: s.apply(lambda t: t * 1e-3))
    design = Design(whole_graph=True)
    published = exact(ScaleGMNAsPublished(FAMILIES["relu"], 3, design=design, **SMALL))
    corrected = exact(ScaleGMN(FAMILIES["relu"], 3, design=design, **SMALL))
    corrected.load_state_dict(published.state_dict())
    assert equivariance_error(published, graph) > 1e-6
    assert equivariance_error(corrected, graph) < 1e-10


@pytest.mark.parametrize("made", [ScaleGMNAsPublished, PermutationScaleGMNAsPublished])
def test_published_positions_of_output_edges_break_permutations(made: type[ScaleGMN]) -> None:
    specs, design = FAMILIES["tanh"], Design(edge_positions=True)
    graph = networks(specs)
    published = exact(made(specs, 3, design=design, **SMALL))
    corrected = exact(
        (ScaleGMN if made is ScaleGMNAsPublished else PermutationScaleGMN)(specs, 3, design=design, **SMALL)
    )
    corrected.load_state_dict(published.state_dict())
    assert equivariance_error(published, graph, symmetry="permutation") > 1e-4
    assert_equivariant(corrected, graph, symmetry="permutation")


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_permutation_only_model(bidirectional: bool, whole: bool) -> None:
    specs = [mlp_spec([3, 6, 5, 2], "gelu"), *FAMILIES["relu"]]
    design = Design(whole_graph=whole, edge_positions=True)
    model = exact(PermutationScaleGMN(specs, 3, bidirectional=bidirectional, design=design, **SMALL))
    assert_equivariant(model, networks(specs), symmetry="permutation")
    assert equivariance_error(model, networks(FAMILIES["relu"])) > 1e-3
    editor = exact(PermutationScaleGMNEditor(specs, bidirectional=bidirectional, scale=1.0, **SMALL))
    assert_equivariant(editor, networks(specs), symmetry="permutation")
    assert equivariance_error(editor, networks(FAMILIES["relu"])) > 1e-3


@pytest.mark.parametrize("bidirectional", [False, True])
def test_other_changes_are_seen(bidirectional: bool) -> None:
    for family in ("relu", "tanh"):
        model = exact(ScaleGMN(FAMILIES[family], 3, bidirectional=bidirectional, **SMALL))
        assert_separates(model, networks(FAMILIES[family]))


# ---- what is left out is what nothing depends on ---------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_neurons_that_are_left_out_do_not_matter(layers: int, bidirectional: bool) -> None:
    """Reading every group at the end gives the same inputs and outputs as reading those alone."""
    spec = mlp_spec([2, 4, 3, 5, 1], "relu")
    model = exact(ScaleGMN([spec], 1, width=6, layers=layers, bidirectional=bidirectional))
    assert isinstance(model, ScaleGMN)
    stack = random_graph(spec).stacks()[0]
    some = model.encoder(stack, lambda g: g.role != "hidden")
    everything = model.encoder(stack, lambda g: True)
    assert set(some.nodes) == {0, 4} and len(everything.nodes) == 5
    for g, h in some.nodes.items():
        torch.testing.assert_close(h, everything.nodes[g], rtol=1e-12, atol=1e-12)


# ---- batches, training, errors ---------------------------------------------------------------------


def test_batches() -> None:
    specs = [*FAMILIES["relu and tanh networks"], *FAMILIES["depths and widths"], *FAMILIES["relu and tanh neurons"]]
    graph = networks(specs)
    for bidirectional in (False, True):
        model = exact(ScaleGMN(specs, 3, bidirectional=bidirectional, **SMALL))
        assert_batch_independent(model, graph.to_data_list(), tol=1e-10)
        assert_pure(model, graph)
    editor = exact(ScaleGMNEditor(specs, **SMALL))
    assert_batch_independent(editor, graph.to_data_list(), tol=1e-10)
    assert_pure(editor, graph)


@pytest.mark.parametrize("zero", ["weights", "biases", "everything"])
def test_zeros_have_finite_gradients(zero: str) -> None:
    spec = FAMILIES["relu"][0]
    stack = random_graph(spec, dtype=torch.float32).stacks()[0]
    nodes = stack.nodes if zero == "weights" else torch.zeros_like(stack.nodes)
    blocks = stack.blocks if zero == "biases" else tuple(map(torch.zeros_like, stack.blocks))
    nodes.requires_grad_()
    graph = NeuralGraph.from_stacks([type(stack)(spec, nodes, blocks)])
    model = ScaleGMN([spec], 3, bidirectional=True, **SMALL)
    model(graph).sum().backward()
    assert nodes.grad is not None and bool(nodes.grad.isfinite().all())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("bidirectional", [False, True])
def test_it_learns_the_size_of_the_output(bidirectional: bool) -> None:
    graph = random_graph(mlp_spec([2, 8, 1], "tanh"), networks=64, dtype=torch.float32)
    target = graph.stacks()[0].blocks[1].abs().sum((1, 2, 3))
    target = (target - target.mean()) / target.std()
    model = ScaleGMN(graph.specs[:1], 1, width=16, layers=2, bidirectional=bidirectional, dropout=0.01)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        loss = nn.functional.mse_loss(model(graph)[:, 0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([mlp_spec([2, 4, 1], "relu"), mlp_spec([3, 4, 1], "relu")], "2 inputs and 1 outputs, got one with 3 and 1"),
        ([mlp_spec([2, 4, 1], "gelu")], "got gelu with gauge NONE: use PermutationScaleGMN"),
        ([mlp_spec([2, 4, 1], "abs")], "got abs with gauge NONZERO"),
        ([mlp_spec([2, 4, 1], "relu_power")], "got relu_power with gauge POSITIVE"),
        ([mlp_spec([2, 4, 1], "cos")], "got cos with gauge SIGN"),
        ([mlp_spec([2, 4, 1], "prelu")], "PReLU slopes"),
    ],
    ids=["inputs", "none", "abs", "power", "even", "prelu"],
)
def test_networks_that_it_cannot_read(specs: list[NetSpec], message: str) -> None:
    with pytest.raises(BaselineError, match=message):
        ScaleGMN(specs, 1, **SMALL)


def test_traced_networks_are_refused() -> None:
    module = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 1))
    traced = convert(module, example_input=torch.ones(1, 2))
    for made in (ScaleGMN, PermutationScaleGMN):
        with pytest.raises(BaselineError, match="convert it without example_input"):
            made(traced.specs, 1, **SMALL)
        with pytest.raises(BaselineError, match="convert it without example_input"):
            made([mlp_spec([2, 4, 1], "relu")], 1, **SMALL)(traced)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (mlp_spec([3, 6, 5, 5, 2], "relu"), "built for 2 hidden layers"),
        (mlp_spec([3, 6, 5, 2], "tanh"), "positive scales only"),
        (mlp_spec([3, 6, 5, 4], "relu"), "2 outputs"),
        (small_cnn_spec([3, 6, 5], 2, "relu"), "kernels up to"),
    ],
    ids=["depth", "kind", "outputs", "kernel"],
)
def test_networks_beyond_the_specs(spec: NetSpec, message: str) -> None:
    model = exact(ScaleGMN(FAMILIES["relu"], 1, **SMALL))
    with pytest.raises(BaselineError, match=message):
        model(random_graph(spec))
