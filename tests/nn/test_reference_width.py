"""Reference widths: nothing changes at that width, averages hold at others, and the symmetry stays exact."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor

import graphnfn as gn
from graphnfn import testing
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError
from graphnfn.nn.blocks import BlockWiring, LoopWiring
from graphnfn.nn.pooling import pooled, pooled_as
from graphnfn.nn.statistics import MOMENTS, SETS, WeightStatistics
from graphnfn.nn.taps import Sizes, TapTable
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.symmetry.canonical import canonical_scales

LAYERS = ("native", "gated", "paths", "combined", "probes", "complete")
SPECS = [
    mlp_spec([2, 6, 6, 1], "sin", omega=30.0),
    mlp_spec([3, 6, 6, 2], "relu"),
    small_cnn_spec([1, 6, 6], 3, "tanh", input_shape=(1, 8, 8)),
]
UNEQUAL = [mlp_spec([2, 4, 9, 1], "tanh"), mlp_spec([3, 12, 5, 2], "relu")]


def model_for(specs: list[NetSpec], layer: str, reference: int | None) -> gn.GraphMetaNet:
    torch.manual_seed(0)
    config = gn.MetaNetConfig(width=6, out=2, layer=layer, reference_width=reference)  # type: ignore[arg-type]
    model = gn.GraphMetaNet(config, specs=specs).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def as_read(model: gn.GraphMetaNet, reference: int | None, graph: gn.NeuralGraph) -> Tensor:
    """The prediction of the same parameters under another reference."""
    before, model.config = model.config, replace(model.config, reference_width=reference)
    out = model(graph)
    model.config = before
    assert isinstance(out, Tensor)
    return out


def test_pooling_is_the_mean_over_subsets() -> None:
    values, k = torch.randn(2, 7, 3, dtype=torch.float64), 3
    subsets = torch.stack([pooled(values[:, list(rows)]) for rows in combinations(range(7), k)])
    mean, spread, top = pooled_as(values, k).chunk(3, -1)
    torch.testing.assert_close(mean, subsets[..., :3].mean(0))
    torch.testing.assert_close(spread**2, (subsets[..., 3:6] ** 2).mean(0))
    torch.testing.assert_close(top, subsets[..., 6:].mean(0))
    assert (top < pooled(values)[:, 6:] - 0.01).all()
    torch.testing.assert_close(pooled_as(values[:, torch.randperm(7)], k), pooled_as(values, k))
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: pooled_as(v, k), (values,))


@pytest.mark.parametrize("neurons", [7, None])
def test_pooling_of_the_reference_is_plain(neurons: int | None) -> None:
    values = torch.randn(2, 7, 3)
    assert torch.equal(pooled_as(values, neurons), pooled(values))


def test_smaller_groups_keep_their_maximum() -> None:
    values = torch.randn(2, 4, 3)
    assert torch.equal(pooled_as(values, 9)[:, 6:], pooled(values)[:, 6:])
    assert torch.equal(pooled_as(values[:, :1], 9), pooled(values[:, :1]))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_changes_at_the_reference(layer: str, spec: NetSpec) -> None:
    graph = testing.random_graph(spec, networks=3)
    model = model_for([spec], layer, None)
    plain = model(graph)
    assert torch.equal(as_read(model, 6, graph), plain)
    assert not torch.allclose(as_read(model, 3, graph), plain)


@pytest.mark.parametrize("spec", [*SPECS, *UNEQUAL])
@pytest.mark.parametrize("layer", LAYERS)
def test_symmetry_and_both_wirings_at_other_widths(layer: str, spec: NetSpec) -> None:
    graph = testing.random_graph(spec, networks=2)
    model = model_for([spec], layer, 4)
    testing.assert_equivariant(model, graph)
    torch.testing.assert_close(model.forward_on_edges(graph), model(graph), rtol=1e-9, atol=1e-9)


def test_widths_may_be_mixed_in_a_batch() -> None:
    specs = [UNEQUAL[0], mlp_spec([2, 6, 6, 1], "tanh")]
    model = model_for(specs, "combined", 5)
    one, two = (testing.random_graph(spec, seed=i) for i, spec in enumerate(specs))
    together = gn.NeuralGraph.batch([one, two])
    torch.testing.assert_close(model(together), torch.cat([model(one), model(two)]))
    torch.testing.assert_close(model.forward_on_edges(together), model(together), rtol=1e-9, atol=1e-9)


def test_the_fused_sweep_agrees_with_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = testing.random_graph(SPECS[0], networks=2)
    model = model_for([SPECS[0]], "native", 4)
    fused = model(graph)
    monkeypatch.setattr(model, "_wirings", lambda stacks, together: [LoopWiring(s) for s in stacks])
    torch.testing.assert_close(model(graph), fused, rtol=1e-9, atol=1e-9)


def fan_in(width: int) -> Stack:
    """Canonical ReLU networks with weights of deviation ``fan_in^(-1/2)``."""
    spec, rng = mlp_spec([3, width, width, 2], "relu"), torch.Generator().manual_seed(0)
    weights = {
        n: torch.randn(20, *s, generator=rng) * (s[-1] if len(s) > 1 else 1e9) ** -0.5 for n, s in spec.params.items()
    }
    graphs = [gn.NeuralGraph.build(spec, {n: w[i] for n, w in weights.items()}) for i in range(20)]
    return canonical_scales(gn.NeuralGraph.batch(graphs).stacks()[0])[1]


@pytest.mark.parametrize("reference", [16, None])
def test_masses_do_not_grow_with_the_width(reference: int | None) -> None:
    """``sum_j |w_ij|`` and its way back, 16 times as wide; without a reference they do grow."""
    found = []
    for width in (16, 256):
        wiring, taps = BlockWiring(fan_in(width)), TapTable(1, Sizes.of([mlp_spec([3, width, width, 2], "relu")]))
        wiring.reference = reference
        ones = [torch.ones(20, g.size, 1) for g in wiring.spec.groups]
        down = wiring.pull(2, wiring.scaled(ones, -0.5), taps, torch.abs).mean()
        up = [wiring.scale(i, wiring.push(i, wiring.scaled(ones, -1.0), taps, torch.abs), 0.5).mean() for i in (1, 2)]
        found.append(torch.stack([down, *up]))
    ratio = found[1] / found[0]
    assert ((ratio - 1).abs() < 0.1).all() if reference else (ratio[:2] > 3).all() and ratio[2] < 0.3, ratio


@pytest.mark.parametrize("reference", [16, None])
def test_statistics_do_not_grow_with_the_width(reference: int | None) -> None:
    """Mean sizes, norms and singular values of balanced weights, 16 times as wide; without a reference they change."""
    found = []
    for width in (16, 256):
        stack = fan_in(width)
        statistics = WeightStatistics(1, Sizes.of([stack.spec]), reference)
        rows = statistics.seen(stack).view(20, 2, statistics.depth, len(SETS), MOMENTS)
        means = rows[:, 0, :3, [SETS.index(n) for n in ("sizes", "incoming norms", "outgoing norms")], 0].mean(0)
        spectrum = rows[:, 0, 1, SETS.index("singular values"), 0].mean()  # of a matrix that grows on both sides
        found.append(torch.cat([means.flatten(), spectrum[None]]))
    ratio = found[1] / found[0]
    assert ((ratio - 1).abs() < 0.1).all() if reference else (ratio < 0.5).any() and (ratio > 2).any(), ratio


@pytest.mark.parametrize("spec", [SPECS[1], UNEQUAL[1]])
def test_statistics_at_the_reference_are_plain(spec: NetSpec) -> None:
    stack = canonical_scales(testing.random_graph(spec, networks=3).stacks()[0])[1]
    plain, at, beside = (WeightStatistics(1, Sizes.of([spec]), n).double().seen(stack) for n in (None, 6, 3))
    assert torch.equal(plain, at) == all(g.size == 6 for g in spec.groups if g.role == "hidden")
    assert not torch.allclose(plain, beside)


@pytest.mark.parametrize("spec", [mlp_spec([7, 6, 5, 2], "relu"), small_cnn_spec([1, 4, 5], 3, "relu")])
def test_symmetry_with_statistics(spec: NetSpec) -> None:
    graph = testing.random_graph(spec, networks=3)
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=6, layer="gated", statistics=True, reference_width=4), [spec])
    model = model.double()
    model.fit([testing.random_graph(spec, networks=6, seed=9)])
    testing.assert_equivariant(model, graph)
    torch.testing.assert_close(model.forward_on_edges(graph), model(graph), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model(model.prepare(graph)), model(graph), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bad", [{"reference_width": 0}, {"reference_width": 16, "layer": "synchronous"}])
def test_bad_references(bad: dict) -> None:
    with pytest.raises(SpecError, match="reference_width"):
        gn.MetaNetConfig(**bad)
