"""Compiled runs of networks on inputs against the general path, spec by spec, with gradients of the inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphnfn import testing
from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
from graphnfn.nn import answers as module
from graphnfn.nn import library
from graphnfn.nn.answers import activity, answers
from graphnfn.nn.course import course_of
from graphnfn.spec import Block, NetSpec, SpatialOp

needs_compiler = pytest.mark.skipif(library.library(torch.float64) is None, reason="no C compiler")
POOL = SpatialOp("max_pool", (2,), (2,), (0,), (1,))


def convolutions(rank: int, activation: str = "tanh", fold: str = "flatten", norm: bool = False) -> NetSpec:
    """Two convolutions with padding and dilation on 7 places an axis, and a dense layer."""
    chain = ChainBuilder(2)
    chain.conv("a", (3, 2, *[3] * rank), bias="a.bias", stride=[2] * rank, padding=[1] * rank)
    if norm:
        chain.norm({"norm_weight": "a.gain"}, 1e-5)
    chain.activation(Activation(activation))
    chain.conv("b", (9, 3, *[2] * rank), bias="b.bias", padding=[1] * rank, dilation=[2] * rank)
    chain.activation(Activation(activation))
    chain.spatial(SpatialOp(fold))
    chain.linear("c", (4, 9 if fold == "global_avg_pool" else 9 * 4**rank), bias="c.bias")
    return chain.build()


def with_shortcut(spec: NetSpec) -> NetSpec:
    """A block from the inputs to the outputs on top."""
    (into, *_, out), sizes = spec.groups, (spec.groups[-1].size, spec.groups[0].size)
    shortcut = Block(param="cut", src=into.id, dst=out.id, shape=sizes, view=sizes, dims=(0, 1), kind="linear")
    return replace(spec, blocks=(shortcut, *spec.blocks))


def pooled_before_the_activation() -> NetSpec:
    chain = ChainBuilder(2)
    chain.conv("a", (3, 2, 3), bias="a.bias")
    chain.spatial(POOL)
    chain.activation(Activation("relu"))
    chain.spatial(SpatialOp("global_avg_pool"))
    chain.linear("c", (4, 3))
    return chain.build()


KNOWN = {
    "small cnn": (small_cnn_spec([2, 8, 5], 3, "relu", stride=2), 2),
    "line": (convolutions(1, "sin"), 1),
    "plane": (convolutions(2, "relu"), 2),
    "space": (convolutions(3), 3),
    "mean": (convolutions(2, "cos", "global_avg_pool"), 2),
    "siren": (mlp_spec([2, 8, 5, 1], "sin", omega=30.0), 0),
    "identity": (mlp_spec([2, 4, 3], "identity"), 0),
    "shortcut": (with_shortcut(mlp_spec([2, 4, 3], "tanh")), 0),
    "no hidden neurons": (mlp_spec([2, 3], "tanh"), 0),
}
GENERAL = {
    "max pool": (pooled_before_the_activation(), 1),
    "norm": (convolutions(1, "relu", norm=True), 1),
    "gelu": (mlp_spec([2, 4, 3], "gelu"), 0),
    "per neuron": (mlp_spec([2, 5, 3], [[Activation("relu")] * 2 + [Activation("cos")] * 3]), 0),
}


def problem(spec: NetSpec, rank: int, samples: int = 5, networks: int = 3, dtype: torch.dtype = torch.float64):
    stack = testing.random_graph(spec, networks=networks, dtype=dtype).stacks()[0]
    torch.manual_seed(0)
    return stack, torch.randn(samples, 2, *[7] * rank, dtype=dtype, requires_grad=True)


def results(stack, inputs) -> list[torch.Tensor]:
    """Answers, activity, and the inputs' gradient of a random function of both."""
    answer, seen = activity(stack, inputs)
    torch.manual_seed(1)
    loss = (answer * torch.randn(answer.shape, dtype=answer.dtype)).sum()
    loss = loss + (seen * torch.randn(seen.shape, dtype=seen.dtype)).sum()
    return [answer, seen, *torch.autograd.grad(loss, [inputs])]


