"""Neural graphs (Kofinas et al.): official results, permutations, the published faults, any architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.errors import BaselineError
from baselines.neural_graphs import (
    NGGNN,
    Inputs,
    NGGNNAsPublished,
    NGGNNEditor,
    NGGNNEditorAsPublished,
    NGTransformer,
    NGTransformerEditor,
    Sizes,
    from_official,
)
from baselines.neural_graphs.gnn import mean_log_degree
from baselines.weight_space import WeightSpace, chain_form, weight_space
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
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

INR = ("gnn_A", "gnn_rev_A", "gnn_edit_A", "t_A", "t_rev_A", "t_edit_A")
CNN = ("gnn_cnn_lac_B", "gnn_cnn_nolac_B", "t_cnn_lac_B", "t_cnn_nolac_B")
SIZES = Sizes(node=8, edge=6, attention=8, node_hidden=8, edge_hidden=6, heads=2)
SMALL: dict[Any, dict[str, Any]] = {
    NGGNN: {"width": 8, "layers": 3},
    NGGNNEditor: {"width": 8, "layers": 3, "scale": 1.0},
    NGTransformer: {"sizes": SIZES, "layers": 2},
    NGTransformerEditor: {"sizes": SIZES, "layers": 2, "scale": 1.0},
}
SMALL[NGGNNAsPublished], SMALL[NGGNNEditorAsPublished] = SMALL[NGGNN], SMALL[NGGNNEditor]
PREDICTORS: tuple[Any, ...] = (NGGNN, NGTransformer)
EDITORS: tuple[Any, ...] = (NGGNNEditor, NGTransformerEditor)
MLPS = [mlp_spec([3, 6, 5, 2], "sin", omega=30.0)]
FAMILIES = {
    "mlp": MLPS,
    "mixed": [mlp_spec([3, 6, 2], "relu"), mlp_spec([3, 5, 4, 2], "gelu"), mlp_spec([3, 5, 4, 2], "tanh")],
    "cnn": [small_cnn_spec([1, 4, 5], 3, "relu")],
}


def networks(specs: list[NetSpec]) -> NeuralGraph:
    return NeuralGraph.batch([random_graph(s, seed=i, networks=2) for i, s in enumerate(specs)])


def make(cls: Any, specs: list[NetSpec], **inputs: Any) -> Any:
    """In float64, where normalisation has seen networks."""
    torch.manual_seed(0)
    model = cls(
        specs,
        **({} if "Editor" in cls.__name__ else {"out": 3}),
        **SMALL[cls],
        inputs=Inputs(**{"frequencies": 6, **inputs}),
    ).double()
    with torch.no_grad():
        model.train()(networks(specs))
    return model.eval()


# ---- the official code -------------------------------------------------------------------------


def result(file: Any, model: Any, kind: str = "input") -> Tensor | WeightSpace:
    if file.meta["kind"] == "invariant":
        return model(file.graph(kind))
    return model.delta(file.space(kind), file.spec)


@pytest.mark.shared
@pytest.mark.parametrize("name", INR + CNN)
def test_official_results(peer: Callable, name: str) -> None:
    file = peer(f"ng_{name}")
    model = file.load()
    for kind in ("input", "input_g"):
        assert file.error(result(file, model, kind), kind.replace("input", "output")) <= 1


@pytest.mark.shared
@pytest.mark.parametrize("name", INR + CNN)
def test_the_number_of_parameters(peer: Callable, name: str) -> None:
    """Ours, and the official constants and idle parts: waves, mean degrees, embeddings of activations."""
    file = peer(f"ng_{name}")
    idle = sum(
        t.numel()
        for k, t in file.state.items()
        if k.endswith(".b") or any(word in k for word in ("avg_deg", "act_emb", "proj_mlp_edge_in"))
    )
    assert sum(p.numel() for p in file.load().parameters()) + idle == file.meta["parameters"]


@pytest.mark.shared
@pytest.mark.parametrize("name", [n for n in INR + CNN if "gnn" in n and "edit" not in n])
def test_networks_alone_give_what_the_corrected_norm_gives(peer: Callable, name: str) -> None:
    file = peer(f"ng_{name}")
    published = file.load()
    alone = torch.cat([published(one) for one in file.graph().to_data_list()])
    assert file.error(alone, "output_alone") <= 1
    assert file.error(published(file.graph()), "output_alone") > 1e3
    for norm in published.body.gnn.norms:
        norm.over = (1, 2)
    assert file.error(published(file.graph()), "output_alone") <= 1


@pytest.mark.shared
def test_a_changed_weight_is_noticed(peer: Callable) -> None:
    file = peer("ng_gnn_A")
    file.tensors["param/gnn.convs.0.pre_nns.0.0.bias"][0] += 1e-3
    assert file.error(file.load()(file.graph())) > 1


@pytest.mark.shared
def test_official_weights_that_do_not_fit(peer: Callable) -> None:
    file = peer("ng_t_A")
    state = file.state
    state.pop("layers.0.lin0.bias")
    with pytest.raises(BaselineError, match=r"missing \['body.layers.0.mix.bias'\]"):
        from_official(file.meta, state)
    other = {**file.meta, "constructor": {**file.meta["constructor"], "pooling_method": "mean"}}
    with pytest.raises(BaselineError, match="'pooling_method': 'mean'"):
        from_official(other, file.state)


# ---- symmetry ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cls", PREDICTORS)
def test_predictions_do_not_see_permutations(cls: Any, family: str, reverse: bool) -> None:
    graph = networks(FAMILIES[family])
    model = make(cls, FAMILIES[family], reverse=reverse, dense_apart=reverse)
    assert_equivariant(model, graph, symmetry="permutation")
    assert_batch_independent(model, graph.to_data_list(), tol=1e-10)
    assert_pure(model, graph)
    assert_separates(model, graph)
    assert model.symmetry == {"permutation"} and equivariance_error(model, graph, decades=1.0) > 1e-6


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cls", EDITORS)
def test_edits_follow_permutations(cls: Any, reverse: bool) -> None:
    for specs in (MLPS, FAMILIES["mixed"][1:]):
        graph, model = networks(specs), make(cls, specs, reverse=reverse)
        assert_equivariant(model, graph, symmetry="permutation")
        assert_batch_independent(model, graph.to_data_list(), tol=1e-10)
        assert equivariance_error(model, graph, decades=1.0) > 1e-6


@pytest.mark.parametrize("cls", (*PREDICTORS, *EDITORS))
def test_probes(cls: Any) -> None:
    graph, model = networks(MLPS), make(cls, MLPS, probes=4)
    assert_equivariant(model, graph, symmetry="permutation")
    assert_batch_independent(model, graph.to_data_list(), tol=1e-10)
    before = model.body.features.probes.inputs
    answers = model.body.features.probes(weight_space(graph), graph.spec)
    with torch.no_grad():
        before.add_(1.0)
    assert (model.body.features.probes(weight_space(graph), graph.spec) - answers).abs().max() > 1e-3


def _space(graph: NeuralGraph) -> WeightSpace:
    from baselines.weight_space import weight_space

    return weight_space(graph)


def test_published_faults() -> None:
    graph = networks(MLPS)
    mixed = [g for s in range(3) for g in random_graph(MLPS[0], seed=s).to_data_list()]
    with pytest.raises(AssertionError):
        assert_batch_independent(make(NGGNNAsPublished, MLPS), mixed, tol=1e-10)
    assert equivariance_error(make(NGGNNEditorAsPublished, MLPS), graph, symmetry="permutation") > 1e-3


# ---- training, errors --------------------------------------------------------------------------


@pytest.mark.parametrize("cls", (*PREDICTORS, *EDITORS))
def test_every_parameter_learns(cls: Any) -> None:
    graph, model = networks(MLPS), make(cls, MLPS, probes=3).train()
    out = model(graph)
    (out if isinstance(out, Tensor) else out.edge_attr.sum() + out.x.sum()).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_networks_that_they_cannot_read() -> None:
    model = make(NGGNN, MLPS)
    with pytest.raises(BaselineError, match="built for 3 inputs, 2 outputs"):
        model(random_graph(mlp_spec([4, 6, 5, 2], "sin")))
    with pytest.raises(BaselineError, match="kernels up to"):
        model(random_graph(small_cnn_spec([3, 4], 2, "relu")))
    with pytest.raises(BaselineError, match="probes=0"):
        NGGNN(FAMILIES["cnn"], 1, inputs=Inputs(probes=2))
    with pytest.raises(BaselineError, match="editors read MLPs only"):
        NGGNNEditor(FAMILIES["cnn"])
    chain = ChainBuilder(1)
    chain.conv("a.weight", (4, 1, 3, 3), bias="a.bias")
    chain.linear("b.weight", (2, 16), bias="b.bias")
    with pytest.raises(BaselineError, match="flattened maps"):
        NGTransformer([chain.build()], 1)


def test_degrees() -> None:
    """2 inputs, 3 neurons with 2 inputs, 1 with 3."""
    want = (3 * torch.tensor(3.0).log() + torch.tensor(4.0).log()) / 6
    assert mean_log_degree([chain_form(mlp_spec([2, 3, 1], "relu")).widths]) == pytest.approx(float(want))
