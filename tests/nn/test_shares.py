"""How a field's values are distributed: exact under the whole group, right numbers, volumes, and continuous."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import graphnfn as gn
from graphnfn import testing
from graphnfn.chain import mlp_spec
from graphnfn.nn.answers import fields
from graphnfn.nn.field_reader import CELLS, middles
from graphnfn.nn.shares import LEVELS, RAMP, FieldShares
from graphnfn.nn.taps import Sizes
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack

LINE = mlp_spec([1, 6, 5, 2], "tanh")
PLANE = mlp_spec([2, 6, 5, 1], "sin", omega=30.0)
SPACE = mlp_spec([3, 6, 1], "relu")
CLASSIFIER = mlp_spec([7, 6, 2], "relu")
COORDINATES = pytest.mark.parametrize("spec", [LINE, PLANE, SPACE], ids=["line", "plane", "space"])


def stack_of(spec: NetSpec, networks: int, seed: int = 0) -> Stack:
    (stack,) = testing.random_graph(spec, networks=networks, seed=seed).stacks()
    assert isinstance(stack, Stack)
    return stack


def fitted(spec: NetSpec, out: int = 4) -> FieldShares:
    module = FieldShares(out, Sizes.of([spec])).double()
    module.fit([stack_of(spec, 20, seed=9)])
    return module


def reading(spec: NetSpec, module: FieldShares) -> gn.GraphMetaNet:
    """A model with this module, whose shares weigh much."""
    torch.manual_seed(0)
    model = gn.GraphMetaNet(gn.MetaNetConfig(width=6, layer="gated", out=3, functionals=True), specs=[spec]).double()
    assert model.shares is not None
    model.shares = module
    awake(module)
    return model.eval()


def awake(module: FieldShares) -> None:
    """Give it something to say, which it has to learn first."""
    for perceptron in module.predict.values():
        torch.nn.init.normal_(perceptron.get_parameter("4.weight"))


class OfWeights(FieldShares):
    """Counts weights in place of the field's values: it must fail where there is a symmetry."""

    def seen(self, stack: Stack) -> Tensor:
        return (super().seen(stack) + stack.blocks[0].flatten(1)[:, :1, None]).sort(2).values


def numpys(field: np.ndarray, levels: np.ndarray, ramps: np.ndarray) -> np.ndarray:
    """By the definition, ``[B, outputs, middles] -> [B, outputs, levels]``."""
    steps = (levels[None, :, :, None] - field[:, :, None]) / ramps[None, :, None, None] + 0.5
    return steps.clip(0, 1).mean(3)


@COORDINATES
def test_exact_under_the_group(spec: NetSpec) -> None:
    graph, model = testing.random_graph(spec, networks=3), reading(spec, fitted(spec, 3))
    testing.assert_equivariant(model, graph)
    torch.testing.assert_close(model.forward_on_edges(graph), model(graph), rtol=1e-9, atol=1e-9)
    shares = model.shares
    model.shares = None
    assert not torch.allclose(model(graph), reading(spec, shares)(graph)), "they are read"  # type: ignore[arg-type]


@COORDINATES
def test_weights_are_caught(spec: NetSpec) -> None:
    wrong = OfWeights(3, Sizes.of([spec])).double()
    wrong.fit([stack_of(spec, 20, seed=9)])
    with pytest.raises(AssertionError):
        testing.assert_equivariant(reading(spec, wrong), testing.random_graph(spec, networks=2))


@COORDINATES
def test_numbers_are_those_of_numpy(spec: NetSpec) -> None:
    stack, module, rank = stack_of(spec, 5), fitted(spec), spec.groups[0].size
    field = fields(stack, middles(rank).double(), spec.groups[-1].size)
    levels, ramps = module.get_buffer(f"levels{rank}"), module.get_buffer(f"ramp{rank}")
    got = module.numbers(module.seen(stack), rank)
    want = numpys(field.numpy(), levels.numpy(), ramps.numpy()).reshape(5, -1)
    np.testing.assert_allclose(got, want, atol=1e-12)
    assert 0.02 < want.mean() < 0.98
    awake(module)
    part = (got - module.get_buffer(f"mean{rank}")) @ module.get_buffer(f"basis{rank}")
    torch.testing.assert_close(module([stack]), module.predict[str(rank)](part))


