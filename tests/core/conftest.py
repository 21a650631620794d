"""Random architectures for the tests of the core."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st

from graphnfn.activations import NAMES, TABLE, Activation
from graphnfn.chain import ChainBuilder
from graphnfn.spec import NetSpec, SpatialOp

ELEMENTWISE = [name for name in NAMES if TABLE[name].elementwise]


@st.composite
def _activations(draw: st.DrawFn, size: int) -> tuple[Activation, ...]:
    def one() -> Activation:
        return Activation(draw(st.sampled_from(ELEMENTWISE)))

    if draw(st.booleans()):
        return (one(),)
    choice = [one() for _ in range(draw(st.integers(2, 3)))]
    return tuple(draw(st.sampled_from(choice)) for _ in range(size))


def _finish_layer(draw: st.DrawFn, chain: ChainBuilder, name: str, pool_first: SpatialOp | None = None) -> None:
    """Batch norm or none, pooling before the activation or none, activation, PReLU slope or none."""
    width = chain.width
    if draw(st.booleans()):
        fields = ["norm_mean", "norm_var"]
        fields += ["norm_weight", "norm_bias"] if draw(st.booleans()) else []
        chain.norm({field: f"{name}.{field}" for field in fields}, eps=1e-3)
    if pool_first is not None:
        chain.spatial(pool_first)
    acts = draw(_activations(width))
    prelu = Activation("prelu") in acts
    size = draw(st.sampled_from([1, width]))
    chain.activation(acts[0] if len(acts) == 1 else acts, slope=f"{name}.slope" if prelu else None, slope_size=size)


@st.composite
def _mlp_specs(draw: st.DrawFn) -> NetSpec:
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    chain = ChainBuilder(sizes[0], (sizes[0],))
    for i, (into, out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        bias = f"layers.{i}.bias" if draw(st.booleans()) else None
        chain.linear(f"layers.{i}.weight", (out, into), bias=bias)
        if i < len(sizes) - 2:
            _finish_layer(draw, chain, f"layers.{i}")
    return chain.build()


def _after(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


_CONVOLUTIONS = [(k, s, p, d) for k, p in ((1, 0), (3, 1), (2, 1)) for s, d in ((1, 1), (2, 1), (1, 2))]


@st.composite
def _cnn_specs(draw: st.DrawFn) -> NetSpec:
    channels, side = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)), 9
    rank = draw(st.sampled_from([1, 2]))
    chain = ChainBuilder(channels[0], (channels[0], *[side] * rank))
    for i, (into, out) in enumerate(zip(channels, channels[1:], strict=False)):
        fitting = [f for f in _CONVOLUTIONS if _after(side, *f) >= 1]
        kernel, stride, padding, dilation = draw(st.sampled_from(fitting))
        side = _after(side, kernel, stride, padding, dilation)
        facts = {"stride": (stride,) * rank, "padding": (padding,) * rank, "dilation": (dilation,) * rank}
        bias = f"conv{i}.bias" if draw(st.booleans()) else None
        chain.conv(f"conv{i}.weight", (out, into, *[kernel] * rank), bias=bias, **facts)
        pool = draw(st.sampled_from([None, "max_pool", "avg_pool"])) if side >= 2 else None
        before = draw(st.booleans())
        op = pool and SpatialOp(pool, (2,) * rank, (2,) * rank, (0,) * rank, (1,) * rank)
        _finish_layer(draw, chain, f"conv{i}", (op or None) if before else None)
        if op and not before:
            chain.spatial(op)
        side = side // 2 if op else side
    flat = draw(st.booleans())
    chain.spatial(SpatialOp("flatten", (side,) * rank) if flat else SpatialOp("global_avg_pool"))
    into = channels[-1] * (side**rank if flat else 1)
    chain.linear("head.weight", (2, into), bias="head.bias")
    return chain.build()


@pytest.fixture(scope="session")
def specs() -> Callable[..., st.SearchStrategy[NetSpec]]:
    """Strategies of random architectures: MLPs and 1-d and 2-d CNNs of all activations, mixed within groups too."""
    strategies = {"mlp": _mlp_specs(), "cnn": _cnn_specs()}

    def choose(kind: str | None = None) -> st.SearchStrategy[NetSpec]:
        return strategies[kind] if kind else st.one_of(*strategies.values())

    return choose
