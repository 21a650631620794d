"""LoL by name: factor pairs out of converted adapters, batches, claims, parameters, clear errors."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import baselines
from baselines import BaselineError, lol
from converters import convert
from experiments.adapters import LAYERS, RANK, adapters
from graphnfn.chain import mlp_spec
from graphnfn.graph import NeuralGraph
from graphnfn.testing import assert_batch_independent, assert_equivariant, assert_pure, equivariance_error, random_graph

NAMES = baselines.adapter_names()
SIZES = list(LAYERS.values())


def model_of(name: str, graph: NeuralGraph, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    model = baselines.build(name, out=3, specs=graph.specs, **settings).double()
    with torch.no_grad():
        model.train()(adapters(2, seed=7))
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_claims_by_the_librarys_own_elements(name: str) -> None:
    """Elements of the inferred symmetry, which is GL: only models that claim GL may pass."""
    graph = adapters(4)
    model = model_of(name, graph)
    if "GL" in baselines.class_of(name).symmetry:  # type: ignore[operator]
        assert_equivariant(model, graph, decades=2.0, tol=1e-9)
    else:
        assert equivariance_error(model, graph, decades=2.0) > 1e-3
    assert_batch_independent(model, graph.to_data_list(), tol=1e-10)
    assert_pure(model, graph)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_model_is_the_pair_model(name: str) -> None:
    graph = adapters(3)
    model = model_of(name, graph)
    tensors = graph.stacks()[0].unpack()
    pairs = {p.first: (tensors[p.first], tensors[p.second]) for p in lol.factor_pairs(graph.specs[0])}
    assert isinstance(model, lol.AdapterModel)
    assert torch.equal(model(graph), model.model(pairs))


@pytest.mark.parametrize("name", NAMES)
def test_ranks_may_differ_in_a_batch(name: str) -> None:
    low, high = adapters(2, rank=2), adapters(3, rank=RANK)
    parts = [*low.to_data_list(), *high.to_data_list()]
    order = [0, 2, 3, 1, 4]
    mixed = NeuralGraph.batch([parts[i] for i in order])
    model = model_of(name, mixed)
    alone = torch.cat([model(parts[i]) for i in order])
    torch.testing.assert_close(model(mixed), alone, rtol=1e-9, atol=1e-9)
    assert (alone.diff(dim=0).abs().max(1).values > 1e-6).all()


def adapter_tensors(seed: int, *, conv: bool = False) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"q.lora_A.weight": (2, 8), "q.lora_B.weight": (5, 2), "e.lora_embedding_A": (2, 11)}
    shapes |= {"e.lora_embedding_B": (4, 2), "q.lora_B.bias": (5,)}
    if conv:
        shapes |= {"c.lora_A.weight": (2, 3, 3, 3), "c.lora_B.weight": (6, 2, 1, 1)}
    return {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}


def saved(folder: Path, tensors: dict[str, Tensor]) -> NeuralGraph:
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    return convert(folder)


def test_adapters_out_of_files(tmp_path: Path) -> None:
    """Linear layers, embeddings and convolutions; biases are no part of a pair."""
    tensors = [adapter_tensors(i, conv=True) for i in range(2)]
    graph = NeuralGraph.batch([saved(tmp_path / str(i), t) for i, t in enumerate(tensors)])
    pairs = {p.first: p.sizes for p in lol.factor_pairs(graph.specs[0])}
    assert pairs == {"c.lora_A.weight": (6, 27), "e.lora_embedding_A": (4, 11), "q.lora_A.weight": (5, 8)}
    model = baselines.build("lol_dense", out=2, specs=graph.specs).eval()
    products = [
        torch.cat([(t[b].flatten(1) @ t[a].flatten(1)).flatten() for a, b in (
            ("c.lora_A.weight", "c.lora_B.weight"), ("e.lora_embedding_A", "e.lora_embedding_B"),
            ("q.lora_A.weight", "q.lora_B.weight"),
        )])
        for t in tensors
    ]  # fmt: skip
    assert isinstance(model, lol.AdapterModel) and isinstance(model.model, lol.DenseLoraMLP)
    torch.testing.assert_close(model(graph), model.model.head(torch.stack(products)))


def test_the_template_is_the_first_adapter_seen_in_training() -> None:
    graph = adapters(3)
    model = baselines.build("lol_aligned", out=1, specs=graph.specs).double()
    assert isinstance(model, lol.AlignedLoL)
    start = model.model.get_buffer("template_0").clone()
    model.eval()(graph)
    assert torch.equal(model.model.get_buffer("template_0"), start)
    model.train()(graph)
    first = lol.factor_pairs(graph.specs[0])[0]
    a, b = (t[0] for t in first.read(graph.stacks()[0].unpack()))
    assert torch.equal(model.model.get_buffer("template_0")[0], torch.cat([b, a.T]))
    model(adapters(3, seed=5))
    assert torch.equal(model.model.get_buffer("template_0")[0], torch.cat([b, a.T]))
    copy = baselines.build("lol_aligned", out=1, specs=graph.specs).double()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.train()(adapters(2, seed=6)), model(adapters(2, seed=6)))


def test_parameters() -> None:
    """GL-net: Phi and Psi of every layer, deeper maps, the MLP on products; the others: one MLP."""
    graph, out = adapters(1), 3

    def mlp(features: int, hidden: int) -> int:
        return (features + 1) * hidden + 2 * hidden + (hidden + 1) * out

    w, h, n = 6, 16, len(SIZES)
    want = {
        "lol": sum(o + i for o, i in SIZES) * w + 2 * n * w * w + mlp(n * w * w, h),
        "lol_flat": mlp(RANK * sum(o + i for o, i in SIZES), h),
        "lol_aligned": mlp(RANK * sum(o + i for o, i in SIZES), h),
        "lol_singular_values": mlp(n * RANK, h),
        "lol_dense": mlp(sum(o * i for o, i in SIZES), h),
    }
    for name in NAMES:
        settings = {"width": w, "layers": 2} if name == "lol" else {}
        model = baselines.build(name, out=out, specs=graph.specs, hidden=h, **settings)
        assert sum(p.numel() for p in model.parameters()) == want[name], name


@pytest.mark.parametrize("preset", lol.LoL.presets)
def test_presets(preset: str) -> None:
    graph = adapters(2)
    model = baselines.build("lol", out=1, specs=graph.specs, **lol.LoL.presets[preset])
    kind = lol.PooledGLNet if preset == "clip" else lol.GLNet
    assert isinstance(model, lol.LoL) and type(model.model) is kind
    assert model.double()(graph).shape == (2, 1)


@pytest.mark.parametrize("name", NAMES)
def test_networks_without_factor_pairs(name: str) -> None:
    with pytest.raises(BaselineError, match="got a chain of layers"):
        baselines.build(name, out=1, specs=[mlp_spec([3, 4, 2], "relu")])
    with pytest.raises(BaselineError, match="got a chain of layers"):
        model_of(name, adapters(1))(random_graph(mlp_spec([3, 4, 2], "relu")))


def test_linear_gauges_that_are_no_pair() -> None:
    """Attention heads share one matrix for queries, keys and values, with biases."""
    q = torch.randn(2, 5, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = convert(nn.MultiheadAttention(8, 2, batch_first=True), example_input=(q, q, q))
    with pytest.raises(BaselineError, match="belong to no such pair"):
        baselines.build("lol", out=1, specs=graph.specs)


def test_other_adapters() -> None:
    graph, other = adapters(1), adapters(1, layers={"q": (12, 8)})
    with pytest.raises(BaselineError, match="expected adapters of the same layers"):
        baselines.build("lol", out=1, specs=[graph.specs[0], other.specs[0]])
    with pytest.raises(BaselineError, match="adapters of other layers"):
        model_of("lol", graph)(other)
    with pytest.raises(BaselineError, match="reads factors up to rank 3; got rank 4"):
        model_of("lol_flat", graph)(adapters(1, rank=4))
