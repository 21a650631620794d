"""NetSpec and charges: round trips through JSON, contradictions refused, legal and illegal products."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphnfn import testing
from graphnfn.activations import NAMES, TABLE, Activation, Gauge
from graphnfn.chain import ChainBuilder, mlp_spec, small_cnn_spec
from graphnfn.errors import SpecError, SymmetryError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import Block, NetSpec, NeuronGroup, NodeParam, SpatialOp
from graphnfn.stack import Stack
from graphnfn.symmetry.charge import ACTIVATION, ADJOINT, BIAS, GRADIENT, NEUTRAL, WEIGHT, Charge

Specs = Callable[..., st.SearchStrategy[NetSpec]]
MLP = mlp_spec([2, 3, 1], "relu")


@given(data=st.data())
def test_json_round_trip(specs: Specs, data: st.DataObject) -> None:
    spec = data.draw(specs())
    again = NetSpec.from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.params == spec.params
    assert again.levels == spec.levels


def test_different_specs_differ() -> None:
    specs = [
        MLP,
        mlp_spec([2, 3, 1], "tanh"),
        mlp_spec([2, 4, 1], "relu"),
        mlp_spec([2, 3, 1], "sin", omega=30.0),
        mlp_spec([2, 3, 1], "sin", omega=29.0),
        small_cnn_spec([1, 3], 2, "relu", stride=1),
        small_cnn_spec([1, 3], 2, "relu", stride=2),
        small_cnn_spec([1, 3], 2, "relu", input_shape=(1, 8, 8)),
    ]
    assert len(set(specs)) == len(specs)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"groups": 3}', "no json", '{"groups": [], "blocks": []}'])
def test_text_that_is_no_spec(text: str) -> None:
    with pytest.raises(SpecError, match="not a NetSpec"):
        NetSpec.from_json(text)


def test_json_with_an_unknown_activation() -> None:
    damaged = json.loads(MLP.to_json())
    damaged["groups"][1]["activations"][0]["name"] = "swoosh"
    with pytest.raises(SpecError, match="swoosh"):
        NetSpec.from_json(json.dumps(damaged))


def changed_group(index: int, **changes: object) -> tuple[NeuronGroup, ...]:
    groups = list(MLP.groups)
    groups[index] = replace(groups[index], **changes)
    return tuple(groups)


def changed_block(**changes: object) -> tuple[Block, ...]:
    return (replace(MLP.blocks[0], **changes), *MLP.blocks[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": ()}, "one at least"),
        ({"groups": changed_group(1, id="input")}, "distinct ids"),
        ({"groups": changed_group(1, size=0)}, "one neuron at least"),
        ({"groups": changed_group(1, size=4)}, "its groups have 4 and 2"),
        ({"groups": changed_group(1, activations=(Activation("relu"),) * 2)}, "one per neuron"),
        ({"groups": changed_group(0, permutable=True)}, "inputs and outputs are fixed"),
        ({"groups": changed_group(2, gauge=(Gauge.SIGN,))}, "inputs and outputs are fixed"),
        ({"groups": MLP.groups[::-1]}, "topological order"),
        ({"blocks": changed_block(src="nowhere")}, "topological order"),
        ({"blocks": changed_block(view=(3, 3))}, "do not fit together"),
        ({"blocks": changed_block(dims=(0, 0))}, "do not fit together"),
        ({"node_params": (NodeParam("b", "nowhere", "bias", (3,)),)}, "unknown group 'nowhere'"),
        ({"node_params": (NodeParam("b", "layers.0", "colour", (3,)),)}, "field 'colour'"),
        ({"node_params": (NodeParam("b", "layers.0", "bias", (4,)),)}, "its group has 3 neurons"),
    ],
)
def test_contradictions_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        replace(MLP, **changes)


def test_chains_that_cannot_be() -> None:
    chain = ChainBuilder(3)
    with pytest.raises(SpecError, match="cannot chain"):
        chain.linear("w", (4, 5))
    with pytest.raises(SpecError, match="4 input channels"):
        chain.conv("w", (2, 4, 3, 3))
    with pytest.raises(SpecError, match="one at least"):
        chain.build()
    chain.linear("w", (4, 3))
    chain.activation(Activation("relu"))
    with pytest.raises(SpecError, match="two activations"):
        chain.activation(Activation("relu"))
    with pytest.raises(SpecError, match="batch norm"):
        chain.norm({"norm_mean": "m"}, 1e-5)
    with pytest.raises(SpecError, match="softmax mixes neurons"):
        mlp_spec([2, 3, 1], "softmax")


def test_parameters_that_do_not_fit() -> None:
    state = testing.random_graph(MLP).state_dict()
    with pytest.raises(SpecError, match="'layers.1.bias' is missing"):
        NeuralGraph.build(MLP, {k: v for k, v in state.items() if k != "layers.1.bias"})
    with pytest.raises(SpecError, match=r"has shape \(2, 3\); the spec expects \(3, 2\)"):
        NeuralGraph.build(MLP, {**state, "layers.0.weight": state["layers.0.weight"].T})


def test_tied_parameters_must_agree() -> None:
    chain = ChainBuilder(3)
    for name in ("a", "b"):
        chain.linear("shared.weight", (3, 3), bias=f"{name}.bias")
        if name == "a":
            chain._groups[-1] = replace(chain._groups[-1], id="first")
            chain.activation(Activation("gelu"))
    spec = chain.build()
    graph = testing.random_graph(spec)
    assert list(spec.params) == ["shared.weight", "a.bias", "b.bias"]
    testing.assert_roundtrip(graph)
    torn = graph.map_stacks(lambda s: Stack(s.spec, s.nodes, (s.blocks[0] + 1, s.blocks[1])))
    with pytest.raises(SpecError, match="'shared.weight' is tied"):
        torn.state_dict()


def test_levels_and_parts() -> None:
    spec = small_cnn_spec([1, 16, 16, 16], 10, "relu", stride=2)
    assert spec.levels == (0, 1, 2, 3, 4)
    assert spec.num_params == 4970
    assert spec.tap_grid == (3, 3)
    assert spec.span("conv1") == slice(17, 33)
    assert [len(b) for b in spec.incoming] == [0, 1, 1, 1, 1]


def test_flattened_positions_become_taps() -> None:
    chain = ChainBuilder(1, (1, 6, 6))
    chain.conv("conv.weight", (4, 1, 3, 3))
    chain.activation(Activation("relu"))
    chain.spatial(SpatialOp("flatten", (4, 4)))
    chain.linear("fc.weight", (2, 64))
    block = chain.build().blocks[1]
    assert block.taps == (4, 4)
    assert block.sizes == (2, 4)


# ---- charges --------------------------------------------------------------------------------------


def test_legal_products() -> None:
    assert WEIGHT.from_source(ACTIVATION) == BIAS
    assert WEIGHT.from_target(ADJOINT) == ADJOINT
    assert GRADIENT.from_source(ADJOINT) == ADJOINT
    assert ACTIVATION * ADJOINT == NEUTRAL
    assert WEIGHT * GRADIENT == NEUTRAL
    assert Charge(2, -1).parity == Charge(0, 1)


@pytest.mark.parametrize(
    "product",
    [
        lambda: WEIGHT.from_target(ACTIVATION),
        lambda: WEIGHT.from_source(ADJOINT),
        lambda: GRADIENT.from_source(ACTIVATION),
        lambda: NEUTRAL.from_source(ACTIVATION),
        lambda: WEIGHT.require(GRADIENT, "sum"),
        lambda: BIAS.require(NEUTRAL, "bias on an invariant feature"),
        lambda: ACTIVATION.require_neutral("LayerNorm"),
    ],
)
def test_illegal_products(product: Callable[[], object]) -> None:
    with pytest.raises(SymmetryError, match="charge"):
        product()


@given(*[st.integers(-3, 3)] * 4)
def test_charges_are_what_the_action_does(a: int, b: int, c: int, d: int) -> None:
    """Multiplying features multiplies their factors, with g_i = 2 and g_j = 3."""

    def factor(charge: Charge) -> float:
        return 2.0**charge.dst * 3.0**charge.src

    assert factor(Charge(a, b) * Charge(c, d)) == pytest.approx(factor(Charge(a, b)) * factor(Charge(c, d)))
    assert ((-1) ** Charge(a, b).parity.dst) == (-1) ** abs(a)


def test_charges_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        WEIGHT.dst = 2  # type: ignore[misc]


def test_activation_values_and_slopes() -> None:
    """value_and_slope against autograd, for every elementwise row (sin and cos: slope over omega)."""
    z = torch.linspace(-3, 3, 50, dtype=torch.float64).requires_grad_()
    for name in NAMES:
        activation = Activation(name)
        if not TABLE[name].elementwise:
            continue
        value, slope = activation.value_and_slope(z)
        (grad,) = torch.autograd.grad(activation(z).sum(), z)
        torch.testing.assert_close(value, activation(z))
        torch.testing.assert_close(slope, grad, msg=name)
    sine = Activation("sin", 30.0)
    (grad,) = torch.autograd.grad(sine(z).sum(), z)
    torch.testing.assert_close(30 * sine.value_and_slope(z)[1], grad)
