"""Messages in one step against PyTorch's operators, and whole layers with and without them."""

from __future__ import annotations

import pytest
import torch

from graphnfn import testing
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.nn import library
from graphnfn.nn.blocks import BlockWiring, LoopWiring
from graphnfn.nn.gated import GatedSweep
from graphnfn.nn.messages import message
from graphnfn.nn.state import State
from graphnfn.nn.taps import Sizes

needs_compiler = pytest.mark.skipif(library.library(torch.float64) is None, reason="no C compiler")


@needs_compiler
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bars", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6, 4, 7), (2, 17, 1, 1, 1, 40), (1, 2, 20, 9, 2, 3)])
def test_messages_and_their_gradients(shape, bars, turned):
    batch, dst, src, taps, ranks, width = shape
    torch.manual_seed(0)
    weight = torch.randn(batch, dst, src, taps, dtype=torch.float64)
    mix = torch.randn(taps, ranks, dtype=torch.float64, requires_grad=True) if taps > 1 else None
    gain = torch.randn(ranks, width, dtype=torch.float64, requires_grad=True)
    for leading in {1, batch}:
        x = torch.randn(leading, dst if turned else src, width, dtype=torch.float64, requires_grad=True)
        mixed = (weight.abs() if bars else weight) @ (1.0 if mix is None else mix) if taps > 1 else weight
        mixed = mixed.abs() if bars and taps == 1 else mixed
        how = "bijr,rd,bid->bjd" if turned else "bijr,rd,bjd->bid"
        expected = torch.einsum(how, mixed, gain, x.expand(batch, -1, -1))
        found = message(weight, mix, gain, x, turned=turned, bars=bars)
        torch.testing.assert_close(found, expected)
        wanted = [x, gain, *([] if mix is None else [mix])]
        weights = torch.randn_like(expected)
        for a, b in zip(
            torch.autograd.grad(found, wanted, weights), torch.autograd.grad(expected, wanted, weights), strict=True
        ):
            torch.testing.assert_close(a, b)


@needs_compiler
@pytest.mark.parametrize("spec", [mlp_spec([2, 6, 5, 1], "sin"), small_cnn_spec([2, 4, 3], 3, "relu")])
def test_gated_sweep_with_and_without(spec):
    torch.manual_seed(0)
    (stack,) = testing.random_graph(spec, seed=0, dtype=torch.float64, networks=3).stacks()
    sweep = GatedSweep(5, Sizes.of([spec])).double()
    even = [torch.randn(3, g.size, 5, dtype=torch.float64) for g in spec.groups]
    found = []
    for kind in (BlockWiring, LoopWiring):
        out = sweep(State(even), kind(stack))
        loss = sum(t.square().sum() for t in (*out.even, *out.odd))
        found.append([loss, *torch.autograd.grad(loss, list(sweep.parameters()), allow_unused=True)])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)
