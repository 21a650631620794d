"""LoL: what is exact under which changes of basis, what is seen, official weights by the published formulas, errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines import lol
from baselines.errors import BaselineError
from baselines.official import load_official

SHAPES = {"q": (12, 8), "v": (7, 9), "up": (10, 11)}
OFFICIAL = "moeputt/LoL/diffusion/models/models.py:GLInvariantMLP"


def draw(rank: int = 3, count: int = 4, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    sizes = [((count, rank, m), (count, n, rank)) for n, m in SHAPES.values()]
    pairs = [tuple(torch.randn(s, generator=g, dtype=torch.float64) for s in both) for both in sizes]
    return dict(zip(SHAPES, pairs, strict=True))  # type: ignore[arg-type]


def invertible(rank: int = 3, count: int = 4) -> dict[str, Tensor]:
    """One basis per adapter and layer, with singular values over two decades."""
    out = {}
    for name in SHAPES:
        u, v = (torch.linalg.qr(torch.randn(count, rank, rank, dtype=torch.float64)).Q for _ in "uv")
        out[name] = u @ torch.diag_embed(10 ** (2 * torch.rand(count, rank, dtype=torch.float64) - 1)) @ v
    return out


def orthogonal() -> dict[str, Tensor]:
    return {name: torch.linalg.qr(r).Q for name, r in invertible().items()}


def rotated_outputs(pairs: dict[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Another update of the same singular values."""
    turns = {n: torch.linalg.qr(torch.randn(s[0], s[0], dtype=torch.float64)).Q for n, s in SHAPES.items()}
    return {name: (a, turns[name] @ b) for name, (a, b) in pairs.items()}


MODELS: dict[str, Callable[[], lol.LoraModel]] = {
    "glnet": lambda: lol.GLNet(SHAPES, 2, width=6, layers=3, hidden=16),
    "pooled": lambda: lol.PooledGLNet(SHAPES, 2, width=6, layers=2, hidden=16),
    "flat": lambda: lol.FlatLoraMLP(SHAPES, 2, rank=3, hidden=16),
    "aligned": lambda: lol.AlignedLoraMLP(SHAPES, 2, template=draw(count=1, seed=9), hidden=16),
    "singular values": lambda: lol.SingularValueMLP(SHAPES, 2, rank=3, hidden=16),
    "dense": lambda: lol.DenseLoraMLP(SHAPES, 2, hidden=16),
}


def made(name: str) -> lol.LoraModel:
    return MODELS[name]().double().eval().requires_grad_(False)


def change(model: nn.Module, pairs: dict, moved: dict) -> float:
    before = model(pairs)
    return float((model(moved) - before).abs().max() / before.std())


@pytest.mark.parametrize("name", MODELS)
def test_what_is_claimed_holds_and_nothing_else(name: str) -> None:
    model, pairs = made(name), draw()
    gl, o = (change(model, pairs, lol.change_basis(pairs, bases)) for bases in (invertible(), orthogonal()))
    assert (gl < 1e-10) == ("GL" in model.symmetry) and (gl < 1e-10 or gl > 1e-3)
    assert (o < 1e-10) == bool(model.symmetry) and (o < 1e-10 or o > 1e-3)


def test_the_product_stays() -> None:
    pairs = draw()
    moved = lol.change_basis(pairs, invertible())
    for name, (a, b) in pairs.items():
        torch.testing.assert_close(moved[name][1] @ moved[name][0], b @ a)
        assert (moved[name][0] - a).abs().max() > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_other_updates_are_seen(name: str) -> None:
    """All but the singular values notice rotated outputs; those notice a factor."""
    model, pairs = made(name), draw()
    assert (change(model, pairs, rotated_outputs(pairs)) < 1e-10) == (name == "singular values")
    assert change(model, pairs, {n: (a, 2 * b) if n == "q" else (a, b) for n, (a, b) in pairs.items()}) > 1e-4


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_are_equivariant(layers: int) -> None:
    """``U -> U R^-1`` and ``V -> V R^T`` come out as they go in."""
    trunk, pairs, bases = lol.GLLayers(SHAPES, 6, layers).double(), draw(), invertible()
    reader = lol.LoraModel(SHAPES)
    u, v = trunk(reader.read(pairs))
    moved_u, moved_v = trunk(reader.read(lol.change_basis(pairs, bases)))
    r = torch.stack([bases[name] for name in SHAPES], 1)
    torch.testing.assert_close(moved_u, torch.linalg.solve(r, u, left=False), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved_v, v @ r.transpose(-1, -2), rtol=1e-9, atol=1e-9)


