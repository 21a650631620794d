"""The metanetwork on parameter graphs (Lim et al.): official results, permutations, any architecture."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from baselines.errors import BaselineError
from baselines.gmn_lim import LimGMN, LimGMNEditor, from_official
from baselines.gmn_lim_graph import parameter_graph
from baselines.official import load_official
from converters import convert
from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec, SpatialOp
from graphnfn.testing import (
    assert_batch_independent,
    assert_equivariant,
    assert_pure,
    assert_separates,
    equivariance_error,
    random_graph,
)

GRAPH_PRED_GEN = "cptq/graph_metanetworks/gmn/feature_extractor_gmn.py:GraphPredGen"


def normed() -> NetSpec:
    """A convolution with bias and batch norm, one with neither and another kernel, a dense layer."""
    chain = ChainBuilder(1)
    chain.conv("0.weight", (3, 1, 3, 3), bias="0.bias", stride=(2, 2))
    chain.norm({"norm_weight": "1.weight", "norm_bias": "1.bias", "norm_mean": "1.mean", "norm_var": "1.var"}, 1e-5)
    chain.activation(Activation("relu"))
    chain.conv("3.weight", (2, 3, 1, 2))
    chain.activation(Activation("relu"))
    chain.spatial(SpatialOp("global_avg_pool"))
    chain.linear("7.weight", (2, 2), bias="7.bias")
    return chain.build()


def flattened() -> NetSpec:
    chain = ChainBuilder(1)
    chain.conv("a.weight", (4, 1, 3), bias="a.bias")
    chain.activation(Activation("gelu"))
    chain.linear("b.weight", (2, 12), bias="b.bias")
    return chain.build()


FAMILIES = {
    "mlp": [mlp_spec([3, 6, 5, 2], "relu")],
    "no biases": [mlp_spec([3, 6, 5, 2], "tanh", bias=False)],
    "cnn with norm": [normed()],
    "flatten": [flattened()],
    "mixed": [mlp_spec([3, 6, 2], "relu"), mlp_spec([2, 5, 4, 4], "gelu"), small_cnn_spec([1, 4, 5], 3, "relu")],
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


def official_shapes(width: int, layers: int, out: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official GraphPredGen's state dict."""
    shapes: dict[str, tuple[int, ...]] = {
        "node_type_encoder.weight": (17, width),
        "edge_type_encoder.weight": (14, width),
    }

    def linear(name: str, into: int, outof: int = width) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outof, into), (outof,)

    for name, into in {"node_layer": 1, "neuron_num": 1, "weight": 1, "edge_layer": 1, "conv_pos": 3}.items():
        linear(f"{name}_encoder.0", into)
    linear("x_proj", 3 * width)
    linear("edge_attr_proj", 4 * width)
    shapes = {f"pre_encoder.{name}": shape for name, shape in shapes.items()}
    for name in ("node_embed", "edge_embed", "final_layer.1"):
        linear(f"gnn_w_readout.gnn.{name}", width)
    norms = ["gnn_w_readout.gnn.final_layer.0"]
    for i in range(layers):
        prefix = f"gnn_w_readout.gnn.convs.{i}"
        linear(f"{prefix}.conv.edge_model.edge_mlp.0", 3 * width)
        for kind in ("edge", "node")[: 1 if i == layers - 1 else 2]:
            linear(f"{prefix}.{kind}_mlp.1", width)
            norms.append(f"{prefix}.{kind}_norm")
        if i < layers - 1:
            linear(f"{prefix}.conv.node_model.node_mlp_1.0", 2 * width)
            linear(f"{prefix}.conv.node_model.node_mlp_2.0", 2 * width)
    shapes.update({f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")})
    linear("gnn_w_readout.readout.pre_pool.0", width)
    linear("gnn_w_readout.readout.post_pool.0", width)
    linear("gnn_w_readout.readout.post_pool.2", width, out)
    return shapes


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Reproducible values, exact in float32."""
    return {
        name: (1.5 * torch.sin(1.3 * torch.arange(math.prod(shape)).double() + i)).reshape(shape).float().double()
        for i, (name, shape) in enumerate(sorted(shapes.items()))
    }


SMALL_MLP = mlp_spec([2, 3, 4, 2], "relu")
OFFICIAL = {
    ("mlp", False): (-12.73144178200311, -5.6679862058181385),
    ("cnn", False): (-12.869832757392562, -5.653553242067416),
    ("mlp", True): (-11.881289721298176, -5.119268769406759),
    ("cnn", True): (-14.208840506961065, -6.593760198655152),
}
"""Logits of the official code (cptq/graph_metanetworks, unmodified, float64) for the values of :func:`filled`."""


def filled_network(kind: str) -> NeuralGraph:
    if kind == "cnn":
        spec = normed()
        shapes = {n: s for n, s in spec.params.items() if n not in ("1.mean", "1.var")}
        return NeuralGraph.build(spec, {**filled(shapes), "1.mean": torch.zeros(3), "1.var": torch.ones(3)})
    values = filled({f"{2 * i}.{k}": SMALL_MLP.params[f"layers.{i}.{k}"] for i in range(3) for k in ("weight", "bias")})
    return NeuralGraph.build(SMALL_MLP, {f"layers.{int(n[0]) // 2}{n[1:]}": v for n, v in values.items()})


@pytest.mark.parametrize(("kind", "undirected"), OFFICIAL)
def test_official_predictions(kind: str, undirected: bool) -> None:
    constructor = {
        "gnn_type": "empnn_dit",
        "hidden_dim": 4,
        "num_gnn_layers": 3,
        "undirected": undirected,
        "out_dim": 2,
    }
    model = load_official(GRAPH_PRED_GEN, constructor, filled(official_shapes(4, 3, 2)), specs=[SMALL_MLP])
    got = model.eval()(filled_network(kind)).detach()[0]
    torch.testing.assert_close(got, torch.tensor(OFFICIAL[kind, undirected]).to(got), rtol=1e-7, atol=0)


def test_official_weights_that_do_not_fit() -> None:
    state = filled(official_shapes(4, 3, 2))
    constructor = {"hidden_dim": 4, "num_gnn_layers": 3, "out_dim": 2}
    with pytest.raises(BaselineError, match="'gnn_type': 'grit'"):
        from_official({"constructor": {**constructor, "gnn_type": "grit"}}, state)
    with pytest.raises(BaselineError, match="hidden_dim"):
        from_official({"constructor": {}}, state)
    with pytest.raises(BaselineError, match=r"missing \['before.bias'\], unknown \['more'\]"):
        wrong = {n: t for n, t in state.items() if n != "gnn_w_readout.readout.pre_pool.0.bias"}
        from_official({"constructor": constructor}, {**wrong, "more": torch.zeros(1)})


def test_the_number_of_parameters() -> None:
    shapes = official_shapes(4, 3, 2)
    model = LimGMN([], 2, width=4, layers=3)
    assert sum(p.numel() for p in model.parameters()) == sum(math.prod(s) for s in shapes.values())


# ---- the graph ----------------------------------------------------------------------------------


def test_every_parameter_is_one_edge() -> None:
    """The Small CNN Zoo's form: 4,970 parameters; 59 neurons and a bias node for each of four layers."""
    graph = parameter_graph(small_cnn_spec([1, 16, 16, 16], 10, "relu"))
    edges = [len(b.facts) * len(graph.nodes[b.sender]) * len(graph.nodes[b.receiver]) for b in graph.bundles]
    assert sum(edges) == 4970
    assert sum(map(len, graph.nodes)) == 63
    assert graph.degree(1) == 9 + 1 and graph.degree(4) == 16 + 1 and graph.degree(0) == 0
    assert graph.bundles[0].facts[5].tolist() == [0, 2, 1, 2, -1]
    assert graph.nodes[4][:3].tolist() == [[4, 0, 0], [4, 1, 0], [4, 2, 0]]
    assert graph.nodes[1][0].tolist() == [1, -1, 2]


# ---- symmetry ----------------------------------------------------------------------------------


@pytest.mark.parametrize("undirected", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_permutations_change_nothing(family: str, undirected: bool) -> None:
    graph = networks(FAMILIES[family])
    model = exact(LimGMN(FAMILIES[family], 3, width=6, layers=3, undirected=undirected))
    assert_equivariant(model, graph, symmetry="permutation")
    editor = exact(LimGMNEditor(FAMILIES[family], width=6, layers=3, undirected=undirected, scale=1.0))
    assert_equivariant(editor, graph, symmetry="permutation")
    assert_batch_independent(model, graph.to_data_list(), tol=1e-10)
    assert_batch_independent(editor, graph.to_data_list(), tol=1e-10)
    assert_pure(model, graph)
    assert_pure(editor, graph)


def test_scales_change_the_result_and_other_changes_are_seen() -> None:
    graph = networks(FAMILIES["mlp"])
    model = exact(LimGMN([], 3, width=6, layers=3, undirected=True))
    assert equivariance_error(model, graph, decades=1.0) > 1e-3
    assert equivariance_error(exact(LimGMNEditor([], width=6, scale=1.0)), graph, decades=1.0) > 1e-3
    assert_separates(model, graph)


def test_the_editor_moves_every_parameter_but_running_statistics() -> None:
    graph = random_graph(normed())
    editor = exact(LimGMNEditor([], width=6, scale=1.0))
    before, after = graph.state_dict(), editor(graph).state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {"1.mean", "1.var"}


# ---- training, errors --------------------------------------------------------------------------


def test_it_learns_the_size_of_weights() -> None:
    graph = random_graph(mlp_spec([2, 8, 1], "tanh"), networks=64, dtype=torch.float32)
    target = graph.stacks()[0].blocks[1].abs().sum((1, 2, 3))
    target = (target - target.mean()) / target.std()
    model = LimGMN(graph.specs[:1], 1, width=16, layers=2, dropout=0.01)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(100):
        loss = nn.functional.mse_loss(model(graph)[:, 0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_networks_that_it_cannot_read() -> None:
    with pytest.raises(BaselineError, match="PReLU slopes"):
        LimGMN([], 1, width=4)(random_graph(mlp_spec([2, 4, 1], "prelu"), dtype=torch.float32))
    module = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 1))
    traced = convert(module, example_input=torch.ones(1, 2))
    with pytest.raises(BaselineError, match="convert it without example_input"):
        LimGMN([], 1, width=4)(traced)
