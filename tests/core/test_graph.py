"""NeuralGraph as a PyG graph: batching, views, loaders, transforms, stock models, exports, validation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GATConv, GINEConv, global_add_pool
from torch_geometric.transforms import AddSelfLoops, Compose, NormalizeFeatures, ToUndirected

from graphnfn import testing
from graphnfn.activations import NAMES
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec

Specs = Callable[..., st.SearchStrategy[NetSpec]]
RELU = mlp_spec([3, 4, 2], "relu")
DEEP = mlp_spec([3, 4, 5, 2], "sin", omega=30.0)
CNN = small_cnn_spec([1, 4, 5], 3, "tanh", stride=2)
ONE_GRID = (0, 2, 3)
"""Of :func:`singles`, networks of several depths whose flat fields have equal widths: what stock collation needs."""
CHECKED = ("x", "edge_attr", "edge_index", "edge_mask", "node_group", "node_level", "activation", "gauge")


def singles(dtype: torch.dtype = torch.float32) -> list[NeuralGraph]:
    return [testing.random_graph(s, i, dtype) for i, s in enumerate((RELU, CNN, DEEP, RELU, CNN))]


def edge_set(graph: Data) -> set[tuple[int, int, tuple[float, ...]]]:
    pairs = graph.edge_index.T.tolist()
    return {(a, b, tuple(w)) for (a, b), w in zip(pairs, graph.edge_attr.tolist(), strict=True)}


# ---- round trips and views ------------------------------------------------------------------------


@settings(max_examples=200)
@given(data=st.data())
def test_round_trips_are_exact_to_the_bit(specs: Specs, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(specs(), min_size=1, max_size=3))
    dtype = data.draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    order = data.draw(st.lists(st.sampled_from(range(len(chosen))), min_size=1, max_size=4))
    graphs = [testing.random_graph(chosen[i], seed, dtype) for seed, i in enumerate(order)]
    testing.assert_roundtrip(NeuralGraph.collate(graphs))


def test_every_edge_is_where_its_weight_says() -> None:
    """The edge list against a loop over the parameters."""
    state = {name: torch.randn(shape) for name, shape in DEEP.params.items()}
    graph = NeuralGraph.build(DEEP, state)
    expected = set()
    for i, (source, target) in enumerate([(0, 3), (3, 7), (7, 12)]):
        weight = state[f"layers.{i}.weight"]
        for row in range(weight.shape[0]):
            for column in range(weight.shape[1]):
                expected.add((source + column, target + row, (float(weight[row, column]),)))
    assert edge_set(graph) == expected
    biases = torch.cat([torch.zeros(3), *(state[f"layers.{i}.bias"] for i in range(3))])
    assert torch.equal(graph.x[:, 0], biases)
    assert graph.node_group.tolist() == [0] * 3 + [1] * 4 + [2] * 5 + [3] * 2
    assert [NAMES[i] for i in graph.activation.tolist()] == ["identity"] * 3 + ["sin"] * 9 + ["identity"] * 2
    assert graph.gauge.tolist() == [0] * 3 + [2] * 9 + [0] * 2


def test_narrow_kernels_are_centred_and_masked() -> None:
    graph = NeuralGraph.collate([testing.random_graph(CNN), testing.random_graph(RELU)])
    assert graph.edge_attr.shape[1] == 9
    dense = ~graph.edge_mask.all(1)
    assert graph.edge_mask[dense][:, 4].all()
    assert (graph.edge_attr[~graph.edge_mask] == 0).all()
    assert int(graph.edge_mask.sum()) == sum(math.prod(b.shape) for s in (CNN, RELU) for b in s.blocks)


@pytest.mark.parametrize("spec", [RELU, CNN, DEEP])
def test_writes_to_flat_fields_reach_the_stacks(spec: NetSpec) -> None:
    graph = testing.random_graph(spec, networks=2)
    before = [b.clone() for b in graph.stacks()[0].blocks]
    graph.edge_attr.mul_(2)
    graph.x.add_(1)
    after = graph.stacks()[0]
    for x, y in zip(before, after.blocks, strict=True):
        assert torch.equal(2 * x, y)
    assert torch.equal(after.nodes.reshape(-1, 1), graph.x)
    graph.edge_attr = graph.edge_attr * 0
    assert all((b == 0).all() for b in graph.stacks()[0].blocks)


def test_blocks_are_views_of_the_flat_field() -> None:
    graph = testing.random_graph(DEEP, networks=3)
    storage = graph.edge_attr.untyped_storage().data_ptr()
    assert all(b.untyped_storage().data_ptr() == storage for b in graph.stacks()[0].blocks)


def test_writes_do_not_reach_other_graphs() -> None:
    graph = testing.random_graph(RELU)
    kept = {k: v.clone() for k, v in graph.state_dict().items()}
    for other in (graph.clone(), copy.deepcopy(graph)):
        other.x.mul_(2)
        other.edge_attr.mul_(2)
    assert all(torch.equal(v, kept[k]) for k, v in graph.state_dict().items())


def test_gradients_flow_through_both_forms() -> None:
    graph = testing.random_graph(RELU)
    leaves = [t.requires_grad_() for t in graph.edge_attr.split(1)]
    graph.edge_attr = torch.cat(leaves)
    graph.stacks()[0].blocks[1].sum().backward()
    assert [leaf.grad is not None and bool(leaf.grad.any()) for leaf in leaves] == [False] * 12 + [True] * 8


# ---- batches --------------------------------------------------------------------------------------


def test_pyg_batches_equal_ours() -> None:
    graphs = [singles()[i] for i in ONE_GRID]
    stock, ours = Batch.from_data_list(graphs), NeuralGraph.collate(graphs)
    assert stock.num_graphs == ours.num_graphs == 3
    assert torch.equal(stock.batch, ours.batch)
    assert torch.equal(stock.ptr, ours.ptr)
    for name in ("x", "node_group", "activation", "gauge"):
        assert torch.equal(stock[name], ours[name]), name
    again = NeuralGraph.of(stock)
    assert again.specs == ours.specs
    for name in CHECKED:
        assert torch.equal(again[name], ours[name]), name


def test_class_and_instance_meaning_of_batch() -> None:
    graphs = singles()
    batch = NeuralGraph.batch(graphs)  # type: ignore[operator]
    assert batch.num_graphs == 5
    assert torch.equal(batch.batch.bincount(), torch.tensor([s.num_nodes for s in batch.specs]))
    assert batch.to_data_list()[2].spec == DEEP


@pytest.mark.parametrize("workers", [0, 1])
def test_pyg_data_loader(workers: int) -> None:
    graphs = [singles()[i] for i in ONE_GRID]
    loader = DataLoader(graphs, batch_size=2, num_workers=workers)  # type: ignore[arg-type]
    seen = [graph for data in loader for graph in NeuralGraph.of(data).to_data_list()]
    for got, want in zip(seen, graphs, strict=True):
        assert got.spec == want.spec
        assert torch.equal(got.edge_attr, want.edge_attr)


def test_loader_of_any_architectures() -> None:
    """PyG's own collation cannot pad narrow kernels beside wide ones; ours is a collate function too."""
    loader = torch.utils.data.DataLoader(singles(), batch_size=2, collate_fn=NeuralGraph.collate)  # type: ignore[arg-type]
    batches = list(loader)
    assert [b.specs for b in batches] == [[RELU, CNN], [DEEP, RELU], [CNN]]
    assert [b.edge_attr.shape[1] for b in batches] == [9, 1, 9]
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        Batch.from_data_list(singles())


