"""Gated updates in few passes against PyTorch's operators, with gradients of everything."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphnfn import testing
from graphnfn.activations import Activation
from graphnfn.chain import mlp_spec
from graphnfn.nn import gates as module
from graphnfn.nn import library
from graphnfn.nn.blocks import BlockWiring
from graphnfn.nn.gates import gate
from graphnfn.nn.typed import even_mlp
from graphnfn.nn.wiring import Level

needs_compiler = pytest.mark.skipif(library.library(torch.float64) is None, reason="no C compiler")
KINDS = ["full", "one number a row", "nothing typed"]


def level(activation: str | list[Activation]) -> Level:
    acts = activation if isinstance(activation, str) else [activation]
    spec = mlp_spec([2, 7, 1], acts)  # pyright: ignore[reportArgumentType]
    return BlockWiring(testing.random_graph(spec, networks=3).stacks()[0]).levels[1]


def problem(kind: str, width: int, dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, list[torch.Tensor]]:
    """Layers with every parameter away from its start, and e, M, r, u, v; M is the same for all networks."""
    torch.manual_seed(0)
    mlp = even_mlp(3 * width, 3 * width, width).to(dtype)
    for parameter in mlp.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    shapes = [(3, 7, width), (1, 7, width), (3, 7, width)]
    if kind != "nothing typed":
        shapes += [(3, 7, width), (3, 7, width if kind == "full" else 1)]
    return mlp, [torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes]


def update(mlp: nn.Sequential, where: Level, states: list[torch.Tensor]) -> list[torch.Tensor]:
    e, mass, r, *typed = states
    out = gate(mlp, where, e, mass, r, (typed[0], typed[1]) if typed else None)
    return [t for t in out if t is not None]


def results(mlp: nn.Sequential, where: Level, states: list[torch.Tensor], *, only: int | None = None):
    """Outputs, and the gradient of a random function of all of them (or of one)."""
    out = update(mlp, where, states)
    torch.manual_seed(1)
    terms = [(t * torch.randn(t.shape, dtype=t.dtype)).sum() for t in out]
    loss = sum(terms) if only is None else terms[only]
    return [*out, *torch.autograd.grad(loss, [*states, *mlp.parameters()], allow_unused=True)]


def by_operators(monkeypatch, *args, **kwargs):
    with monkeypatch.context() as patch:
        patch.setattr(module, "_can_compile", lambda *_: False)
        return results(*args, **kwargs)


def assert_alike(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        if a is None or b is None:  # what nothing depends on may get zeros
            assert all(t is None or not t.any() for t in (a, b))
        else:
            torch.testing.assert_close(a, b, **tolerance)


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("width", [3, 8, 20])
def test_same_numbers_and_gradients_as_the_operators(kind, activation, width, monkeypatch):
    mlp, states = problem(kind, width)
    where = level(activation)
    assert module._can_compile(mlp, *states) and where.signed is (activation == "tanh")
    expected = by_operators(monkeypatch, mlp, where, states)
    assert_alike(results(mlp, where, states), expected, rtol=1e-9, atol=1e-11)
    for only in range(2 if kind != "nothing typed" else 1):
        expected = by_operators(monkeypatch, mlp, where, states, only=only)
        assert_alike(results(mlp, where, states, only=only), expected, rtol=1e-9, atol=1e-11)


@needs_compiler
def test_single_precision(monkeypatch):
    mlp, states = problem("full", 32, torch.float32)
    expected = by_operators(monkeypatch, mlp, level("sin"), states)
    assert_alike(results(mlp, level("sin"), states), expected, rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_finite_differences(kind):
    mlp, states = problem(kind, 4)
    where, parameters = level("tanh"), list(mlp.parameters())

    def run(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(update(mlp, where, list(args[: len(states)])))  # parameters are moved in place

    assert torch.autograd.gradcheck(run, (*states, *parameters), fast_mode=True)


@needs_compiler
def test_the_comparison_sees_a_small_error(monkeypatch):
    """Negative control: an epsilon of the normalisation that the operators do not have."""
    mlp, states = problem("full", 8)
    expected = by_operators(monkeypatch, mlp, level("relu"), states)
    true = module.bits
    monkeypatch.setattr(module, "bits", lambda eps: true(eps + 1e-6))
    with pytest.raises(AssertionError):
        assert_alike(results(mlp, level("relu"), states), expected, rtol=1e-9, atol=1e-11)


def test_what_is_left_to_the_operators(monkeypatch):
    mlp, states = problem("full", 4)
    mixed = level([Activation("relu")] * 3 + [Activation("tanh")] * 4)
    assert isinstance(mixed.signed, torch.Tensor)
    monkeypatch.setattr(module._Gate, "forward", None)
    assert all(t.isfinite().all() for t in update(mlp, mixed, states))
    assert not module._can_compile(mlp, states[0].float())
    monkeypatch.setattr(module, "library", lambda _: None)
    assert not module._can_compile(mlp, *states)
