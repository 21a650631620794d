"""Ways to write the same chain: modules, functions, methods; each is read as what it computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphnfn as gn
from converters import convert, restore
from graphnfn.activations import Activation
from graphnfn.functional import run


class Forward(nn.Module):
    """``function(x, *layers)`` as a module."""

    def __init__(self, function, *layers) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x, mask=None):
        return self.function(x, *self.layers)


class OwnLinear(nn.Linear):
    """A subclass that changes nothing but its name, as people write them for an initialisation."""


def dense(function):
    return Forward(lambda x, a, b: b(function(a(x))), nn.Linear(3, 4), nn.Linear(4, 2)), (3,)


def image(function, inputs=8):
    return Forward(lambda x, c, d: d(function(c(x))), nn.Conv2d(1, 2, 3), nn.Linear(inputs, 2)), (1, 8, 8)


FORMS = {
    "F.relu": dense(F.relu),
    "F.relu inplace": dense(lambda z: F.relu(z, inplace=True)),
    "torch.relu_": dense(torch.relu_),
    ".relu()": dense(lambda z: z.relu()),
    ".relu_()": dense(lambda z: z.relu_()),
    "F.hardtanh 0..6": dense(lambda z: F.hardtanh(z, 0.0, 6.0)),
    "F.leaky_relu": dense(lambda z: F.leaky_relu(z, negative_slope=0.3)),
    "F.elu": dense(lambda z: F.elu(z, 0.5)),
    "F.gelu": dense(lambda z: F.gelu(z, approximate="tanh")),
    "F.softplus": dense(lambda z: F.softplus(z, 2.0)),
    "F.softshrink": dense(lambda z: F.softshrink(z, 0.1)),
    "F.silu": dense(F.silu),
    "torch.tanh": dense(torch.tanh),
    ".sigmoid()": dense(lambda z: z.sigmoid()),
    "abs()": dense(abs),
    "torch.atan": dense(torch.atan),
    "torch.erf": dense(torch.erf),
    "torch.asinh": dense(torch.asinh),
    "relu ** 2": dense(lambda z: F.relu(z) ** 2),
    "relu pow": dense(lambda z: F.relu(z).pow(3)),
    "relu square": dense(lambda z: torch.square(F.relu(z))),
    "sin(30 z)": dense(lambda z: torch.sin(30 * z)),
    "sin(z * -3)": dense(lambda z: (z * -3.0).sin()),
    "cos(mul)": dense(lambda z: torch.cos(torch.mul(z, 2.0))),
    "F.dropout": dense(lambda z: F.dropout(F.relu(z), 0.5, training=False)),
    "F.log_softmax": (Forward(lambda x, a: F.log_softmax(a(x), dim=1), nn.Linear(3, 4)), (3,)),
    "softmax method": (Forward(lambda x, a: a(x).softmax(-1), nn.Linear(3, 4)), (3,)),
    "F.max_pool2d": image(lambda z: F.max_pool2d(z, 3, 2, 1).flatten(1), 18),
    "max_pool ceil": image(lambda z: torch.max_pool2d(z, kernel_size=4, ceil_mode=True).flatten(1)),
    "avg_pool": image(lambda z: F.avg_pool2d(z, 4, 3, 1, False, False).flatten(1)),
    "adaptive max": image(lambda z: F.adaptive_max_pool2d(torch.tanh(z), 2).flatten(1)),
    "mean": image(lambda z: z.mean((2, 3)), 2),
    "mean keepdim": image(lambda z: torch.mean(z, dim=(-1, -2), keepdim=True).flatten(1), 2),
    "torch.flatten": image(lambda z: torch.flatten(z, 1, -1), 72),
    "view(-1, k)": image(lambda z: z.view(-1, 72), 72),
    "view(size, -1)": image(lambda z: F.relu(z).view(z.size(0), -1), 72),
    "reshape(shape, k)": image(lambda z: F.relu(z).reshape((z.shape[0], 72)), 72),
    "flatten before relu": image(lambda z: F.relu(z.flatten(1)), 72),
    "view of the input": (Forward(lambda x, a: a(x.view(-1, 64)), nn.Linear(64, 2)), (1, 8, 8)),
    "flatten of the input": (nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 2)), (3, 4, 4)),
    "pool of the input": (nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 2, 3), nn.Tanh()), (1, 8, 8)),
    "convolutions only": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)), (1, 8, 8)),
    "softmax over channels": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softmax(1)), (1, 8, 8)),
    "global pool last": (
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LogSoftmax(1)), (1, 8, 8)
    ),
    "flatten last": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten()), (1, 8, 8)),
    "rectangle": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)), (1, 8, 5)),
    "same, dilated": (nn.Sequential(nn.Conv1d(2, 3, 3, dilation=2, padding="same"), nn.ReLU()), (2, 8)),
    "one Linear": (nn.Linear(3, 2), (3,)),
    "one Conv": (nn.Conv2d(1, 2, 3), (1, 8, 8)),
    "subclass": (nn.Sequential(OwnLinear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_example", [False, True])
def test_read_as_what_it_computes(form, with_example):
    module, shape = FORMS[form]
    module = module.double().eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = convert(module, example_input=x if with_example else None)
    back = restore(graph, like=module)
    assert all(torch.equal(back[k], v) for k, v in before.items()) and list(back) == list(before)
    with torch.no_grad():
        expected = module(x)
        got = run(graph, x)[0]
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
        moved = gn.act(gn.random_element(graph.spec, decades=2.0, seed=1), graph)
        try:
            module.load_state_dict(restore(moved, like=module))
            torch.testing.assert_close(module(x), expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))
        finally:
            module.load_state_dict(before)


def test_shapes_from_an_example():
    module, shape = FORMS["rectangle"]
    graph = convert(module.double(), example_input=torch.zeros(1, *shape, dtype=torch.float64))
    assert graph.spec.input_shape == (1, 8, 5) and graph.spec.blocks[1].taps == (6, 3)
    module, shape = FORMS["flatten before relu"]
    graph = convert(module.double(), example_input=torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    assert graph.spec.blocks[1].taps == (6, 6)
    coordinates = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    assert convert(coordinates, example_input=torch.zeros(1, 100, 2)).spec.input_shape == (2,)


def test_an_example_run_leaves_modes_alone():
    norm = nn.BatchNorm1d(3)
    module = nn.Sequential(nn.Linear(3, 3), norm, nn.ReLU(), nn.Linear(3, 2)).train()
    norm.eval()
    mean = norm.state_dict()["running_mean"].clone()
    convert(module, example_input=torch.ones(4, 3))
    assert [m.training for m in module.modules()] == [True, True, False, True, True]
    assert torch.equal(norm.state_dict()["running_mean"], mean)


def test_one_slope_for_several_layers():
    shared = nn.PReLU()
    module = nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared, nn.Linear(3, 2)).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    graph = convert(module)
    moved = gn.act(gn.random_element(graph.spec, decades=2.0, seed=0), graph)
    with torch.no_grad():
        expected = module(x)
        module.load_state_dict(restore(moved, like=module))
        torch.testing.assert_close(module(x), expected, rtol=1e-9, atol=1e-12)
    assert all(g.activations == (Activation("prelu"),) for g in graph.spec.groups[1:3])
