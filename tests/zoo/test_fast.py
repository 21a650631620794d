"""The hand-written gradients against autograd, and networks that do not depend on who is trained beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from experiments.zoos import (
    BUILDERS,
    DIGITS_CNN,
    DIGITS_WILD,
    FMNIST_CNN,
    CNNRanges,
    SirenFit,
    classifiers,
    optimisers,
    siren,
)
from experiments.zoos import plain_classifiers as plain
from experiments.zoos.fast_cnn import PlainCNNs, cnns_at_once, is_plain_cnn
from experiments.zoos.fast_mlp import PlainMLPs, is_plain_mlp
from experiments.zoos.fleet import aligned, descend, flatten, train, unflatten
from experiments.zoos.images import Images, load_images
from experiments.zoos.members import prepare
from experiments.zoos.optimisers import StackedOptimiser
from experiments.zoos.plans import draw_plan
from experiments.zoos.siren import fit_squares, initial_siren, pixel_grid, siren_spec
from graphnfn.activations import Activation
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
from graphnfn.functional import run
from graphnfn.spec import ConvFacts, NetSpec
from graphnfn.stack import Stack

COUNT, SAMPLES = 4, 6


@pytest.fixture(params=[True, False], ids=["compiled", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to train, where there is a C compiler."""
    if not request.param:
        for module in (siren, plain, optimisers):
            monkeypatch.setattr(module, "can_compile", lambda _: False)


def _rows(spec: NetSpec, columns: int = 3) -> Tensor:
    """Float64 parameters, with further columns behind them."""
    return 0.4 * torch.randn(COUNT, spec.num_params + columns, dtype=torch.float64)


def _by_autograd(spec: NetSpec, theta: Tensor, inputs: Tensor, weights: Tensor, hidden=None) -> tuple[Tensor, Tensor]:
    """Outputs ``[k, outputs, samples]`` and the gradient of their weighted sum."""
    seen = theta[:, : spec.num_params].clone().requires_grad_()
    out = run(unflatten(spec, seen), inputs, per_network=True, hidden=hidden).transpose(1, 2)
    (grad,) = torch.autograd.grad((out * weights).sum(), seen)
    return out.detach(), grad


def _agree(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).norm() <= 1e-11 * theirs.norm())


@pytest.mark.parametrize("sizes", [[2, 8, 8, 1], [3, 7, 2], [2, 5, 6, 7, 3]], ids=str)
@pytest.mark.parametrize("activation", ["sin", "tanh", "relu"])
def test_gradients_of_mlps(activation: str, sizes: list[int]) -> None:
    spec = mlp_spec(sizes, activation, omega=5.0 if activation == "sin" else None)
    theta, inputs = _rows(spec), torch.randn(SAMPLES, sizes[0], dtype=torch.float64)
    weights = torch.randn(COUNT, sizes[-1], SAMPLES, dtype=torch.float64)
    mlps = PlainMLPs(spec, theta, inputs)
    for _ in range(2):  # what is left in the buffers does not matter, and theta is read again
        out, grad = _by_autograd(spec, theta, inputs.expand(COUNT, -1, -1), weights)
        assert _agree(mlps.outputs(), out)
        found = mlps.gradient(weights)
        assert _agree(found[:, : spec.num_params], grad) and not found[:, spec.num_params :].any()
        theta += 0.1 * torch.randn_like(theta)
    other = mlp_spec(sizes, "sin", omega=5.1)
    assert not _agree(found[:, : spec.num_params], _by_autograd(other, theta, inputs.expand(COUNT, -1, -1), weights)[1])


def _cnn(activation: str, strides: tuple[int, int], dilation: int) -> NetSpec:
    chain = ChainBuilder(2, (2, 13, 12))
    for i, out in enumerate((3, 5)):
        facts = {"stride": strides, "dilation": (dilation,) * 2} if i == 0 else {"stride": (1, 1)}
        chain.conv(f"conv{i}.weight", (out, chain.width, 3, 2), bias=f"conv{i}.bias", **facts)
        chain.activation(Activation(activation))
    return _ended(chain)


def _ended(chain: ChainBuilder) -> NetSpec:
    chain.spatial(small_cnn_spec([1, 2], 2, "relu").blocks[-1].pre[0])
    chain.linear("dense.weight", (4, chain.width), bias="dense.bias")
    return chain.build()


