"""The path sweep: sums over paths, with and without signs, that know nothing of activations."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

import graphnfn as gn
from graphnfn import testing
from graphnfn.chain import mlp_spec
from graphnfn.nn.blocks import BlockWiring
from graphnfn.nn.native import NativeSweep
from graphnfn.nn.paths import PathSweep, _Masses, _Paths
from graphnfn.nn.state import State
from graphnfn.nn.taps import Sizes
from graphnfn.nn.typed import soft_log
from graphnfn.nn.wiring import identity
from graphnfn.stack import Stack

WIDTHS = [3, 4, 5, 2]


def stack_of(activation: str) -> Stack:
    """The same weights for every activation, as they are."""
    return testing.random_graph(mlp_spec(WIDTHS, activation), networks=2).stacks()[0]


def sums(kind: type[_Paths], spec: gn.NetSpec, channels: int = 3) -> _Paths:
    torch.manual_seed(0)
    return kind(channels, Sizes.of([spec])).double()


def by_hand(found: _Paths, stack: Stack, *, masses: bool) -> Tensor:
    """States of the output neurons as a sum over every single path, the biases' paths included."""
    start = found.inputs.vectors.abs() if masses else found.inputs.vectors
    weights = [w[..., 0].abs() if masses else w[..., 0] for w in stack.blocks]
    biases = [stack.group(i)[..., :1].abs() if masses else stack.group(i)[..., :1] for i in range(4)]
    total = biases[3] * found.beta
    for path in product(*(range(n) for n in WIDTHS[:-1])):
        w1, w2, w3 = (weights[k][:, path[k + 1] if k < 2 else slice(None), path[k]] for k in range(3))
        total = total + (w3 * (w1 * w2)[:, None])[..., None] * start[path[0]]
    for i, j in product(range(WIDTHS[1]), range(WIDTHS[2])):
        product_of_two = weights[2][:, :, j] * weights[1][:, j, i, None]
        total = total + product_of_two[..., None] * (biases[1][:, i] * found.beta)[:, None]
    for j in range(WIDTHS[2]):
        total = total + weights[2][:, :, j, None] * (biases[2][:, j] * found.beta)[:, None]
    return total


@pytest.mark.parametrize("masses", [False, True])
def test_outputs_hold_the_sum_over_all_paths(masses: bool) -> None:
    stack = stack_of("relu")
    found = sums(_Masses if masses else _Paths, stack.spec)
    there, _ = found(BlockWiring(stack))
    torch.testing.assert_close(there[-1], by_hand(found, stack, masses=masses))


def test_without_activations_it_is_the_network_and_its_gradient() -> None:
    stack = stack_of("identity")
    found = sums(_Paths, stack.spec)
    wiring = BlockWiring(stack)
    inputs = found.inputs.vectors.detach().clone().requires_grad_()
    h = inputs[None]
    for k, weight in enumerate(stack.blocks):
        h = weight[..., 0] @ h + stack.group(k + 1)[..., :1]
    there, seen = found(wiring)
    torch.testing.assert_close(there[-1], h)
    (slope,) = torch.autograd.grad((h[0] * found.outputs.vectors).sum(), inputs)
    a, b, c = found.mix["input"]
    expected = soft_log(a * inputs + b * inputs * slope + c * slope)  # the signs of inputs are not free
    torch.testing.assert_close(seen[0][0], expected)


def test_activations_do_not_matter_to_it_but_to_the_native_sweep() -> None:
    """Neurons that are turned on or off by their inputs, on the same weights."""
    relu, leaky = stack_of("relu"), stack_of("leaky_relu")
    assert all(torch.equal(a, b) for a, b in zip(relu.blocks, leaky.blocks, strict=True))
    found = {}
    for kind in (PathSweep, NativeSweep):
        torch.manual_seed(0)
        sweep = kind(6, Sizes.of([relu.spec])).double()
        start = State([torch.zeros(2, n, 6, dtype=torch.float64) for n in WIDTHS])
        found[kind] = [sweep(start, BlockWiring(s)).even[-1] for s in (relu, leaky)]
    assert torch.equal(*found[PathSweep])
    assert not torch.allclose(*found[NativeSweep])


def test_masses_that_keep_signs_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = testing.random_graph(mlp_spec(WIDTHS, "tanh"), networks=2)
    torch.manual_seed(0)
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=6, layer="paths"), specs=[graph.spec]).double()
    testing.assert_equivariant(model, graph)
    monkeypatch.setattr(_Masses, "head", staticmethod(identity))
    with pytest.raises(AssertionError):
        testing.assert_equivariant(model, graph)


def test_the_soft_logarithm() -> None:
    x = torch.tensor([-1e6, -1.0, -1e-9, 0.0, 1e-9, 1.0, 1e6], dtype=torch.float64)
    torch.testing.assert_close(soft_log(x), x.sign() * x.abs().log1p())
    assert torch.equal(soft_log(-x), -soft_log(x))
    assert torch.autograd.gradcheck(soft_log, (torch.tensor([-3.0, -0.2, 0.4, 50.0]).double().requires_grad_(),))