def test_gates_open_and_close() -> None:
    u, v = torch.randn(50, 6, 3), torch.randn(50, 5, 3)
    gated, other = lol.GLGate()(u, v)
    sums = u @ v.transpose(1, 2)
    torch.testing.assert_close(gated, u * (sums.sum(2) > 0)[..., None])
    torch.testing.assert_close(other, v * (sums.sum(1) > 0)[..., None])
    assert 0.3 < float((gated == 0).float().mean()) < 0.7


@pytest.mark.parametrize("name", MODELS)
def test_adapters_do_not_see_each_other(name: str) -> None:
    model, pairs = made(name), draw()
    alone = [model({n: (a[i : i + 1], b[i : i + 1]) for n, (a, b) in pairs.items()}) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), model(pairs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["glnet", "pooled", "singular values", "dense"])
def test_ranks_may_differ(name: str) -> None:
    """Between layers; and a factor pair filled up with zeros is the same adapter."""
    model, pairs = made(name), draw()
    low = draw(rank=2)
    mixed = {**pairs, "v": low["v"]}
    filled = {**pairs, "v": (F.pad(low["v"][0], (0, 0, 0, 1)), F.pad(low["v"][1], (0, 1)))}
    torch.testing.assert_close(model(mixed), model(filled), rtol=1e-9, atol=1e-9)


def test_aligned_factors_are_close_to_the_template() -> None:
    """No random rotation comes closer, and a rotated template is turned back."""
    template = draw(count=1, seed=9)
    model = lol.AlignedLoraMLP(SHAPES, 2, template=template).double()
    turned = lol.change_basis(template, {name: q[:1] for name, q in orthogonal().items()})
    reader = lol.LoraModel(SHAPES)
    for (u, v), (u0, v0) in zip(model.factors(turned), reader.read(template), strict=True):
        torch.testing.assert_close(torch.cat([u, v], 1), torch.cat([u0, v0], 1))
    pairs, target = draw(count=1), [torch.cat(uv, 1) for uv in reader.read(template)]
    best = [torch.cat(uv, 1) for uv in model.factors(pairs)]
    for _ in range(20):
        tried = reader.read(lol.change_basis(pairs, {name: q[:1] for name, q in orthogonal().items()}))
        for goal, ours, uv in zip(target, best, tried, strict=True):
            assert (ours - goal).norm() <= (torch.cat(uv, 1) - goal).norm()


def test_singular_values_are_those_of_the_product() -> None:
    u, v = torch.randn(5, 9, 3, dtype=torch.float64), torch.randn(5, 7, 3, dtype=torch.float64)
    want = torch.linalg.svdvals(u @ v.transpose(1, 2))[:, :3]
    torch.testing.assert_close(lol.plain.singular_values(u, v), want)


def test_numbers_of_parameters() -> None:
    total, width, hidden = sum(n + m for n, m in SHAPES.values()), 6, 16  # as in MODELS
    mlp = 16 + 2 * 16 + 2 * 16 + 2  # its own biases, norm, last map
    counts = {
        "glnet": width * total + 2 * 2 * 3 * width**2 + 3 * width**2 * hidden + mlp,
        "pooled": width * total + 2 * 3 * width**2 + 3 * hidden + mlp,
        "flat": 3 * total * hidden + mlp,
        "aligned": 3 * total * hidden + mlp,
        "singular values": 9 * hidden + mlp,
        "dense": (12 * 8 + 7 * 9 + 10 * 11) * hidden + mlp,
    }
    assert {name: sum(p.numel() for p in make().parameters()) for name, make in MODELS.items()} == counts


