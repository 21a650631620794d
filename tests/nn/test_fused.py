"""The fused native sweep against the reference loop and against finite differences."""

from __future__ import annotations

import pytest
import torch

from graphnfn import testing
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.nn import compiled, fused, library
from graphnfn.nn.blocks import BlockWiring, LoopWiring
from graphnfn.nn.native import NativeSweep
from graphnfn.nn.plan import plan_of
from graphnfn.nn.state import State
from graphnfn.nn.taps import Sizes
from graphnfn.stack import Stack
from tests.nn.test_metanets import ELEMENTWISE, flat_cnn, per_neuron_spec

WIDTH = 5


def specs():
    return {
        "siren": mlp_spec([2, 6, 5, 1], "sin", omega=30.0),
        "cnn": small_cnn_spec([2, 4, 3, 4], 3, "relu"),
        "flatten": flat_cnn(),
        "per neuron": per_neuron_spec(),
        **{name: mlp_spec([3, 5, 4, 2], name) for name in ELEMENTWISE},
    }


def problem(spec, networks=3, seed=0):
    """A sweep with every parameter away from its start, and everything that it can be differentiated by."""
    torch.manual_seed(seed)
    (stack,) = testing.random_graph(spec, seed=seed, dtype=torch.float64, networks=networks).stacks()
    sweep = NativeSweep(WIDTH, Sizes.of([spec])).double()
    for parameter in sweep.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    even = [torch.randn(networks, g.size, WIDTH, dtype=torch.float64, requires_grad=True) for g in spec.groups]
    return sweep, stack, even


def results(sweep, wiring, even, seed=1):
    """Outputs, and the gradient of a random function of all of them."""
    out = sweep(State(even), wiring)
    torch.manual_seed(seed)
    loss = sum((t * torch.randn_like(t)).sum() for t in (*out.even, *out.odd))
    stack = wiring.stack
    wanted = [*even, *sweep.parameters(), *(t for t in (stack.nodes, *stack.blocks) if t.requires_grad)]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [*out.even, *out.odd, *grads]


def assert_alike(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11 * max(1.0, float(b.detach().abs().max())))


KERNELS = {"compiled": None, "whole": 1 << 16, "in chunks": 30}
"""Compiled where that is possible, else PyTorch's operators on so many numbers at a time."""


def choose(kernel, monkeypatch):
    if KERNELS[kernel]:
        monkeypatch.setattr(fused, "CHUNK", KERNELS[kernel])
        monkeypatch.setattr(compiled, "library_for", lambda *_: None)
    elif library.library(torch.float64) is None:
        pytest.skip("no C compiler")


COMPILED = ("siren", "cnn", "flatten", "relu", "tanh", "sin", "cos", "identity")
CASES = [
    *(("compiled", name) for name in COMPILED),
    *(("whole", name) for name in specs()),
    *(("in chunks", name) for name in ("siren", "cnn", "per neuron", "prelu")),
]


@pytest.mark.parametrize(("kernel", "name"), CASES)
def test_same_numbers_and_gradients_as_the_loop(kernel, name, monkeypatch):
    choose(kernel, monkeypatch)
    spec = specs()[name]
    sweep, stack, even = problem(spec)
    assert (plan_of(spec, stack.nodes.device).rows is not None) == (name in COMPILED)
    if "slope" not in {p.field for p in stack.spec.node_params}:
        stack = stack.apply(lambda t: t.requires_grad_())
    assert_alike(results(sweep, BlockWiring(stack), even), results(sweep, LoopWiring(stack), even))


def test_the_comparison_sees_a_small_error(monkeypatch):
    """Negative control: one link that loses a thousandth of its messages on the way back."""
    sweep, stack, even = problem(specs()["siren"])
    expected = results(sweep, LoopWiring(stack), even)
    choose("whole", monkeypatch)
    true = fused.Link.push_adjoint
    monkeypatch.setattr(fused.Link, "push_adjoint", lambda self, *a: true(self, *a) * 0.999)
    with pytest.raises(AssertionError):
        assert_alike(results(sweep, BlockWiring(stack), even), expected)