def test_pyg_batches_give_their_graphs_back() -> None:
    graphs = [singles()[i] for i in ONE_GRID]
    for got, want in zip(Batch.from_data_list(graphs).to_data_list(), graphs, strict=True):
        assert all(torch.equal(v, want.state_dict()[k]) for k, v in got.state_dict().items())


def test_foreign_data_are_refused() -> None:
    with pytest.raises(SpecError, match="expected a NeuralGraph"):
        NeuralGraph.of(Data(x=torch.ones(2, 1)))
    with pytest.raises(SpecError, match="got no graph"):
        NeuralGraph.collate([])
    with pytest.raises(SpecError, match="mixes architectures"):
        _ = NeuralGraph.collate(singles()).spec
    with pytest.raises(SpecError, match="needs one network"):
        testing.random_graph(RELU, networks=2).state_dict()


# ---- stock PyG ------------------------------------------------------------------------------------


class StockModel(nn.Module):
    """Two stock convolutions and a stock pooling: nothing of ours."""

    def __init__(self, taps: int) -> None:
        super().__init__()
        self.attend = GATConv(1, 8, heads=2, edge_dim=taps, add_self_loops=False)
        self.gine = GINEConv(nn.Linear(16, 4), edge_dim=taps)

    def forward(self, data: Data) -> Tensor:
        h = torch.relu(self.attend(data.x, data.edge_index, data.edge_attr))
        h = self.gine(h, data.edge_index, data.edge_attr)
        return global_add_pool(h, data.batch)


