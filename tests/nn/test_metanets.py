"""Every layer, head and activation: exact under the whole group, on both wirings, alone and in company."""

from __future__ import annotations

import pytest
import torch

import graphnfn as gn
from graphnfn import models, testing
from graphnfn.activations import TABLE, Activation
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError, SymmetryError
from graphnfn.models import LAYERS
from graphnfn.nn.native import NativeSweep
from graphnfn.nn.typed import TypedLinear
from graphnfn.spec import SpatialOp
from graphnfn.symmetry.charge import ODD

ELEMENTWISE = [name for name, rule in TABLE.items() if rule.elementwise]


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch):
    """Architectures are read one by one, however many a batch has: most tests are on that path."""
    monkeypatch.setattr(models, "MANY", 100)


def flat_cnn():
    chain = ChainBuilder(1)
    chain.conv("conv.weight", (4, 1, 5, 3), bias="conv.bias")
    chain.activation(Activation("tanh"))
    chain.spatial(SpatialOp("flatten", (3, 2)))
    chain.linear("fc.weight", (5, 24))
    return chain.build()


def per_neuron_spec():
    first = [Activation("relu")] * 2 + [Activation("tanh")] * 2 + [Activation("abs"), Activation("gelu")]
    second = [Activation("cos")] * 3 + [Activation("sin", 3.0)] * 2
    return mlp_spec([3, 6, 5, 2], [first, second])


def waves_behind_inputs_spec():
    first = [Activation("sin", 3.0)] * 2 + [Activation("relu")] * 2 + [Activation("cos", 0.7)] * 2
    return mlp_spec([3, 6, 4, 2], [first, [Activation("sin", 0.3)] * 4])


def mixed_specs():
    return [
        mlp_spec([2, 8, 8, 1], "sin", omega=30.0),
        mlp_spec([2, 5, 1], "relu"),
        mlp_spec([3, 4, 4, 4, 4, 4, 2], "leaky_relu"),
        mlp_spec([3, 6, 4], "tanh", bias=False),
        small_cnn_spec([1, 4, 4], 3, "tanh"),
        small_cnn_spec([2, 4, 4, 6], 5, "cos", kernel=5),
        flat_cnn(),
        per_neuron_spec(),
        waves_behind_inputs_spec(),
    ]


def batch_of(specs, dtype=torch.float64, copies=2):
    graphs = [testing.random_graph(s, seed=i, dtype=dtype) for i, s in enumerate(specs * copies)]
    return gn.NeuralGraph.batch(graphs)


def model_for(graph, layer, head="invariant", rounds=1, seed=0):
    """Every parameter is perturbed, so that nothing hides behind a zero at the start."""
    torch.manual_seed(seed)
    config = gn.MetaNetConfig(width=8, rounds=rounds, out=2, layer=layer, head=head)
    model = gn.GraphMetaNet(config, specs=graph.specs).to(graph.x.dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        if head == "edit":
            model.head.scale.fill_(1.0)
    return model


@pytest.mark.parametrize("head", ["invariant", "edit", "descent"])
@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("layer", LAYERS)
def test_exact_on_mixed_batches(layer, rounds, head):
    graph = batch_of(mixed_specs())
    model = model_for(graph, layer, head, rounds)
    testing.assert_equivariant(model, graph, decades=6.0, half_turns=2)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("layer", LAYERS)
def test_exact_for_every_activation(layer, name):
    specs = [mlp_spec([3, 6, 5, 2], name), small_cnn_spec([1, 3, 4], 3, name)]
    for head in ("invariant", "edit", "descent"):
        graph = batch_of(specs)
        testing.assert_equivariant(model_for(graph, layer, head), graph, decades=6.0, half_turns=2)


@pytest.mark.parametrize("layer", LAYERS)
def test_exact_in_float32(layer):
    graph = batch_of([s for s in mixed_specs() if s.groups[1].activations[0].name != "sin"], torch.float32)
    testing.assert_equivariant(model_for(graph, layer), graph, decades=6.0)


@pytest.mark.parametrize("head", ["invariant", "edit", "descent"])
@pytest.mark.parametrize("layer", LAYERS)
def test_edge_path_gives_the_same_numbers(layer, head):
    graph = batch_of(mixed_specs())
    model = model_for(graph, layer, head, rounds=2)
    blocks, edges = model(graph), model.forward_on_edges(graph)
    if head == "invariant":
        torch.testing.assert_close(blocks, edges, rtol=1e-10, atol=1e-12)
        return
    for a, b in zip(blocks.stacks(), edges.stacks(), strict=True):
        scale = max(float(t.detach().abs().max()) for t in (a.nodes, *a.blocks))
        for s, t in zip((a.nodes, *a.blocks), (b.nodes, *b.blocks), strict=True):
            torch.testing.assert_close(s, t, rtol=1e-9, atol=1e-10 * scale)


@pytest.mark.parametrize("layer", LAYERS)
def test_edge_path_gives_the_same_gradients(layer):
    graph = batch_of(mixed_specs())
    model = model_for(graph, layer, rounds=2)
    found = []
    for path in (model, model.forward_on_edges):
        model.zero_grad()
        path(graph).square().sum().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name], rtol=1e-7, atol=1e-9 * float(grad.abs().max()) + 1e-12)


