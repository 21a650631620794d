"""The C functions of the builders against PyTorch's way, which they stand in for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experiments.zoos import siren
from experiments.zoos.compiled import can_compile
from experiments.zoos.compiled_nets import CompiledCNNs, CompiledMLPs
from experiments.zoos.fast_cnn import Dropout
from experiments.zoos.fast_mlp import PlainMLPs
from experiments.zoos.images import Images
from experiments.zoos.plain_classifiers import PlainClassifiers
from experiments.zoos.siren import SirenFit, fit_squares, initial_siren, pixel_grid, siren_spec
from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
from graphnfn.spec import NetSpec

COUNT = 3

pytestmark = pytest.mark.skipif(not can_compile(torch.ones(1)), reason="no C compiler")


def _rows(spec: NetSpec, dtype: torch.dtype = torch.float64) -> Tensor:
    return 0.4 * torch.randn(COUNT, spec.num_params + 3, dtype=dtype)


def _agree(ours: Tensor, theirs: Tensor, tolerance: float = 1e-11) -> bool:
    return bool((ours - theirs).norm() <= tolerance * theirs.norm())


@pytest.mark.parametrize("samples", [1, 5, 32, 77])
@pytest.mark.parametrize("sizes", [[2, 8, 8, 1], [3, 17, 2], [1, 5, 9, 11, 3]], ids=str)
@pytest.mark.parametrize("activation", ["sin", "tanh", "relu"])
def test_squares_of_mlps(activation: str, sizes: list[int], samples: int) -> None:
    """Whole and broken tiles of neurons and samples."""
    spec = mlp_spec(sizes, activation, omega=5.0 if activation == "sin" else None)
    theta, inputs = _rows(spec), torch.randn(samples, sizes[0], dtype=torch.float64)
    targets = torch.randn(COUNT, sizes[-1], samples, dtype=torch.float64)
    ours = CompiledMLPs(spec, theta, inputs)
    for _ in range(2):  # theta is read again
        theirs = PlainMLPs(spec, theta, inputs)
        assert _agree(ours.squares(targets), theirs.squares(targets))
        assert _agree(ours.gradient_of_squares(targets), theirs.gradient_of_squares(targets))
        theta += 0.1 * torch.randn_like(theta)
    assert not _agree(
        ours.gradient_of_squares(targets), PlainMLPs(spec, theta, inputs).gradient_of_squares(targets + 1e-6)
    )


def _cnn(activation: str, strides: tuple[int, int], dilation: int) -> NetSpec:
    chain = ChainBuilder(1, (1, 13, 12))
    for i, out in enumerate((3, 17)):
        facts = {"stride": strides, "dilation": (dilation,) * 2} if i else {"stride": (1, 1)}
        chain.conv(f"conv{i}.weight", (out, chain.width, 3, 2), bias=f"conv{i}.bias", **facts)
        chain.activation(Activation(activation))
    chain.spatial(small_cnn_spec([1, 2], 2, "relu").blocks[-1].pre[0])
    chain.linear("dense.weight", (11, chain.width), bias="dense.bias")
    return chain.build()


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize(("strides", "dilation"), [((1, 1), 1), ((2, 1), 1), ((3, 3), 1), ((1, 1), 2), ((2, 2), 2)])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_classifiers(activation: str, strides: tuple[int, int], dilation: int, count: int) -> None:
    """Rectangular maps and kernels, edges that no patch reaches, channels that are erased."""
    spec = _cnn(activation, strides, dilation)
    rows = torch.arange(50)
    data = Images("noise", torch.rand(50, 13, 12, dtype=torch.float64), torch.randint(11, (50,)), rows, rows)
    theta, chosen = _rows(spec), torch.randint(50, (COUNT, count))
    draws = torch.rand(COUNT, 20 * count, dtype=torch.float64)
    dropout = Dropout(draws, torch.tensor([0.0, 0.3, 0.6], dtype=torch.float64))
    ways = CompiledCNNs(spec, theta, data, count), PlainClassifiers(spec, theta, data, count)
    for _ in range(2):
        ours, theirs = (way.logits(chosen) for way in ways)
        assert _agree(ours, theirs)
        for chance in (None, dropout):
            ours, theirs = (way.gradient(chosen, data.labels[chosen], chance).clone() for way in ways)
            assert _agree(ours, theirs)
        theta += 0.1 * torch.randn_like(theta)
    compiled, plain = ways
    for labels, chance in ((data.labels[chosen], None), (data.labels[chosen.flip(1)], dropout)):
        theirs = plain.gradient(chosen, labels, chance).clone()
        assert not _agree(compiled.gradient(chosen, data.labels[chosen], dropout), theirs, 1e-3)


@pytest.mark.parametrize("spread", [0.1, 1.0, 100.0, 1e6])
def test_single_precision_is_as_good_as_pytorch(spread: float) -> None:
    """Sines are computed by polynomials for arguments below 1000, by the C library above."""
    spec, grid, targets = siren_spec(), pixel_grid(28), torch.rand(COUNT, 1, 784)
    theta = spread * _rows(spec, torch.float32)
    exact = PlainMLPs(spec, theta.double(), grid.double()).gradient_of_squares(targets.double())
    found, reference = (way(spec, theta, grid).gradient_of_squares(targets) for way in (CompiledMLPs, PlainMLPs))
    error, usual = (float((g.double() - exact).norm() / exact.norm()) for g in (found, reference))
    assert error <= 2 * usual + 1e-7


@pytest.mark.parametrize("activation", ["sin", "tanh", "relu"])
def test_what_is_no_number_stays_so(activation: str) -> None:
    spec = mlp_spec([2, 8, 1], activation, omega=30.0 if activation == "sin" else None)
    theta, inputs = _rows(spec, torch.float32), torch.randn(20, 2)
    theta[1, 0] = torch.nan
    losses = CompiledMLPs(spec, theta, inputs).squares(torch.zeros(COUNT, 1, 20))
    assert losses.isfinite().tolist() == [True, False, True]


def test_both_ways_fit_the_same_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, goals = siren_spec(), torch.rand(COUNT, 64)
    initial = torch.stack([torch.cat([v.flatten() for v in initial_siren(spec, 0, i).values()]) for i in range(COUNT)])
    ours, errors = fit_squares(spec, initial, pixel_grid(8), goals, SirenFit(steps=9))
    monkeypatch.setattr(siren, "can_compile", lambda _: False)
    theirs, others = fit_squares(spec, initial, pixel_grid(8), goals, SirenFit(steps=9))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(errors, others, rtol=1e-3, atol=1e-6)


def test_other_numbers_are_left_to_pytorch() -> None:
    assert can_compile(torch.ones(1)) and not can_compile(torch.ones(1, dtype=torch.bfloat16))