@COORDINATES
def test_levels_are_0_and_quantiles(spec: NetSpec) -> None:
    """Of training networks' values; their shares have components of deviation 1 or, where they hardly vary, less."""
    stack, module, rank = stack_of(spec, 20, seed=9), fitted(spec), spec.groups[0].size
    values = module.seen(stack)
    levels = module.get_buffer(f"levels{rank}")
    assert not levels[:, 0].any()
    together = values.transpose(0, 1).flatten(1)
    at_most = (together[:, None] <= levels[:, 1:, None]).double().mean(2)
    want = (torch.arange(1, LEVELS) / LEVELS).double().expand_as(at_most)
    torch.testing.assert_close(at_most, want, atol=2 / together.shape[1], rtol=0)
    torch.testing.assert_close(module.get_buffer(f"ramp{rank}"), RAMP * together.std(1))
    parts = (module.numbers(values, rank) - module.get_buffer(f"mean{rank}")) @ module.get_buffer(f"basis{rank}")
    deviations = parts.std(0, correction=0)
    assert float(deviations.max()) < 1.001 and float(deviations[:3].min()) > 0.99


def test_a_volume_is_one_of_them() -> None:
    """The share of space with a negative value, which a linear functional of the field does not give."""
    stack, module = stack_of(SPACE, 40), fitted(SPACE)
    field = fields(stack, middles(3).double(), 1)[:, 0]
    volume = (field < 0).double().mean(1)
    assert float(volume.std()) > 0.2
    assert float((module.numbers(module.seen(stack), 3)[:, 0] - volume).abs().max()) < 0.02
    linear = torch.stack([field.mean(1), torch.ones(40)], 1)
    left = linear @ torch.linalg.lstsq(linear, volume[:, None]).solution - volume[:, None]
    assert float(left.abs().max()) > 0.1


def test_rounding_does_not_show() -> None:
    """Also of networks whose values are all at a level, at which a step would jump."""
    module = fitted(SPACE)
    levels = module.get_buffer("levels3")
    values = levels[:, 10:13].T[:, :, None].expand(3, 1, 12**3)
    before = module.numbers(values, 3)
    most = 1e-9 / float(module.get_buffer("ramp3").min())
    for moved in (values + 1e-9, values - 1e-9):
        assert float((module.numbers(moved, 3) - before).abs().max()) < 1.01 * most < 1e-5
    assert (values <= levels[:, 10, None]).sum() == 12**3 and not ((values + 1e-9) <= levels[:, 10, None]).any()


def test_gradients() -> None:
    module = fitted(LINE)
    values = module.seen(stack_of(LINE, 2)).requires_grad_()
    (got,) = torch.autograd.grad(module.numbers(values, 1).sum(), values)
    levels, ramps = module.get_buffer("levels1"), module.get_buffer("ramp1")
    on_ramp = ((levels[None, :, :, None] - values[:, :, None]).abs() < ramps[:, None, None] / 2).sum(2)
    torch.testing.assert_close(got, -on_ramp / ramps[:, None] / CELLS[1])
    assert on_ramp.any()


def test_silent_at_first_and_without_a_fit() -> None:
    module = FieldShares(4, Sizes.of([PLANE]))
    stack = testing.random_graph(PLANE, networks=3, dtype=torch.float32).stacks()
    assert not module(stack).any()
    module.fit(stack)  # type: ignore[arg-type]
    assert not module(stack).any()
    awake(module)
    assert bool(module(stack).any(1).all())


def test_other_networks_of_a_mixed_batch_have_none() -> None:
    module = FieldShares(4, Sizes.of([PLANE, CLASSIFIER])).double()
    stacks = [stack_of(CLASSIFIER, 2), stack_of(PLANE, 2)]
    module.fit(stacks)
    awake(module)
    found = module(stacks)
    assert not found[:2].any() and bool(found[2:].any(1).all())
