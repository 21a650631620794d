"""Balanced weights: least sum of squares, safe where neurons are cut off; test_canonical has what all forms have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from converters import convert
from graphnfn import testing
from graphnfn.activations import Activation, Gauge
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.symmetry import act, balance, balanced_scales, canonical_scales, random_element
from graphnfn.symmetry.balanced import balanced_form
from graphnfn.traced_stack import TracedStack

Specs = Callable[..., st.SearchStrategy[NetSpec]]
SCALED = [
    mlp_spec([3, 6, 5, 2], "relu"),
    mlp_spec([3, 6, 1], Activation("relu_power", 3.0)),
    small_cnn_spec([1, 4, 5], 3, "leaky_relu"),
]


def stack_of(graph: NeuralGraph) -> Stack:
    (stack,) = graph.stacks()
    assert not isinstance(stack, TracedStack)
    return stack


def total(stack: Stack) -> Tensor:
    return sum((w.square().sum((1, 2, 3)) for w in stack.blocks), stack.nodes[..., 0].square().sum(1))


@pytest.mark.parametrize("spec", SCALED)
def test_the_sum_of_squares_is_least(spec: NetSpec) -> None:
    graph = testing.random_graph(spec, networks=3)
    scales, stack = balanced_scales(stack_of(graph))
    least = total(stack)
    assert bool((least < total(stack_of(graph))).all()) and bool((least < total(canonical_scales(stack)[1])).all())
    # any other scales make it larger; half a decade is far more than what the rounds left
    for seed in range(5):
        moved = act(random_element(spec, 0.5, seed, permute=False), NeuralGraph.from_stacks([stack]))
        assert bool((total(stack_of(moved)) > least).all())
    torch.testing.assert_close(scales.phi[1], scales.norm[1] ** spec.groups[1].per_neuron()[0][0].phi_scale)


def _ends(stack: Stack, i: int) -> tuple[Tensor, Tensor]:
    """What enters and what leaves the neurons of a group, sums of squares."""
    spec, p = stack.spec, stack.spec.groups[i].per_neuron()[0][0].phi_scale
    entering = stack.group(i)[..., 0].square() + sum(stack.blocks[b].square().sum((2, 3)) for b in spec.incoming[i])
    return entering, p * sum(stack.blocks[b].square().sum((1, 3)) for b in spec.outgoing[i])


@pytest.mark.parametrize("spec", [*SCALED, mlp_spec([2, *[12] * 8, 1], "relu")])
def test_what_enters_is_what_leaves(spec: NetSpec) -> None:
    stack = balanced_scales(stack_of(testing.random_graph(spec, networks=3)))[1]
    for i, group in enumerate(spec.groups):
        if group.role == "hidden":
            entering, leaving = _ends(stack, i)
            torch.testing.assert_close(entering, leaving, rtol=0.05, atol=0)
    with pytest.raises(AssertionError):  # unlike the canonical form, which this test must tell apart
        torch.testing.assert_close(*_ends(canonical_scales(stack)[1], 1), rtol=0.05, atol=0)


def test_from_raw_weights_it_would_depend_on_the_scales() -> None:
    """The rounds are few: invariance comes from where they start."""
    spec = mlp_spec([2, *[6] * 8, 1], "relu")
    graph = testing.random_graph(spec)
    moved = act(random_element(spec, 6.0, 0, permute=False), graph)
    raw = [balanced_form(stack_of(g)).blocks[0] for g in (graph, moved)]
    assert not torch.allclose(*raw, rtol=1e-3)
    torch.testing.assert_close(balance(moved)[0].x, balance(graph)[0].x)


def test_without_scales_nothing_changes() -> None:
    stack = stack_of(testing.random_graph(mlp_spec([2, 5, 1], "tanh")))
    assert not any(g & Gauge.POSITIVE for g in stack.spec.groups[1].gauge)
    assert balanced_form(stack) is stack


@pytest.mark.parametrize("size", [0.0, 1e-30])
def test_cut_off_neurons_vanish_in_the_limit(size: float) -> None:
    spec = SCALED[0]
    stack = stack_of(testing.random_graph(spec))
    blocks = [w.clone() for w in stack.blocks]
    blocks[1][:, :, 0] *= size  # nothing leaves neuron 0 of the first hidden group
    blocks[1][:, 1] *= size  # nothing but the bias enters neuron 1 of the second
    balanced = balanced_scales(Stack(spec, stack.nodes, tuple(blocks)))[1]
    assert all(bool(w.isfinite().all()) for w in (balanced.nodes, *balanced.blocks))
    assert float(balanced.blocks[0][:, 0].abs().max()) < 1e-12
    assert float(balanced.blocks[0][:, 1].abs().max()) > 1e-3


def test_traced_networks_are_refused() -> None:
    traced = convert(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), example_input=torch.zeros(1, 2, 8))
    with pytest.raises(SpecError, match="canonicalize"):
        balance(traced)


def test_half_precision_and_gradients() -> None:
    stack = stack_of(testing.random_graph(SCALED[0], networks=2))
    low = balanced_scales(stack.apply(lambda t: t.bfloat16()))[1]
    assert low.blocks[0].dtype == torch.float32
    weight = stack.blocks[0].clone().requires_grad_()

    def first(w: Tensor) -> Tensor:
        return balanced_scales(Stack(stack.spec, stack.nodes, (w, *stack.blocks[1:])))[1].blocks[2]

    assert torch.autograd.gradcheck(first, weight)