def general(monkeypatch, function, *args, **kwargs):
    with monkeypatch.context() as patch:
        patch.setattr(module, "_course", lambda *_, **__: None)
        return function(*args, **kwargs)


@needs_compiler
@pytest.mark.parametrize("samples", [1, 8, 37])
@pytest.mark.parametrize("name", KNOWN)
def test_same_numbers_and_gradients_as_the_general_path(name, samples, monkeypatch):
    stack, inputs = problem(*KNOWN[name], samples)
    assert module._course(stack, inputs) is not None
    for found, expected in zip(results(stack, inputs), general(monkeypatch, results, stack, inputs), strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        expected = general(monkeypatch, answers, stack, inputs)
        torch.testing.assert_close(answers(stack, inputs), expected, rtol=1e-9, atol=1e-11)


@needs_compiler
@pytest.mark.parametrize("name", ["small cnn", "space", "siren"])
def test_single_precision(name, monkeypatch):
    stack, inputs = problem(*KNOWN[name], 16, dtype=torch.float32)
    for found, expected in zip(results(stack, inputs), general(monkeypatch, results, stack, inputs), strict=True):
        scale = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale)


@needs_compiler
@pytest.mark.parametrize("name", ["plane", "space", "mean", "shortcut"])
def test_gradients_by_finite_differences(name):
    stack, inputs = problem(*KNOWN[name], 2, networks=2)
    assert torch.autograd.gradcheck(lambda x: activity(stack, x), (inputs,), fast_mode=True)


@needs_compiler
def test_the_comparison_sees_a_small_error(monkeypatch):
    """Negative control: two taps of one block in each other's place."""
    stack, inputs = problem(*KNOWN["plane"])
    expected = general(monkeypatch, results, stack, inputs)
    course = course_of(stack.spec, (7, 7))
    assert course is not None
    for swapped in (2, 5):  # on the way ahead, on the way back
        tables = list(course.entries[1])
        tables[swapped] = torch.tensor([1, 0, 2, 3])[tables[swapped]]
        wrong = replace(course, entries=(course.entries[0], tuple(tables), *course.entries[2:]))
        monkeypatch.setattr(module, "_course", lambda *_, wrong=wrong, **__: wrong)
        found = results(stack, inputs)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(found[2], expected[2], rtol=1e-6, atol=1e-6)
        assert torch.allclose(found[1], expected[1]) == (swapped == 5)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_compiler), False])
def test_silent_channels_give_no_gradient(compiled, monkeypatch):
    stack, inputs = problem(*KNOWN["small cnn"])
    stack.nodes[:, stack.spec.span(1), 0] = -1e3
    found = results(stack, inputs) if compiled else general(monkeypatch, results, stack, inputs)
    assert not found[1][:, :8].any() and not found[2].any() and all(t.isfinite().all() for t in found)


@pytest.mark.parametrize("name", GENERAL)
def test_what_the_compiled_functions_do_not_know(name):
    spec, rank = GENERAL[name]
    assert course_of(spec, (7,) * rank) is None
    stack, inputs = problem(spec, rank)
    assert all(t.isfinite().all() for t in results(stack, inputs))


def test_outputs_that_mix_neurons_are_left_to_the_general_path():
    spec = mlp_spec([2, 4, 3], "tanh")
    last = replace(spec.groups[-1], activations=(Activation("softmax"),))
    stack, inputs = problem(replace(spec, groups=(*spec.groups[:-1], last)), 0)
    torch.testing.assert_close(answers(stack, inputs).sum(1), torch.ones(3, 5, dtype=torch.float64))


def test_learned_weights_types_and_missing_compilers(monkeypatch):
    stack, inputs = problem(*KNOWN["siren"])
    learned = stack.apply(lambda t: t.clone().requires_grad_())
    assert module._course(learned, inputs) is None
    assert all(g.any() for g in torch.autograd.grad(answers(learned, inputs).sum(), learned.blocks))
    monkeypatch.setattr(module, "LARGEST", 39)
    assert module._course(stack, inputs) is None
    monkeypatch.undo()
    monkeypatch.setattr(module, "library", lambda _: None)
    assert module._course(stack, inputs) is None
