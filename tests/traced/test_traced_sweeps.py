"""Sweeps along traced networks: what they find, exactness, gradients, memory modes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphnfn as gn
from converters.traced import traced_graph
from graphnfn.nn import channels, sites, traced_sweep
from graphnfn.nn.channels import Channels, Networks, sweep, wave
from graphnfn.nn.sites import find_sites
from graphnfn.nn.traced_sweep import TracedSweeps
from graphnfn.traced_stack import TracedStack

LAYERS = ("native", "gated", "combined")
SITES = {
    "residual": [6, 5, 6, 6, 3], "grouped": [8, 12, 3], "transformer": [6, 8, 12, 8],
    "llama": [8, 16, 8, 2, 8, 10, 10, 8, 7], "recurrent": [5, 2, 2], "experts": [4, *[5, 6] * 4, 2],
    "lowrank": [5, 1, 5],
}  # fmt: skip
"""Numbers per site: one per neuron, and one per slot of a linear group."""


def _stack(graph: gn.NeuralGraph) -> TracedStack:
    (stack,) = graph.stacks()
    assert isinstance(stack, TracedStack)
    return stack


def _model(graphs: list[gn.NeuralGraph], **settings: Any) -> gn.GraphMetaNet:
    torch.manual_seed(0)
    config = gn.MetaNetConfig(**{"width": 6, "rounds": 2, "out": 3, "layer": "native", **settings})
    return gn.GraphMetaNet(config, specs=[g.spec for g in graphs]).double()


def _sweeps(width: int = 6, *, checkpoint: bool = False) -> TracedSweeps:
    torch.manual_seed(0)
    return TracedSweeps(width, 2, 12, checkpoint=checkpoint).double()


def _zero_gains(stack: TracedStack, width: int) -> Channels:
    torch.manual_seed(0)
    inputs, answers = torch.randn(2, stack.size, width, width, dtype=torch.float64)
    total = find_sites(stack.spec).total
    return Channels(inputs, answers, torch.zeros(stack.size, width, total, dtype=torch.float64))


def test_every_neuron_has_a_number_and_every_linear_slot_one(name: str, graph: gn.NeuralGraph) -> None:
    found = find_sites(_stack(graph).spec)
    assert [s.count for s in found.sites] == SITES[name]
    assert dict(found.tokens) == ({"embedding": "embed.weight"} if name == "llama" else {})
    assert found.total == len(found.owner()) == sum(SITES[name])


def test_numbers_are_activations_times_adjoints() -> None:
    """Against plain autograd on the module."""
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 3)).double()
    stack = _stack(traced_graph(module, (torch.randn(1, 2, 4, 4, dtype=torch.float64),)))
    given = _zero_gains(stack, 5)
    e, o = sweep(Networks.of(stack), given, size=2, checkpoint=False)
    device = torch.device("cpu")
    for c in range(5):
        x = torch.tensordot(given.inputs[0, c], wave(0, 5, (1, 2, 4, 4), torch.float64, device), 1)
        z = module[0](x).detach().requires_grad_()
        y = module[1:](z)
        out = wave(-1, 5, (1, 3), torch.float64, device).flatten(1) @ y.flatten() / 3**0.5
        (adjoint,) = torch.autograd.grad((out * given.answers[0, c]).sum(), z)
        assert torch.allclose(o[0, c], out, rtol=1e-12)
        assert torch.allclose(e[0, c, :4], (z * adjoint).sum((0, 2, 3)), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("head", ["invariant", "edit"])
def test_exact_over_six_decades(layer: str, head: str, graph: gn.NeuralGraph) -> None:
    model = _model([graph], layer=layer, head=head)
    if head == "edit":
        model.reader.scale.data.fill_(0.5)  # type: ignore[union-attr]
    with torch.no_grad():
        assert gn.testing.assert_equivariant(model, graph, decades=6.0, draws=2) < 1e-10


def test_sums_of_adjoints_would_be_caught(name: str, graph: gn.NeuralGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: gains that are added see adjoints alone, which have charge -1."""

    def added(value: Tensor, site: sites.Site, gains: Tensor) -> Tensor:
        gain = gains[site.start : site.start + site.count][site.segment]
        return value + gain.view(-1, *(1,) * (-1 - site.axis))

    monkeypatch.setattr(channels, "_gated", added)
    with torch.no_grad():
        assert gn.testing.equivariance_error(_model([graph]), graph) > 1e-6