@pytest.mark.parametrize("kernel", ["compiled", "whole"])
@pytest.mark.parametrize("name", ["siren", "cnn", "tanh", "gelu"])
def test_gradients_by_finite_differences(name, kernel, monkeypatch):
    choose(kernel, monkeypatch)
    sweep, stack, even = problem(specs()[name], networks=2)
    parameters = list(sweep.parameters())

    def run(nodes, first, *others):
        del others  # parameters are moved in place
        wiring = BlockWiring(Stack(stack.spec, nodes, (first, *stack.blocks[1:])))
        out = sweep(State(even), wiring)
        return (*out.even, *out.odd[1:])

    nodes, first = (t.detach().requires_grad_() for t in (stack.nodes, stack.blocks[0]))
    assert torch.autograd.gradcheck(run, (nodes, first, *even, *parameters), atol=1e-6, rtol=1e-4, fast_mode=True)


def test_without_gradients_and_with_unused_outputs():
    sweep, stack, even = problem(specs()["cnn"])
    with torch.no_grad():
        quiet = sweep(State(even), BlockWiring(stack)).even
    out = sweep(State(even), BlockWiring(stack)).even
    for a, b in zip(quiet, out, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    loop = sweep(State(even), LoopWiring(stack)).even
    wanted = list(sweep.parameters())
    for level in range(len(out)):  # the others get no gradient at all
        found = torch.autograd.grad(out[level].sum(), wanted, allow_unused=True, retain_graph=True)
        expected = torch.autograd.grad(loop[level].sum(), wanted, allow_unused=True, retain_graph=True)
        assert_alike([torch.zeros(()) if g is None else g for g in found if g is not None and g.any()],
                     [g for g in expected if g is not None and g.any()])  # fmt: skip


def test_slopes_that_are_learned_take_the_loop():
    sweep, stack, even = problem(specs()["prelu"])
    nodes = stack.nodes.clone().requires_grad_()
    stack = Stack(stack.spec, nodes, stack.blocks)
    assert_alike(results(sweep, BlockWiring(stack), even), results(sweep, LoopWiring(stack), even))
    assert results(sweep, BlockWiring(stack), even)[-1][..., -1].abs().max() > 0


def test_bfloat16_autocast():
    sweep, stack, even = problem(specs()["siren"])
    sweep, stack, even = sweep.float(), stack.apply(lambda t: t.float()), [e.detach().float() for e in even]
    exact = sweep(State(even), BlockWiring(stack)).even
    with torch.autocast("cpu", torch.bfloat16):
        rough = sweep(State(even), BlockWiring(stack)).even
    sum(r.float().sum() for r in rough).backward()
    assert sweep.beta.grad is not None and sweep.taps.dense.grad.isfinite().all()
    assert float((rough[-1] - exact[-1]).detach().abs().max()) < 1.0


@pytest.mark.parametrize("spread", [0.1, 1.0, 300.0])
@pytest.mark.parametrize("name", ["siren", "cos", "tanh", "relu"])
def test_single_precision_is_as_good_as_the_loop(name, spread):
    """The C functions have sin, cos and tanh of their own in float32: small, ordinary and large arguments."""
    if library.library(torch.float32) is None:
        pytest.skip("no C compiler")
    spec = mlp_spec([2, 64, 1], "sin", omega=30.0) if name == "siren" else mlp_spec([2, 64, 1], name)
    sweep, stack, even = problem(spec)
    exact_x = stack.apply(lambda t: (t * spread).float().double())  # both read the same weights
    sweep = sweep.float().double()
    exact = sweep(State([e.detach() for e in even]), LoopWiring(exact_x)).odd[1]
    low = [e.detach().float() for e in even]
    sweep, rounded = sweep.float(), exact_x.apply(lambda t: t.float())
    loop = sweep(State(low), LoopWiring(rounded)).odd[1]
    found = sweep(State(low), BlockWiring(rounded)).odd[1]
    error, reference = ((t.double() - exact).detach().abs().max() for t in (found, loop))
    assert error <= 2 * reference + 1e-6 * max(1.0, float(exact.detach().abs().max()))
