"""Random MLPs and CNNs: converted, restored to the bit, run, moved and loaded back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import graphnfn as gn
from converters import ConversionError, convert, restore
from graphnfn.functional import run

ACTIVATIONS = [
    nn.ReLU, nn.Tanh, lambda: nn.LeakyReLU(0.2), nn.PReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.ELU, nn.Softsign,
    nn.Tanhshrink, nn.Softshrink, nn.Hardtanh, nn.Identity, nn.Softplus, nn.Mish, nn.Hardswish,
]  # fmt: skip


@st.composite
def mlps(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    layers: list[nn.Module] = []
    for i, (into, out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        layers.append(nn.Linear(into, out, bias=draw(st.booleans())))
        if i == len(sizes) - 2:
            break
        if draw(st.booleans()):
            layers.append(nn.BatchNorm1d(out, affine=draw(st.booleans())))
        layers.append(draw(st.sampled_from(ACTIVATIONS))())
        if draw(st.booleans()):
            layers.append(nn.Dropout())
    return _nested(draw, layers), (sizes[0],)


@st.composite
def cnns(draw):
    two_d = draw(st.booleans())
    conv, norm, pools = (
        (nn.Conv2d, nn.BatchNorm2d, (nn.MaxPool2d, nn.AvgPool2d))
        if two_d
        else (nn.Conv1d, nn.BatchNorm1d, (nn.MaxPool1d, nn.AvgPool1d))
    )
    side, into = draw(st.integers(7, 10)), draw(st.integers(1, 3))
    shape, layers = (into, *(side,) * (2 if two_d else 1)), []
    for _ in range(draw(st.integers(1, 3))):
        out, kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 2))
        padding = draw(st.integers(kernel // 2, kernel // 2 + 1))
        layers.append(conv(into, out, kernel, stride, padding, bias=draw(st.booleans())))
        into = out
        pool_first = draw(st.booleans())
        pool = draw(st.sampled_from([None, *pools]))
        if pool_first and pool:
            layers.append(pool(2, 1, 1))
        if draw(st.booleans()):
            layers.append(norm(out))
        layers.append(nn.PReLU(out) if draw(st.booleans()) else draw(st.sampled_from(ACTIVATIONS))())
        if pool and not pool_first:
            layers.append(pool(2, 1, 1))
    with torch.no_grad():
        positions = nn.Sequential(*layers).eval()(torch.zeros(1, *shape)).flatten(1).shape[1]
    if draw(st.booleans()):
        layers += [nn.Flatten(), nn.Linear(positions, 3)]
    else:
        layers += [(nn.AdaptiveAvgPool2d if two_d else nn.AdaptiveAvgPool1d)(1), nn.Flatten(), nn.Linear(into, 3)]
    return _nested(draw, layers), shape


def _nested(draw, layers):
    cut = draw(st.integers(0, len(layers) - 1))
    return nn.Sequential(*layers[:cut], nn.Sequential(*layers[cut:])) if cut else nn.Sequential(*layers)


def _pooled_before_norm(module):
    names = [type(m).__name__ for m in module.modules() if not isinstance(m, nn.Sequential)]
    return any("Pool" in a and "BatchNorm" in b for a, b in zip(names, names[1:], strict=False))


def _randomise(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * (1.0 if value.dim() < 2 else 0.5))
            if name.endswith("running_var"):
                value.abs_().add_(0.5)


@settings(max_examples=240, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(network=st.one_of(mlps(), cnns()), seed=st.integers(0, 2**31))
def test_round_trip_function_and_action(network, seed):
    module, shape = network
    module = module.double().eval()
    _randomise(module, seed)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    graph = convert(module, example_input=x)
    back = restore(graph, like=module)
    assert list(back) == list(before)
    for name, value in before.items():
        assert torch.equal(back[name], value) and back[name].dtype == value.dtype, name
    with torch.no_grad():
        expected = module(x)
        scale = expected.abs().max() + 1e-30
        assert (run(graph, x)[0] - expected).abs().max() <= 1e-9 * scale
        moved = gn.act(gn.random_element(graph.spec, decades=2.0, seed=seed), graph)
        module.load_state_dict(restore(moved, like=module))
        assert (module(x) - expected).abs().max() <= 1e-8 * scale
        module.load_state_dict(before)
        if _pooled_before_norm(module):
            with pytest.raises(ConversionError, match="folded"):
                convert(module, fold_norm=True)
        else:
            folded = convert(module, example_input=x, fold_norm=True)
            module.load_state_dict(restore(folded, like=module))
            assert (module(x) - expected).abs().max() <= 1e-8 * scale
    assert all(torch.equal(before[k], v) for k, v in restore(graph, like=before).items())