@pytest.mark.parametrize("many", [8, 100])
@pytest.mark.parametrize("layer", LAYERS)
def test_batch_independent(layer, many, monkeypatch):
    monkeypatch.setattr(models, "MANY", many)
    graphs = batch_of(mixed_specs()).to_data_list()
    testing.assert_batch_independent(model_for(gn.NeuralGraph.batch(graphs), layer), graphs)


class Seen(models.EdgeWiring):
    """Counts what it was made of."""

    stacks_seen: list[int] = []

    def __init__(self, stacks):
        self.stacks_seen.append(len(stacks))
        super().__init__(stacks)


@pytest.mark.parametrize("head", ["invariant", "edit", "descent"])
def test_many_architectures_of_few_edges_are_read_at_once(head, monkeypatch):
    wide = [mlp_spec([2, 30, 30, 1], "relu"), mlp_spec([3, 40, 30, 2], "tanh")]  # more edges, two networks of each
    specs = mixed_specs()
    graph = batch_of([wide[0], *specs[:4], wide[1], *specs[4:]])
    model = model_for(graph, "combined", head, rounds=2)
    one_by_one = model(graph)
    monkeypatch.setattr(models, "MANY", 9)
    monkeypatch.setattr(models, "EdgeWiring", Seen)
    monkeypatch.setattr(Seen, "stacks_seen", [])
    at_once = model(graph)
    assert Seen.stacks_seen == [9]
    if head == "invariant":
        torch.testing.assert_close(at_once, one_by_one, rtol=1e-10, atol=1e-12)
    else:
        torch.testing.assert_close(at_once.x, one_by_one.x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(at_once.edge_attr, one_by_one.edge_attr, rtol=1e-9, atol=1e-9)
    testing.assert_equivariant(model, graph, decades=6.0, half_turns=2)
    for name, bound in (("MANY", 10), ("FEW_EDGES", 1)):  # too few architectures, or too many edges
        monkeypatch.setattr(Seen, "stacks_seen", [])
        with monkeypatch.context() as other:
            other.setattr(models, name, bound)
            model(graph)
        assert not Seen.stacks_seen


@pytest.mark.parametrize("layer", LAYERS)
def test_notices_changes_of_function(layer):
    graph = batch_of([mlp_spec([2, 8, 8, 1], "tanh"), small_cnn_spec([1, 4, 4, 4], 3, "relu")])
    testing.assert_separates(model_for(graph, layer), graph)


@pytest.mark.parametrize("layer", LAYERS)
def test_never_changes_its_input(layer):
    graph = batch_of(mixed_specs())
    testing.assert_pure(model_for(graph, layer), graph)


class ReversedNative(NativeSweep):
    """Negative control: returns activations against the edges, charge 2 as in the published ReLU model."""

    def forward(self, state, wiring):
        out = super().forward(state, wiring)
        broken = [
            o if level.role == "output" else wiring.push(i, out.odd, self.taps)
            for i, (level, o) in enumerate(zip(wiring.levels, out.odd, strict=True))
        ]
        return type(out)([e + b for e, b in zip(out.even, broken, strict=True)], out.odd)


def test_a_broken_sweep_is_caught():
    graph = batch_of([mlp_spec([2, 6, 6, 1], "tanh")])
    model = model_for(graph, "native")
    model.layers[0].__class__ = ReversedNative
    with pytest.raises(AssertionError):
        testing.assert_equivariant(model, graph, decades=2.0)


def test_native_sweep_starts_as_evaluation():
    """With fresh taps and beta, channel k of the outputs is the network on the k-th learned input."""
    from graphnfn.functional import run
    from graphnfn.nn.blocks import BlockWiring
    from graphnfn.nn.state import LevelCode, State
    from graphnfn.nn.taps import Sizes

    spec = mlp_spec([2, 8, 8, 3], "sin", omega=5.0)
    graph = testing.random_graph(spec, seed=0, dtype=torch.float64)
    layer, code = NativeSweep(4, Sizes.of([spec])).double(), LevelCode(4).double()
    wiring = BlockWiring(graph.stacks()[0])
    xs = []
    for i, level in enumerate(wiring.levels):
        if level.role == "input":
            xs.append(layer.inputs(level))
        else:
            xs.append(level.activate(wiring.pull(i, xs, layer.taps) + level.bias)[0])
    expected = run(graph, layer.inputs.vectors.T)[0]
    torch.testing.assert_close(xs[-1][0].T, expected)
    state = layer(State(code(wiring)), wiring)
    assert len(state.even) == len(wiring.levels)


def test_lazily_sized_and_reloaded(tmp_path):
    graph = batch_of([mlp_spec([2, 6, 1], "relu")], torch.float32)
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=8))
    assert not list(model.parameters())
    expected = model(graph)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    fresh = gn.GraphMetaNet(gn.MetaNetConfig(width=8))
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    torch.testing.assert_close(fresh(graph), expected)