@pytest.mark.parametrize(("strides", "dilation"), [((1, 1), 1), ((2, 1), 1), ((3, 3), 1), ((1, 1), 2), ((2, 2), 2)])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("dropout", [False, True])
def test_gradients_of_cnns(activation: str, strides: tuple[int, int], dilation: int, dropout: bool) -> None:
    """Rectangular maps and kernels, edges that no patch reaches, channels that are erased."""
    spec = _cnn(activation, strides, dilation)
    theta, images = _rows(spec), torch.randn(COUNT, 2, 13, 12, SAMPLES, dtype=torch.float64)
    weights = torch.randn(COUNT, 4, SAMPLES, dtype=torch.float64)
    masks = [1.4 * (torch.rand(COUNT, n, SAMPLES) > 0.3).double() for n in (3, 5)]

    def hidden(group: int, h: Tensor) -> Tensor:
        return h * masks[group - 1].permute(2, 0, 1)[..., None, None]

    cnns = PlainCNNs(spec, theta, SAMPLES)
    for _ in range(2):
        out, grad = _by_autograd(spec, theta, images.movedim(-1, 1), weights, hidden if dropout else None)
        cnns.inputs.copy_(images)
        assert _agree(cnns.logits(masks if dropout else ()), out)
        found = cnns.gradient(weights)
        assert _agree(found[:, : spec.num_params], grad) and not found[:, spec.num_params :].any()
        theta += 0.1 * torch.randn_like(theta)
    if dropout:  # the masks matter
        assert not _agree(found[:, : spec.num_params], _by_autograd(spec, theta, images.movedim(-1, 1), weights)[1])


def test_the_fast_way_is_chosen_by_the_spec() -> None:
    assert is_plain_mlp(siren_spec()) and not is_plain_mlp(DIGITS_CNN.spec("relu", 8))
    assert is_plain_cnn(DIGITS_CNN.spec("tanh", 8)) and is_plain_cnn(FMNIST_CNN.spec("relu", 28))
    assert not is_plain_cnn(siren_spec())
    others = [DIGITS_WILD.architecture(i, 0).spec((1, 8, 8)) for i in range(20)]  # they are padded
    assert not any(is_plain_cnn(spec) for spec in others)
    plain_spec = small_cnn_spec([1, 4, 4], 3, "relu", input_shape=(1, 8, 8))
    block = plain_spec.blocks[0]
    padded = replace(block, conv=ConvFacts((1, 1), (1, 1), (1, 1)))
    normed = replace(plain_spec.groups[1], norm_eps=1e-5)
    for changed in (
        replace(plain_spec, blocks=(padded, *plain_spec.blocks[1:])),
        replace(plain_spec, groups=(plain_spec.groups[0], normed, *plain_spec.groups[2:])),
        replace(plain_spec, node_params=plain_spec.node_params[1:]),
        replace(plain_spec, input_shape=None),
        small_cnn_spec([1, 4, 4], 3, "gelu", input_shape=(1, 8, 8)),
    ):
        assert not is_plain_cnn(changed)
    for changed in (mlp_spec([2, 4, 1], "gelu"), mlp_spec([2, 4, 1], "relu", bias=False), mlp_spec([2, 1], "relu")):
        assert not is_plain_mlp(changed)
    assert not is_plain_mlp(mlp_spec([2, 4, 1], "relu", output_activation="tanh"))
    assert set(BUILDERS) >= {"digits-siren", "digits-cnn"}


def _fit(count: int, side: int) -> Tensor:
    """The first networks of some that are fitted to noise."""
    spec, noise = siren_spec(), torch.rand(9, side * side, generator=torch.Generator().manual_seed(0))
    initial = flatten([initial_siren(spec, 0, i) for i in range(count)])
    return torch.cat(
        [t if t.dim() == 2 else t[:, None] for t in fit_squares(spec, initial, pixel_grid(side), noise[:count], FIT)], 1
    )