def test_stock_models_run_unchanged() -> None:
    model = StockModel(taps=9)
    out = model(NeuralGraph.collate(singles()))
    assert out.shape == (5, 4)
    cnns = [g for g in singles() if g.spec == CNN]
    torch.testing.assert_close(model(Batch.from_data_list(cnns)), model(NeuralGraph.collate(cnns)))
    torch.testing.assert_close(model(NeuralGraph.collate(cnns)), out[[1, 4]])
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_stock_models_are_permutation_invariant_only() -> None:
    model = StockModel(taps=1).double()
    graph = NeuralGraph.collate([testing.random_graph(RELU), testing.random_graph(DEEP)])
    testing.assert_equivariant(model, graph, symmetry="permutation")
    assert testing.equivariance_error(model, graph) > 1e-2


def test_transforms() -> None:
    graph = testing.random_graph(RELU, dtype=torch.float32)
    undirected = ToUndirected()(graph)
    assert undirected.num_edges == 2 * RELU.num_edges
    assert undirected.is_undirected()
    assert graph.num_edges == RELU.num_edges
    assert not undirected.validate(raise_on_error=False)
    moved = Compose([NormalizeFeatures(), AddSelfLoops()])(graph)
    assert moved.num_edges == RELU.num_edges + RELU.num_nodes
    assert graph.validate()


def test_moving_to_other_devices_and_types() -> None:
    graph = NeuralGraph.collate(singles()).to("cpu")
    assert graph.validate()
    assert graph.astype(torch.float64).edge_attr.dtype == torch.float64
    meta = testing.random_graph(RELU).to("meta")
    assert meta.x.device.type == "meta"


# ---- exports and checks ---------------------------------------------------------------------------


def test_networkx() -> None:
    graph = testing.random_graph(CNN)
    out = graph.to_networkx()
    assert nx.is_directed_acyclic_graph(out)
    assert (out.number_of_nodes(), out.number_of_edges()) == (CNN.num_nodes, CNN.num_edges)
    assert out.nodes[0] == {"group": "input", "role": "input", "activation": "identity", "level": 0, "bias": 0.0}
    assert out.nodes[1]["activation"] == "tanh"
    assert out.nodes[1]["bias"] == pytest.approx(float(graph.x[1, 0]))
    assert out.edges[0, 1]["taps"] == graph.stacks()[0].blocks[0][0, 0, 0].tolist()
    assert len(out.edges[5, 10]["taps"]) == 1
    with pytest.raises(SpecError, match="needs one network"):
        testing.random_graph(RELU, networks=2).to_networkx()


def damaged(**fields: Tensor) -> NeuralGraph:
    graph = testing.random_graph(RELU)
    graph.stores  # noqa: B018  (make the flat fields)
    for name, value in fields.items():
        setattr(graph, name, value)
    return graph


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x": torch.zeros(8, 1)}, r"x has shape \[8, 1\]"),
        ({"x": torch.zeros(9)}, r"x has shape \[9\]"),
        ({"edge_attr": torch.zeros(19, 1)}, r"edge_attr has shape \[19, 1\]"),
        ({"edge_attr": torch.zeros(20, 2)}, r"edge_attr has shape \[20, 2\]"),
        ({"edge_index": torch.zeros(2, 19, dtype=torch.long)}, r"edge_index has shape \[2, 19\]"),
        ({"edge_index": torch.full((2, 20), 9)}, "outside the 9 neurons"),
        ({"edge_index": torch.full((2, 20), -1)}, "outside the 9 neurons"),
        ({"x": torch.full((9, 1), torch.nan)}, "x has 9 NaN"),
        ({"edge_attr": torch.full((20, 1), torch.inf)}, "edge_attr has 20 NaN or infinite"),
        ({"gauge": torch.full((9,), 7)}, "no Gauge"),
    ],
)
def test_validate_names_each_defect(fields: dict[str, Tensor], message: str) -> None:
    assert damaged().validate()
    graph = damaged(**fields)
    with pytest.raises(SpecError, match=message):
        graph.validate()
    assert graph.validate(raise_on_error=False) is False


def test_empty_graphs_say_so() -> None:
    with pytest.raises(SpecError, match="empty"):
        NeuralGraph().validate()
    assert repr(NeuralGraph()) == "NeuralGraph()"
