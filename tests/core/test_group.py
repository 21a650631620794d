"""Group axioms and the action: identity, inverse, associativity, the same functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphnfn import testing
from graphnfn.activations import NAMES, TABLE, Activation, Gauge
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
from graphnfn.errors import SymmetryError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec, SpatialOp
from graphnfn.symmetry import GroupAction, GroupElement, act, random_element

Specs = Callable[..., st.SearchStrategy[NetSpec]]
ROWS = [Activation(name) for name in NAMES if TABLE[name].elementwise] + [
    Activation("sin", 30.0),
    Activation("relu_power", 3.0),
    Activation("softshrink", 0.1),
]


def assert_same_graph(a: NeuralGraph, b: NeuralGraph) -> None:
    assert a.specs == b.specs
    for s, t in zip(a.stacks(), b.stacks(), strict=True):
        for x, y in zip((s.nodes, *s.blocks), (t.nodes, *t.blocks), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)


def draw_elements(spec: NetSpec, count: int, networks: int | None = 2) -> list[GroupElement]:
    return [random_element(spec, 3.0, seed, networks=networks, half_turns=3) for seed in range(count)]


@given(data=st.data())
def test_group_axioms(specs: Specs, data: st.DataObject) -> None:
    spec = data.draw(specs())
    graph = testing.random_graph(spec, networks=2)
    a, b, c = draw_elements(spec, 3)
    assert_same_graph(act(GroupElement(spec, {}), graph), graph)
    assert_same_graph(act(a.inverse(), act(a, graph)), graph)
    assert_same_graph(act(a @ a.inverse(), graph), graph)
    assert_same_graph(act(a @ b, graph), act(a, act(b, graph)))
    assert_same_graph(act((a @ b) @ c, graph), act(a @ (b @ c), graph))
    assert_same_graph(act((a @ b).inverse(), graph), act(b.inverse() @ a.inverse(), graph))


def test_axioms_can_fail() -> None:
    spec = mlp_spec([2, 5, 4, 1], "relu")
    graph = testing.random_graph(spec, networks=2)
    a, b = draw_elements(spec, 2)
    with pytest.raises(AssertionError):
        assert_same_graph(act(a @ b, graph), act(b @ a, graph))
    with pytest.raises(AssertionError):
        assert_same_graph(act(a, graph), graph)


@given(data=st.data())
def test_the_function_stays(specs: Specs, data: st.DataObject) -> None:
    spec = data.draw(specs())
    graph = testing.random_graph(spec, seed=data.draw(st.integers(0, 99)), networks=2)
    moved = act(random_element(spec, 6.0, 0, networks=2, half_turns=3), graph)
    testing.assert_same_function(moved, graph, rtol=1e-9)


@given(data=st.data())
def test_the_function_stays_in_the_state_dict(specs: Specs, data: st.DataObject) -> None:
    """What no parameter can hold (the scale of a norm without weights) may not be part of the group."""
    spec = data.draw(specs())
    state = testing.random_graph(spec).state_dict()
    moved = act(random_element(spec, 3.0, 1, half_turns=3), state)
    assert list(moved) == list(state)
    testing.assert_same_function(NeuralGraph.build(spec, moved), NeuralGraph.build(spec, state), rtol=1e-9)


@pytest.mark.parametrize("activation", ROWS, ids=str)
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_every_row_keeps_the_function(activation: Activation, kind: str) -> None:
    if kind == "mlp":
        spec = mlp_spec([3, 6, 5, 2], activation)
    else:
        spec = small_cnn_spec([1, 4, 3], 2, activation, stride=2, input_shape=(1, 9, 9))
    graph = testing.random_graph(spec, networks=3)
    testing.assert_same_function(testing.random_transform(graph, half_turns=3), graph, rtol=1e-10)


@pytest.mark.parametrize("activation", ROWS, ids=str)
def test_the_gauge_is_complete(activation: Activation) -> None:
    """What the table leaves out is no symmetry: -1 or a scale would change the neuron beyond any fixed factor."""
    z = torch.linspace(-9, 9, 181, dtype=torch.float64)
    x = activation(z)

    def proportional(g: float) -> bool:
        y = activation(g * z)
        factor = (x @ y) / (x @ x)
        return bool(torch.allclose(y, factor * x, atol=1e-9))

    gauge = activation.rule.gauge
    assert proportional(-1.0) == bool(gauge & Gauge.SIGN)
    assert proportional(1.7) == bool(gauge & Gauge.POSITIVE)


def mixed_spec() -> NetSpec:
    rows = [Activation(n) for n in ("relu", "tanh", "relu", "sin", "gelu", "abs", "sin", "relu", "identity", "cos")]
    return mlp_spec([3, 10, 10, 2], [rows, rows[::-1]])


def test_mixed_activations_within_a_group() -> None:
    graph = testing.random_graph(mixed_spec(), networks=4)
    testing.assert_same_function(testing.random_transform(graph, half_turns=2), graph, rtol=1e-10)
    (element,) = testing.random_elements(graph)
    action = element.actions["layers.0"]
    assert (action.scale[:, [0, 2, 5, 7, 8]] != 1).all()
    assert (action.scale[:, [1, 3, 4, 6, 9]] == 1).all()
    assert (action.sign[:, [0, 2, 4, 7]] == 1).all()
    assert {1, 4, 5, 8, 9}.issubset(i for i in range(10) if (action.perm[:, i] == i).all())


def max_pool_spec(activation: str, before: bool) -> NetSpec:
    chain = ChainBuilder(1, (1, 6, 6))
    chain.conv("conv.weight", (4, 1, 3, 3), bias="conv.bias")
    pool = SpatialOp("max_pool", (2, 2), (2, 2), (0, 0), (1, 1))
    if before:
        chain.spatial(pool)
    chain.activation(Activation(activation))
    if not before:
        chain.spatial(pool)
    chain.linear("head.weight", (2, 16), bias="head.bias")
    return chain.build()


@pytest.mark.parametrize(
    ("activation", "before", "gauge"),
    [
        ("relu", True, Gauge.POSITIVE),
        ("relu", False, Gauge.POSITIVE),
        ("tanh", True, Gauge.NONE),
        ("tanh", False, Gauge.NONE),
        ("abs", True, Gauge.POSITIVE),
        ("abs", False, Gauge.NONZERO),
        ("cos", False, Gauge.SIGN),
        ("cos", True, Gauge.NONE),
        ("identity", False, Gauge.POSITIVE),
    ],
)
def test_max_pooling_leaves_what_commutes(activation: str, before: bool, gauge: Gauge) -> None:
    spec = max_pool_spec(activation, before)
    assert spec.groups[1].gauge == (gauge,)
    assert not spec.groups[1].half_turns
    graph = testing.random_graph(spec, networks=2)
    testing.assert_same_function(testing.random_transform(graph, half_turns=2), graph)


def norm_spec(fields: tuple[str, ...], activation: str = "relu") -> NetSpec:
    chain = ChainBuilder(1, (1, 6, 6))
    chain.conv("conv.weight", (4, 1, 3, 3), bias="conv.bias")
    chain.norm({f: f"norm.{f}" for f in fields}, eps=1e-3)
    chain.activation(Activation(activation))
    chain.spatial(SpatialOp("global_avg_pool"))
    chain.linear("head.weight", (2, 4))
    return chain.build()


def test_a_norm_without_weights_leaves_no_gauge() -> None:
    full, bare = ("norm_mean", "norm_var", "norm_weight", "norm_bias"), ("norm_mean", "norm_var")
    assert norm_spec(full).groups[1].gauge == (Gauge.POSITIVE,)
    assert norm_spec(bare).groups[1].gauge == (Gauge.NONE,)
    assert norm_spec(full, "sin").groups[1].half_turns
    assert not norm_spec(bare, "sin").groups[1].half_turns


def test_half_turns_move_biases_by_half_periods() -> None:
    spec = mlp_spec([2, 5, 1], "sin", omega=30.0)
    graph = testing.random_graph(spec)
    one = torch.ones(5, dtype=torch.float64)
    turn = GroupAction(torch.arange(5), one, one, torch.tensor([1, 0, -2, 3, 0]))
    moved = act(GroupElement(spec, {"layers.0": turn}), graph)
    shift = (moved.x - graph.x)[2:7, 0] * 30.0 / torch.pi
    torch.testing.assert_close(shift, torch.tensor([1.0, 0, -2, 3, 0], dtype=torch.float64))
    ratio = moved.stacks()[0].blocks[1] / graph.stacks()[0].blocks[1]
    torch.testing.assert_close(ratio.flatten(), torch.tensor([-1.0, 1, 1, -1, 1], dtype=torch.float64))
    testing.assert_same_function(moved, graph)
    assert not mlp_spec([2, 5, 1], "sin", bias=False).groups[1].half_turns


def test_action_on_state_dicts() -> None:
    spec = mlp_spec([2, 6, 1], "relu")
    state: dict[str, Tensor] = {**testing.random_graph(spec).state_dict(), "steps": torch.tensor(7)}
    before = {k: v.clone() for k, v in state.items()}
    element = random_element(spec, 2.0, 0)
    moved = act(element, state)
    assert all(torch.equal(state[k], v) for k, v in before.items())
    assert moved["steps"] is state["steps"]
    want = act(element, NeuralGraph.build(spec, state)).state_dict()
    assert all(torch.equal(moved[k], v) for k, v in want.items())
    back = act(element.inverse(), moved)
    torch.testing.assert_close(back["layers.0.weight"], state["layers.0.weight"])


def test_action_leaves_its_input_alone() -> None:
    graph = testing.random_graph(mixed_spec(), networks=2)
    testing.assert_pure(testing.random_transform, graph)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_action_keeps_the_dtype(dtype: torch.dtype) -> None:
    graph = testing.random_graph(mlp_spec([2, 6, 1], "relu"), dtype=dtype)
    assert testing.random_transform(graph, decades=2.0).x.dtype == dtype


def test_scales_cover_the_decades() -> None:
    element = random_element(mlp_spec([2, 4000, 1], "relu"), decades=6.0, seed=0)
    exponent = element.actions["layers.0"].scale.log10()
    assert -3 <= float(exponent.min()) < -2.95
    assert 2.95 < float(exponent.max()) <= 3
    assert abs(float(exponent.mean())) < 0.1


def identity(size: int, **changes: Tensor) -> GroupAction:
    plain = vars(GroupAction.identity(size))
    return GroupAction(**{**plain, **changes})


@pytest.mark.parametrize(
    ("activation", "group", "action", "message"),
    [
        ("relu", "layers.0", identity(3, sign=torch.tensor([1.0, -1, 1])), "no sign flips"),
        ("tanh", "layers.0", identity(3, scale=torch.tensor([1.0, 2, 1])), "no positive scales"),
        ("gelu", "layers.0", identity(3, scale=torch.tensor([1.0, 2, 1])), "no positive scales"),
        ("relu", "layers.0", identity(3, scale=torch.tensor([1.0, -2, 1])), "positive and finite"),
        ("relu", "layers.0", identity(3, scale=torch.tensor([1.0, torch.nan, 1])), "positive and finite"),
        ("relu", "layers.0", identity(3, perm=torch.tensor([0, 0, 1])), "not a permutation"),
        ("relu", "layers.0", identity(4), "has 3 neurons; the action has 4"),
        ("relu", "layers.1", identity(2, perm=torch.tensor([1, 0])), "is fixed"),
        ("tanh", "layers.0", identity(3, half_turns=torch.tensor([1, 0, 0])), "no half turns"),
    ],
)
def test_illegal_elements_are_refused(activation: str, group: str, action: GroupAction, message: str) -> None:
    with pytest.raises(SymmetryError, match=message):
        GroupElement(mlp_spec([2, 3, 2], activation), {group: action})


def test_permutations_between_activations_are_refused() -> None:
    spec = mlp_spec([2, 3, 1], [[Activation("relu"), Activation("tanh"), Activation("relu")]])
    GroupElement(spec, {"layers.0": identity(3, perm=torch.tensor([2, 1, 0]))})
    with pytest.raises(SymmetryError, match="equal activation"):
        GroupElement(spec, {"layers.0": identity(3, perm=torch.tensor([1, 0, 2]))})


def test_foreign_elements_are_refused() -> None:
    element = random_element(mlp_spec([2, 3, 1], "relu"), seed=0)
    other = mlp_spec([2, 4, 1], "relu")
    with pytest.raises(SymmetryError, match="another spec"):
        act(element, testing.random_graph(other))
    with pytest.raises(SymmetryError, match="different specs"):
        _ = element @ random_element(other, seed=0)


def test_elements_are_checked_against_unknown_activations() -> None:
    with pytest.raises(SymmetryError, match="unknown activation 'swoosh'"):
        Activation("swoosh")