def test_larger_architectures_than_sized_for_are_refused():
    small, large = mlp_spec([2, 4, 1], "relu"), mlp_spec([3, 4, 1], "relu")
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=8), specs=[small])
    with pytest.raises(SpecError, match="specs="):
        model(testing.random_graph(large, seed=0, dtype=torch.float32))
    with pytest.raises(SpecError, match="specs="):
        model(testing.random_graph(small_cnn_spec([1, 3], 1, "relu"), seed=0, dtype=torch.float32))


def test_bad_configs_are_refused():
    for bad in ({"layer": "dense"}, {"head": "none"}, {"width": 0}):
        with pytest.raises(SpecError):
            gn.MetaNetConfig(**bad)
    with pytest.raises(SymmetryError):
        TypedLinear(4, 4, ODD, bias=True)


def test_edit_head_needs_folded_norms():
    chain = ChainBuilder(2)
    chain.linear("a.weight", (4, 2), bias="a.bias")
    names = {f: f"n.{f}" for f in ("norm_weight", "norm_bias", "norm_mean", "norm_var")}
    chain.norm(names, 1e-5)
    chain.activation(Activation("relu"))
    chain.linear("b.weight", (1, 4), bias="b.bias")
    graph = testing.random_graph(chain.build(), seed=0, dtype=torch.float64)
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=4, head="edit")).double()
    with pytest.raises(SpecError, match="fold_norm"):
        model(graph)
    folded = gn.fold_norms(graph)
    edited = gn.GraphMetaNet(gn.MetaNetConfig(width=4, head="edit"))(folded)
    assert edited.spec == folded.spec


def test_torch_scatter_changes_nothing(monkeypatch):
    """The optional accelerator of PyG's scatter gives the same numbers as plain PyTorch."""
    pytest.importorskip("torch_scatter", reason="the optional extra [scatter] is not installed")
    import torch_geometric.typing

    graph = batch_of(mixed_specs())
    model = model_for(graph, "combined")
    assert torch_geometric.typing.WITH_TORCH_SCATTER
    fast = model.forward_on_edges(graph)
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", False)
    torch.testing.assert_close(model.forward_on_edges(graph), fast, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head", ["invariant", "edit"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision(dtype, head):
    """A float32 model reads checkpoints of other types; edited weights keep the type that they had."""
    graph = batch_of([mlp_spec([2, 8, 1], "relu"), mlp_spec([2, 6, 1], "tanh")], torch.float32)
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=8, head=head), specs=graph.specs)
    out, expected = model(graph.astype(dtype)), model(graph)
    if head == "invariant":
        assert out.dtype == torch.float32 and (out - expected).abs().max() <= 0.1 * expected.abs().max()
    else:
        assert out.edge_attr.dtype == dtype and out.edge_attr.isfinite().all()