@pytest.mark.parametrize("linear", ["transformer", "lowrank", "llama"])
def test_single_entries_of_linear_groups_would_be_caught(linear: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: every entry its own number."""
    from tests.traced.conftest import traced  # type: ignore[import-not-found]

    graph = traced(linear)

    single = _all_apart(graph)
    assert single.total > find_sites(_stack(graph).spec).total
    for module in (channels, traced_sweep):
        monkeypatch.setattr(module, "find_sites", lambda _: single)
    monkeypatch.setattr(traced_sweep, "_table", traced_sweep._table.__wrapped__)
    with torch.no_grad():
        assert gn.testing.equivariance_error(_model([graph]), graph) > 1e-4


def _all_apart(graph: gn.NeuralGraph) -> sites.Sites:
    found = find_sites(_stack(graph).spec)
    out, start = [], 0
    for site in found.sites:
        size = len(site.segment)
        out.append(replace(site, segment=torch.arange(size), start=start, count=size))
        start += size
    return sites.Sites(tuple(out), found.tokens)


def test_every_parameter_gets_a_gradient(graph: gn.NeuralGraph) -> None:
    model = _model([graph])
    model(graph).square().sum().backward()
    for name, p in [*model.reader.named_parameters(), *model.head.predict.named_parameters()]:  # type: ignore[union-attr]
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name


def test_the_second_round_runs_on_what_the_first_found(graph: gn.NeuralGraph) -> None:
    networks, model = Networks.of(_stack(graph)), _sweeps()
    rounds: Any = model.rounds
    first, second = rounds
    found = first(networks, None, checkpoint=False)
    second(networks, found, checkpoint=False).network.square().sum().backward()
    for p in (first.inputs, first.answers, first.kind.weight):
        assert p.grad is not None and p.grad.abs().max() > 0
    still = replace(found, seen=torch.zeros_like(found.seen))
    assert not torch.allclose(second(networks, found, checkpoint=False).seen,
                              second(networks, still, checkpoint=False).seen, rtol=1e-3)  # fmt: skip


def test_checkpoints_change_nothing(graph: gn.NeuralGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced_sweep, "CHUNK", 4)  # 6 channels in parts of 4 and 2
    stack = _stack(graph).apply(lambda t: t.clone().requires_grad_())
    results = []
    for checkpoint in (False, True):
        model = _sweeps(checkpoint=checkpoint)
        total, seen = model(stack)
        (total.square().sum() + seen.sum()).backward()
        found = [total, seen, *(p.grad for p in model.parameters()), *(t.grad for t in stack.tensors.values())]
        results.append([f.detach().clone() for f in found if f is not None])
        for t in stack.tensors.values():
            t.grad = None
    assert len(results[0]) == len(results[1])
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() <= 1e-10 * (1e-3 + a.abs().max())


def test_predictions_are_differentiable_in_the_weights(graph: gn.NeuralGraph) -> None:
    """Against a finite difference along a random direction."""
    stack, model = _stack(graph), _sweeps()
    torch.manual_seed(1)
    along = {n: torch.randn_like(t) for n, t in stack.tensors.items()}

    def at(step: float) -> Tensor:
        moved = replace(stack, tensors={n: t + step * along[n] for n, t in stack.tensors.items()})
        with torch.no_grad():
            return model(moved)[0].sum()

    leaves = stack.apply(lambda t: t.clone().requires_grad_())
    model(leaves)[0].sum().backward()
    slope = sum((t.grad * along[n]).sum() for n, t in leaves.tensors.items() if t.grad is not None)
    assert isinstance(slope, Tensor) and slope.abs() > 1e-6
    assert torch.allclose(slope, (at(1e-6) - at(-1e-6)) / 2e-6, rtol=1e-4)


def test_networks_run_together_as_one_by_one(graph: gn.NeuralGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    others = [graph.map_stacks(lambda s: s.apply(lambda t: t * (1 + 0.1 * torch.rand_like(t)))) for _ in range(3)]
    stack, model = _stack(gn.NeuralGraph.batch(others)), _sweeps()
    with torch.no_grad():
        together = model(stack)
        monkeypatch.setattr(traced_sweep, "TOGETHER", 1)
        alone = model(stack)
    for a, b in zip(together, alone, strict=True):
        assert (a - b).abs().max() < 1e-11 * a.abs().max()
    assert not torch.allclose(together[0][0], together[0][1], rtol=1e-3)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_bfloat16_is_close(graph: gn.NeuralGraph, checkpoint: bool) -> None:
    single = graph.map_stacks(lambda s: s.apply(lambda t: t.float()))
    model = _model([graph], checkpoint=checkpoint).float()
    found = []
    for half in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = model(single)
        out.float().sum().backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((out.detach().float(), torch.cat(grads)))
    (out, grad), (half_out, half_grad) = found
    assert torch.isfinite(half_out).all() and torch.isfinite(half_grad).all()
    assert (half_out - out).norm() < 0.05 * out.norm() and not torch.equal(half_out, out)
    assert (half_grad - grad).norm() < 0.05 * grad.norm()


def test_it_runs_in_inference_mode(graph: gn.NeuralGraph) -> None:
    model = _model([graph])
    with torch.inference_mode():
        fast = model(graph)
    assert torch.allclose(fast, model(graph).detach(), rtol=1e-12)
    model(graph).sum().backward()