FIT = SirenFit(steps=7)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("side", [8, 28, 5])
def test_a_siren_is_the_same_in_any_company(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _fit(9, side)
    for at_once in (1, 2, 4):
        monkeypatch.setattr(siren, "mlps_at_once", lambda *_, n=at_once: n)
        assert torch.equal(_fit(9, side), whole) and torch.equal(_fit(3, side), whole[:3])


@pytest.mark.usefixtures("way")
def test_sirens_are_trained_as_by_autograd() -> None:
    spec, grid = siren_spec(), pixel_grid(8)
    targets = torch.rand(3, 64)
    initial = flatten([initial_siren(spec, 0, i) for i in range(3)])

    def loss(stack: Stack, _: int) -> Tensor:
        return (run(stack, grid.expand(3, -1, -1), per_network=True)[..., 0] - targets).square().mean(1)

    rates = torch.full((3,), FIT.learning_rate)
    want = train(spec, initial, StackedOptimiser(["adam"] * 3, rates, torch.zeros(3)), [FIT.steps] * 3, loss)
    got, errors = fit_squares(spec, initial, grid, targets, FIT)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)
    assert (want - initial).abs().max() > 1e-3  # they did move
    torch.testing.assert_close(errors, loss(unflatten(spec, got), 0), rtol=1e-3, atol=1e-6)


RANGES = CNNRanges(activation=("relu",), steps=(2, 12), batch=16)


def _images(side: int) -> Images:
    rows, chance = torch.arange(60), torch.Generator().manual_seed(0)
    labels = torch.randint(10, (60,), generator=chance)
    return Images("noise", torch.rand(60, side, side, generator=chance), labels, rows[:40], rows[40:])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("side", [8, 28])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_cnn_is_the_same_in_any_company(side: int, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, spec = _images(side), (DIGITS_CNN if side == 8 else FMNIST_CNN).spec(activation, side)

    def made(numbers: range, at_once: int) -> list[Tensor]:
        monkeypatch.setattr(plain, "cnns_at_once", lambda *_: at_once)
        members = [prepare(draw_plan(i, 0, RANGES), spec, data, 0, RANGES.batch) for i in numbers]
        order = sorted(range(len(members)), key=lambda i: -members[i].plan.steps)
        theta = plain.train_plain(spec, [members[i] for i in order], data)[torch.tensor(order).argsort()]
        twice = unflatten(spec, torch.cat([theta, theta]))
        return [theta, *(part[: len(members)] for part in classifiers.evaluate(twice, data, data.test))]

    whole = made(range(7), 7)
    for count, at_once in ((7, 1), (7, 2), (7, 3), (4, 4), (4, 3)):
        found = made(range(count), at_once)
        assert all(torch.equal(f, w[:count]) for f, w in zip(found, whole, strict=True))


@pytest.mark.usefixtures("way")
def test_cnns_are_trained_and_measured_as_by_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images, labels and dropout: only the rounding differs."""
    data, builder = load_images("digits"), replace(DIGITS_CNN, ranges=replace(RANGES, activation=("relu", "tanh")))
    fast = builder.make(range(8), data, 0)
    monkeypatch.setattr(classifiers, "is_plain_cnn", lambda _: False)
    slow = builder.make(range(8), data, 0)
    for ours, theirs in zip(fast.stacks, slow.stacks, strict=True):
        for a, b in zip(ours.unpack().values(), theirs.unpack().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
    for column in ("train_loss", "test_loss"):
        assert fast.table[column].tolist() == pytest.approx(slow.table[column].tolist(), rel=1e-2)
    other = builder.make(range(8), data, 1)
    assert fast.table["test_loss"].tolist() != pytest.approx(other.table["test_loss"].tolist(), rel=1e-2)


@pytest.mark.usefixtures("way")
def test_long_gradients_are_clipped() -> None:
    """SGD with rate 1 and a first step: what is left of the gradient is the step."""
    theta, long = aligned(torch.zeros(2, 5)), aligned(torch.tensor([[30.0, 40.0, 0, 0, 0], [0.3, 0.4, 0, 0, 0]]))
    descend(theta, StackedOptimiser(["sgd"] * 2, torch.ones(2), torch.zeros(2)), [1, 1], lambda *_: long.clone())
    torch.testing.assert_close(theta[:, :2], -torch.tensor([[6.0, 8.0], [0.3, 0.4]]))


def test_large_networks_are_still_trained_in_pairs() -> None:
    assert cnns_at_once(small_cnn_spec([1, 64, 64], 10, "relu", input_shape=(1, 28, 28)), 32) == 2
