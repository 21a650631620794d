"""Canonical forms: idempotent, function preserving, constant on orbits, smooth, safe at the edges of the floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import graphnfn.symmetry.canonical as canonical_module
from graphnfn import testing
from graphnfn.activations import Activation, Gauge
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError, SymmetryError
from graphnfn.functional import run
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.symmetry import act, balance, canonical_scales, canonical_signs, canonicalize, random_element
from graphnfn.symmetry.balanced import balanced_scales
from graphnfn.symmetry.canonical import CanonicalScales
from graphnfn.symmetry.element import GroupAction, GroupElement

Specs = Callable[..., st.SearchStrategy[NetSpec]]
Form = Callable[[NeuralGraph], tuple[NeuralGraph, Any]]
RELU = mlp_spec([3, 6, 5, 2], "relu")


def tensors(graph: NeuralGraph) -> list[Tensor]:
    return [t for s in graph.stacks() for t in (s.nodes, *s.blocks)]


def assert_same(a: NeuralGraph, b: NeuralGraph, rtol: float = 1e-9) -> None:
    for x, y in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=1e-12)


FORMS = pytest.mark.parametrize("form", [canonicalize, balance])


@FORMS
@given(data=st.data())
def test_canonical_form(form: Form, specs: Specs, data: st.DataObject) -> None:
    spec = data.draw(specs())
    graph = testing.random_graph(spec, networks=2)
    canonical, element = form(graph)
    testing.assert_same_function(canonical, graph, rtol=1e-9)
    assert_same(act(element, graph), canonical)
    assert_same(act(element.inverse(), canonical), graph)
    assert_same(form(canonical)[0], canonical)


@FORMS
@given(data=st.data())
def test_constant_on_orbits_of_positive_scales(form: Form, specs: Specs, data: st.DataObject) -> None:
    spec = data.draw(specs())
    graph = testing.random_graph(spec, networks=2)
    element = random_element(spec, 6.0, 0, networks=2)
    for name, action in element.actions.items():  # scales only: signs and permutations are left to the layers
        straight = torch.arange(action.perm.shape[-1]).expand_as(action.perm)
        element.actions[name] = type(action)(straight, action.scale, action.sign.abs(), action.half_turns)
    assert_same(form(act(element, graph))[0], form(graph)[0], rtol=1e-7)


@pytest.mark.parametrize("spec", [RELU, small_cnn_spec([1, 4, 5], 3, "leaky_relu"), mlp_spec([2, 5, 1], "abs")])
def test_incoming_norms_are_one(spec: NetSpec) -> None:
    _, stack = canonical_scales(testing.random_graph(spec, networks=2).stacks()[0])
    for i, group in enumerate(spec.groups):
        if group.role == "hidden":
            square = sum(stack.blocks[b].square().sum((2, 3)) for b in spec.incoming[i])
            norm = square + stack.group(i)[..., 0].square()
            torch.testing.assert_close(norm, torch.ones_like(norm))


def test_only_neurons_with_a_scale_are_rescaled() -> None:
    rows = [Activation(n) for n in ("relu", "tanh", "gelu", "identity", "sin")]
    graph = testing.random_graph(mlp_spec([2, 5, 1], [rows]))
    _, element = canonicalize(graph)
    scale = element.actions["layers.0"].scale
    assert (scale[[1, 2, 4]] == 1).all()
    assert (scale[[0, 3]] != 1).all()
    assert canonicalize(testing.random_graph(mlp_spec([2, 5, 1], "gelu")))[1].actions == {}


def dead_network(rest: float = 0.0, dtype: torch.dtype = torch.float64) -> NeuralGraph:
    graph = testing.random_graph(RELU, dtype=dtype)
    stack = graph.stacks()[0].apply(torch.clone)
    stack.blocks[0][0, 2] *= rest
    stack.nodes[0, RELU.span("layers.0").start + 2] = 0
    stack.blocks[1][0, :, 4] = 0
    return NeuralGraph.from_stacks([stack])


def test_dead_neurons_are_left_alone() -> None:
    graph = dead_network()
    canonical, element = canonicalize(graph)
    assert all(torch.isfinite(t).all() for t in tensors(canonical))
    assert float(element.actions["layers.0"].scale[2]) == 1
    testing.assert_same_function(canonical, graph)
    nothing = graph.map_stacks(lambda s: s.apply(torch.zeros_like))
    assert_same(canonicalize(nothing)[0], nothing)


def test_what_weight_decay_leaves_of_a_neuron_counts_as_dead() -> None:
    graph = dead_network(1e-41, torch.float32)
    assert float(graph.stacks()[0].blocks[0][0, 2].abs().max()) > 0
    canonical, element = canonicalize(graph)
    assert all(torch.isfinite(t).all() for t in tensors(canonical))
    assert float(element.actions["layers.0"].scale[2]) == 1


def test_dead_neurons_have_finite_gradients() -> None:
    stack = dead_network().stacks()[0].apply(lambda t: t.detach().requires_grad_())
    _, canonical = canonical_scales(stack)
    total = torch.stack([b.sin().sum() for b in canonical.blocks]).sum() + canonical.nodes.sin().sum()
    for grad in torch.autograd.grad(total, [stack.nodes, *stack.blocks]):
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1e-6, 1.0, 3e3])
def test_low_precision_stays_finite(dtype: torch.dtype, size: float) -> None:
    """Squares of these weights leave the range of fp16, and so do the reciprocals of their norms."""
    graph = testing.random_graph(RELU, dtype=torch.float64).map_stacks(
        lambda s: Stack(s.spec, s.nodes * size, (s.blocks[0] * size, *s.blocks[1:]))
    )
    graph = graph.astype(dtype)
    scales, stack = canonical_scales(graph.stacks()[0])
    assert all(torch.isfinite(t).all() for t in (*scales.norm, stack.nodes, *stack.blocks))
    canonical, _ = canonicalize(graph)
    assert all(torch.isfinite(t).all() for t in tensors(canonical))
    assert tensors(canonical)[0].dtype == dtype
    hidden = canonical.stacks()[0].blocks[0].double().square().sum((2, 3))
    bias = canonical.stacks()[0].nodes[:, RELU.span("layers.0"), 0].double().square()
    torch.testing.assert_close(hidden + bias, torch.ones_like(bias), rtol=0.05, atol=0)


def test_smooth() -> None:
    spec = mlp_spec([2, 3, 2, 1], "relu")
    stack = testing.random_graph(spec).stacks()[0]

    def weights(nodes: Tensor, *blocks: Tensor) -> tuple[Tensor, ...]:
        _, canonical = canonical_scales(Stack(spec, nodes, blocks))
        return (canonical.nodes, *canonical.blocks)

    assert torch.autograd.gradcheck(weights, [t.clone().requires_grad_() for t in (stack.nodes, *stack.blocks)])


def test_mixed_batches_are_refused() -> None:
    batch = NeuralGraph.collate([testing.random_graph(RELU), testing.random_graph(mlp_spec([3, 4, 2], "relu"))])
    with pytest.raises(SpecError, match="mixes architectures"):
        canonicalize(batch)


# ---- signs ----------------------------------------------------------------------------------------


def flips_only(spec: NetSpec, seed: int) -> Callable[[NeuralGraph], NeuralGraph]:
    element = random_element(spec, 4.0, seed, networks=2, permute=False)
    return lambda graph: act(element, graph)


@given(data=st.data())
def test_canonical_signs(specs: Specs, data: st.DataObject) -> None:
    spec = data.draw(specs().filter(lambda s: any(g & Gauge.SIGN for group in s.groups for g in group.gauge)))
    graph = testing.random_graph(spec, networks=2)
    canonical, element = canonical_signs(graph)
    testing.assert_same_function(canonical, graph, rtol=1e-9)
    assert_same(act(element.inverse(), canonical), graph)
    assert_same(canonical_signs(canonical)[0], canonical)
    moved = flips_only(spec, 0)(graph)
    assert_same(canonicalize(canonical_signs(moved)[0])[0], canonicalize(canonical)[0], rtol=1e-7)


def test_sign_flips_are_really_undone() -> None:
    spec = mlp_spec([3, 16, 16, 2], "tanh")
    graph = testing.random_graph(spec, networks=2)
    moved = flips_only(spec, 1)(graph)
    assert not torch.allclose(moved.x, graph.x)
    assert_same(canonical_signs(moved)[0], canonical_signs(graph)[0])


def test_signs_follow_permutations() -> None:
    spec = mlp_spec([3, 8, 2], "tanh")
    graph = testing.random_graph(spec)
    element = random_element(spec, seed=3)
    canonical, moved = canonical_signs(graph)[0], canonical_signs(act(element, graph))[0]
    order = element.actions["layers.0"].perm
    torch.testing.assert_close(moved.stacks()[0].blocks[0], canonical.stacks()[0].blocks[0][:, order])


def test_nothing_to_choose_is_an_error() -> None:
    with pytest.raises(SymmetryError, match="nothing to do"):
        canonical_signs(testing.random_graph(RELU))


def test_canonical_forms_leave_their_input_alone() -> None:
    graph = testing.random_graph(mlp_spec([2, 5, 1], "abs"))
    for canonical_form in (canonicalize, canonical_signs):
        testing.assert_pure(lambda g, f=canonical_form: f(g)[0], graph)


def test_canonical_outputs_are_the_same_in_float32() -> None:
    graph = testing.random_graph(RELU, dtype=torch.float32)
    inputs = torch.randn(16, 3)
    torch.testing.assert_close(run(canonicalize(graph)[0], inputs), run(graph, inputs), rtol=1e-4, atol=1e-5)


def test_dead_neurons_leave_no_trace_of_their_scale() -> None:
    """Nothing fixes the scale of a neuron without incoming weights, so its outgoing ones must not be read."""

    def read(graph: NeuralGraph) -> Tensor:
        return torch.stack([b.abs().sum() for b in canonical_scales(graph.stacks()[0])[1].blocks]).sum()[None]

    graph = dead_network()
    assert testing.assert_equivariant(read, graph) < 1e-12
    _, stack = canonical_scales(graph.stacks()[0])
    testing.assert_same_function(NeuralGraph.from_stacks([stack]), graph)


def decayed_network(into: float, out: float) -> NeuralGraph:
    """A network in float32 with a neuron of so small weights that other scales make them subnormal."""
    stack = testing.random_graph(RELU, dtype=torch.float32).stacks()[0].apply(torch.clone)
    stack.blocks[0][0, 2] *= into
    stack.nodes[0, RELU.span("layers.0").start + 2] *= into
    stack.blocks[1][0, :, 2] *= out
    return NeuralGraph.from_stacks([stack])


def largest_shift_of_the_form(graph: NeuralGraph, form: Callable[[Stack], tuple[CanonicalScales, Stack]]) -> float:
    spec = graph.spec
    forms = [form(graph.stacks()[0])[1]]
    for seed in range(12):
        element = random_element(spec, decades=6.0, seed=seed, permute=False)
        forms.append(form(act(element, graph).stacks()[0])[1])
    return max(float((a - b).abs().max()) for f in forms[1:] for a, b in zip(f.blocks, forms[0].blocks, strict=True))


@pytest.mark.parametrize("form", [canonical_scales, balanced_scales])
@pytest.mark.parametrize("size", [(1e-43, 1e-43), (1e-37, 1e-3), (1e-37, 1.0), (1e-20, 1e-42), (1e-20, 1e-3)])
def test_lost_digits_of_subnormal_weights_are_not_read(
    form: Callable[[Stack], tuple[CanonicalScales, Stack]], size: tuple[float, float]
) -> None:
    graph = decayed_network(*size)
    assert largest_shift_of_the_form(graph, form) < 1e-5
    testing.assert_same_function(NeuralGraph.from_stacks([form(graph.stacks()[0])[1]]), graph, rtol=1e-4)


def test_what_decayed_layer_by_layer_is_heard_under_other_scales() -> None:
    """Of a neuron of norm 1e-30 a small one hears 1e-42, 1e-14 of its norm; scaled by 1e-5 that is 0 in float32."""
    spec = mlp_spec([3, 4, 4, 2], "relu")
    stack = testing.random_graph(spec, dtype=torch.float32).stacks()[0].apply(torch.clone)
    stack.blocks[0][0, 2] *= 1e-30
    stack.nodes[0, spec.span("layers.0").start + 2] *= 1e-30
    stack.blocks[1][0, :, 2] = 0
    stack.blocks[1][0, 1] *= 1e-28
    stack.blocks[1][0, 1, 2] = 1e-12
    stack.nodes[0, spec.span("layers.1").start + 1] *= 1e-28
    stack.blocks[2][0, :, 1] *= 1e14
    graph = NeuralGraph.from_stacks([stack])
    plain = GroupAction.identity(4)
    scale = torch.tensor([1.0, 1e-5, 1.0, 1.0], dtype=torch.float64)
    element = GroupElement(spec, {"layers.1": GroupAction(plain.perm, scale, plain.sign, plain.half_turns)})
    one, other = (canonical_scales(g.stacks()[0])[1].blocks[0][0, 2] for g in (graph, act(element, graph)))
    assert float(one.abs().max()) > 0.1
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [(1e-37, 1e-3), (1e-37, 1.0)])
def test_lost_digits_would_be_seen(size: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where every neuron counts, the forms of equal functions differ."""
    monkeypatch.setattr(canonical_module, "NEGLIGIBLE", 0.0)
    assert largest_shift_of_the_form(decayed_network(*size), canonical_scales) > 1e-3


def test_neurons_behind_which_nobody_listens_are_dead_together() -> None:
    """A neuron that only a dead one hears is dead, too; one that anybody hears is not."""
    stack = testing.random_graph(mlp_spec([3, 4, 4, 2], "relu"), dtype=torch.float32).stacks()[0].apply(torch.clone)
    stack.blocks[2][0, :, 1] = 0
    stack.blocks[1][0, [0, 2, 3], 0] = 0  # only neuron 1 of the second layer hears neuron 0 of the first
    _, canonical = canonical_scales(stack)
    silent = [[bool((block[0, i] == 0).all()) for i in range(4)] for block in canonical.blocks[:2]]
    assert silent == [[True, False, False, False], [False, True, False, False]]