def test_presets_are_arguments() -> None:
    for kind in (lol.GLNet, lol.PooledGLNet):
        for settings in kind.presets.values():
            assert set(settings) <= set(inspect.signature(kind.__init__).parameters)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_training(name: str) -> None:
    model = MODELS[name]().float()
    model({n: (a.float(), b.float()) for n, (a, b) in draw().items()}).pow(2).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def official_weights(layers: int, features: int, width: int = 6) -> dict[str, Tensor]:
    state = {}
    for i, sizes in enumerate(SHAPES.values()):
        state |= {f"equiv_mlp.first_layer.{i}.w_{j + 1}": torch.randn(width, sizes[j]) for j in (0, 1)}
    for side in "uv":
        for i in range(layers - 1):
            state[f"equiv_mlp.equivariant_layers_{side}.{i}"] = torch.randn(3, width, width)
    head = {"linear1": (5, features), "ln1": (5,), "linear2": (2, 5)}
    for name, shape in head.items():
        state |= {
            f"invariant_head.{name}.weight": torch.randn(shape),
            f"invariant_head.{name}.bias": torch.randn(shape[0]),
        }
    return {name: value.double() for name, value in state.items()}


@pytest.mark.parametrize("clip", [False, True])
def test_official_weights(clip: bool) -> None:
    """Against the published network, written out layer by layer with full products."""
    state = official_weights(layers=2, features=3 if clip else 3 * 36)
    model = load_official(OFFICIAL, {"clip": clip}, state, specs=[]).double()
    assert type(model) is (lol.PooledGLNet if clip else lol.GLNet)
    features = []
    for i, (a, b) in enumerate(draw().values()):
        first = f"equiv_mlp.first_layer.{i}.w_"
        u, v = state[f"{first}1"] @ b, state[f"{first}2"] @ a.transpose(1, 2)
        both = u @ v.transpose(1, 2)
        u, v = u * both.sum(2, keepdim=True).sign().relu(), v * both.sum(1)[..., None].sign().relu()
        u, v = (state[f"equiv_mlp.equivariant_layers_{s}.0"][i] @ x for s, x in (("u", u), ("v", v)))
        both = u @ v.transpose(1, 2)
        features.append(both.mean((1, 2))[:, None] if clip else both.flatten(1))
    head = {name.removeprefix("invariant_head."): v for name, v in state.items() if name.startswith("inv")}
    x = F.linear(torch.cat(features, 1), head["linear1.weight"], head["linear1.bias"])
    x = F.layer_norm(x, (5,), head["ln1.weight"], head["ln1.bias"]).relu()
    want = F.linear(x, head["linear2.weight"], head["linear2.bias"])
    got = model({str(i): pair for i, pair in enumerate(draw().values())})
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_official_weights_that_do_not_fit() -> None:
    state = official_weights(layers=1, features=3 * 36)
    with pytest.raises(BaselineError, match="unknown entries .'other'."):
        load_official(OFFICIAL, {}, state | {"other": torch.ones(1)}, specs=[])
    with pytest.raises(BaselineError, match="official weights do not fit PooledGLNet"):
        load_official(OFFICIAL, {"clip": True}, state, specs=[])
    with pytest.raises(BaselineError, match="lack 'invariant_head.linear1.weight'"):
        load_official(OFFICIAL, {}, {}, specs=[])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: p.pop("q"), r"missing \['q'\], unknown \[\]"),
        (lambda p: p.update(other=p["q"]), r"missing \[\], unknown \['other'\]"),
        (lambda p: p.update(q=p["v"]), r"factors of 'q': expected A \[B, r, 8\] and B \[B, 12, r\]; got \(4, 3, 9\)"),
        (lambda p: p.update(q=(p["q"][0][0], p["q"][1][0])), "factors of 'q'"),
        (lambda p: p.update(q=(p["q"][0], p["q"][1][:2])), "factors of 'q'"),
        (lambda p: p.update(draw(rank=4)), "reads factors up to rank 3; got rank 4"),
    ],
)
def test_bad_factors(spoil: Callable, words: str) -> None:
    pairs = draw()
    spoil(pairs)
    with pytest.raises(BaselineError, match=words):
        made("flat")(pairs)


def test_no_shapes() -> None:
    with pytest.raises(BaselineError, match="got no shapes"):
        lol.GLNet({}, 1)
    assert lol.lora_shapes(draw()) == SHAPES
