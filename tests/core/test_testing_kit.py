"""The testing kit itself: what is right passes, what is deliberately broken is caught."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphnfn import testing
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.errors import GraphNFNError, SymmetryError
from graphnfn.functional import run
from graphnfn.graph import NeuralGraph
from graphnfn.stack import Stack

RELU = mlp_spec([3, 6, 5, 2], "relu")
DEEP = mlp_spec([3, 4, 7, 6, 2], "relu")
TANH = mlp_spec([3, 5, 6, 2], "tanh")
SINE = mlp_spec([3, 6, 4, 2], "sin", omega=30.0)
CNN = small_cnn_spec([1, 4, 5], 3, "relu", input_shape=(1, 8, 8))


def per_network(function: Callable[[Stack], Tensor]) -> Callable[[NeuralGraph], Tensor]:
    """A function of stacks as a module of (mixed) batches."""

    def module(graph: NeuralGraph) -> Tensor:
        rows: dict[int, Tensor] = {}
        for stack, places in zip(graph.stacks(), graph.members(), strict=True):
            rows.update(zip(places.tolist(), function(stack), strict=True))
        return torch.stack([rows[i] for i in range(graph.num_graphs)])

    return module


def probe(stack: Stack) -> Tensor:
    """What the networks compute on three inputs: exact, and changed by everything that changes the function."""
    shape = (1, 8, 8) if stack.spec == CNN else (3,)
    inputs = torch.linspace(-1, 1, 3 * torch.Size(shape).numel(), dtype=stack.nodes.dtype).view(3, *shape)
    return run(stack, inputs)[..., :2].flatten(1)


def mixed_batch(dtype: torch.dtype = torch.float64) -> NeuralGraph:
    specs = (RELU, DEEP, TANH, RELU, CNN)
    return NeuralGraph.collate(testing.random_graph(s, i, dtype) for i, s in enumerate(specs))


class RowNorms(nn.Module):
    """Norms of the incoming weights of every neuron, pooled: invariant to permutations and signs only."""

    def forward(self, graph: NeuralGraph) -> Tensor:
        return per_network(lambda s: torch.stack([b.square().sum((1, 2, 3)) for b in s.blocks[:2]], 1))(graph)


class SignedBias(nn.Module):
    """Adds a learned constant to a charged field: the classical mistake."""

    def forward(self, graph: NeuralGraph) -> NeuralGraph:
        return graph.map_stacks(lambda s: Stack(s.spec, s.nodes + 0.1, s.blocks))


class ReverseMessage(nn.Module):
    """Forward messages w x are right; the backward ones multiply by w too, where ReLU scales need 1/w."""

    def forward(self, graph: NeuralGraph) -> Tensor:
        return per_network(self._read)(graph)

    @staticmethod
    def _read(stack: Stack) -> Tensor:
        weight = [b[..., 0] for b in stack.blocks]
        x = torch.ones(stack.size, weight[0].shape[2], 1, dtype=stack.nodes.dtype)
        hidden = torch.relu(weight[0] @ x)
        back = weight[1].transpose(1, 2) @ torch.relu(weight[1] @ hidden)
        return (hidden * back).sum(1)


class EdgeMoments(nn.Module):
    """Sums of |w| over each matrix, rescaled by fixed numbers: blind to every rearrangement inside a matrix."""

    def forward(self, graph: NeuralGraph) -> Tensor:
        return per_network(lambda s: torch.stack([b.abs().sum((1, 2, 3)) for b in s.blocks[:2]], 1))(graph)


class Shrink(nn.Module):
    """The edited weights 0.5 W, b of the first matrix: exactly equivariant, but it commutes with any rearrangement."""

    def forward(self, graph: NeuralGraph) -> NeuralGraph:
        return graph.map_stacks(lambda s: Stack(s.spec, s.nodes, tuple(0.5 * b for b in s.blocks)))


class GradientStep(nn.Module):
    """One step down the squared outputs, in weights measured by the neurons' own scale-free units (tanh: plain)."""

    def forward(self, graph: NeuralGraph) -> NeuralGraph:
        def step(stack: Stack) -> Stack:
            with torch.enable_grad():
                live = stack.apply(lambda t: t.detach().requires_grad_())
                grads = torch.autograd.grad(probe(live).square().sum(), [live.nodes, *live.blocks])
            return Stack(
                stack.spec,
                stack.nodes - 0.1 * grads[0],
                tuple(b - 0.1 * g for b, g in zip(stack.blocks, grads[1:], strict=True)),
            )

        return graph.map_stacks(step)


# ---- equivariance ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_exact_module_passes_on_mixed_architectures(dtype: torch.dtype, limit: float) -> None:
    assert testing.assert_equivariant(per_network(probe), mixed_batch(dtype)) <= limit


def test_equivariant_module_passes() -> None:
    graph = NeuralGraph.collate([testing.random_graph(TANH, 1), testing.random_graph(TANH, 2)])
    assert testing.assert_equivariant(GradientStep(), graph) < 1e-12
    # of the scale group, W and its gradient have opposite charges: the same step is wrong for ReLU
    with pytest.raises(AssertionError, match="parameter 'layers.1.weight'"):
        testing.assert_equivariant(GradientStep(), testing.random_graph(RELU))


def test_bias_on_a_charged_field_is_caught() -> None:
    with pytest.raises(AssertionError, match=r"network 1, bias of group 'layers\.[01]': relative error"):
        testing.assert_equivariant(SignedBias(), NeuralGraph.collate([testing.random_graph(TANH, i) for i in (0, 5)]))


def test_reverse_message_with_w_is_caught_on_relu_and_right_under_permutations() -> None:
    graph = testing.random_graph(RELU, networks=3)
    with pytest.raises(AssertionError, match="spec symmetry"):
        testing.assert_equivariant(ReverseMessage(), graph)
    assert testing.equivariance_error(ReverseMessage(), graph, decades=0.5) > 1e-3
    assert testing.assert_equivariant(ReverseMessage(), graph, symmetry="permutation") < 1e-13


def test_one_broken_decade_of_scale_is_enough() -> None:
    graph = testing.random_graph(RELU, networks=2)
    assert testing.equivariance_error(RowNorms(), graph, decades=1.0) > 1e-2
    assert testing.equivariance_error(RowNorms(), graph, symmetry="permutation") < 1e-13


def test_order_dependence_is_caught_by_permutations() -> None:
    first_neuron = per_network(lambda s: s.blocks[0][:, 0].flatten(1).abs())
    assert testing.equivariance_error(first_neuron, testing.random_graph(TANH), symmetry="permutation") > 1e-2


def test_phase_dependence_is_caught_by_half_turns_only() -> None:
    biases = per_network(lambda s: s.nodes[..., 0].abs().sum(1, keepdim=True))
    graph = testing.random_graph(SINE, networks=2)
    assert testing.equivariance_error(biases, graph) < 1e-13
    assert testing.equivariance_error(biases, graph, half_turns=2) > 1e-2
    assert testing.equivariance_error(per_network(probe), graph, half_turns=2) < 1e-10


def test_nan_is_no_agreement() -> None:
    nan = per_network(lambda s: s.nodes.sum((1, 2), keepdim=True) * torch.nan)
    with pytest.raises(AssertionError, match="inf"):
        testing.assert_equivariant(nan, testing.random_graph(RELU))


def test_a_broken_row_is_not_hidden_by_large_ones() -> None:
    def module(graph: NeuralGraph) -> Tensor:
        good = per_network(probe)(graph)
        bad = per_network(lambda s: s.blocks[0].sum((1, 2, 3))[:, None])(graph)
        good[2] = 1e-6 * bad[2]
        return good

    with pytest.raises(AssertionError, match="network 2, output"):
        testing.assert_equivariant(module, testing.random_graph(TANH, networks=4))


def test_networks_without_symmetry_are_refused() -> None:
    with pytest.raises(SymmetryError, match="nothing to test"):
        testing.assert_equivariant(per_network(probe), testing.random_graph(mlp_spec([3, 2], "relu")))


@pytest.mark.parametrize("output", [torch.ones(5), torch.tensor(1.0), "text"])
def test_outputs_that_are_no_rows_are_refused(output: object) -> None:
    with pytest.raises(GraphNFNError, match="the module returned"):
        testing.equivariance_error(lambda graph: output, testing.random_graph(RELU))  # type: ignore[arg-type,return-value]


def test_half_precision_needs_a_tolerance() -> None:
    with pytest.raises(GraphNFNError, match="bfloat16"):
        testing.assert_equivariant(RowNorms(), testing.random_graph(RELU, dtype=torch.bfloat16))


def test_random_elements_never_stand_still() -> None:
    pair = mlp_spec([2, 2, 1], "gelu")  # half of all draws would be the identity
    graph = testing.random_graph(pair, networks=64)
    (element,) = testing.random_elements(graph)
    assert (element.actions["layers.0"].perm == torch.tensor([1, 0])).all()


def test_elements_differ_between_networks() -> None:
    (element,) = testing.random_elements(testing.random_graph(RELU, networks=3))
    scale = element.actions["layers.0"].scale
    assert not torch.equal(scale[0], scale[1])
    assert not torch.equal(scale[1], scale[2])


def test_act_each_needs_an_element_per_architecture() -> None:
    with pytest.raises(SymmetryError, match="no group element"):
        testing.act_each(testing.random_elements(testing.random_graph(RELU)), mixed_batch())


# ---- separation -----------------------------------------------------------------------------------


def test_probing_separates_on_mixed_architectures() -> None:
    changes = testing.assert_separates(per_network(probe), mixed_batch())
    assert list(changes) == ["uncoupled rows", "uncoupled columns", "kernel factors", "shuffled signs"]
    assert min(changes.values()) > 1e-3


def test_separating_transforms_change_functions() -> None:
    graph = mixed_batch()
    for transform in testing.separating_transforms(graph).values():
        for moved, still in zip(transform(graph).to_data_list(), graph.to_data_list(), strict=True):
            with pytest.raises(AssertionError, match="different functions"):
                testing.assert_same_function(moved, still, rtol=1e-2)


def test_blindness_to_rearrangements_is_caught() -> None:
    with pytest.raises(AssertionError, match="'uncoupled rows'.*'uncoupled columns'.*'shuffled signs'") as caught:
        testing.assert_separates(EdgeMoments(), mixed_batch())
    assert "kernel factors" not in str(caught.value)


def test_blindness_to_kernel_factors_is_caught() -> None:
    signs = per_network(lambda s: (s.blocks[1] > 0).double().sum((2, 3)) @ torch.arange(s.blocks[1].shape[1]).double())
    with pytest.raises(AssertionError, match="'kernel factors'"):
        testing.assert_separates(signs, testing.random_graph(RELU, networks=2))


def test_blindness_in_one_network_of_a_batch_is_caught() -> None:
    def module(graph: NeuralGraph) -> Tensor:
        out = per_network(probe)(graph)
        return torch.cat([out[:1] * 0 + 1, out[1:]])

    with pytest.raises(AssertionError, match="blind"):
        testing.assert_separates(module, testing.random_graph(TANH, networks=3))


def test_equivariant_modules_are_compared_with_the_moved_output() -> None:
    graph = testing.random_graph(TANH, networks=2)
    assert min(testing.assert_separates(GradientStep(), graph).values()) > 1e-4
    with pytest.raises(AssertionError, match="blind"):
        testing.assert_separates(Shrink(), graph)


def test_transformations_that_change_nothing_do_not_count() -> None:
    silent = testing.random_graph(RELU)
    silent = silent.map_stacks(lambda s: Stack(s.spec, s.nodes * 0, (*s.blocks[:-1], s.blocks[-1] * 0)))
    with pytest.raises(GraphNFNError, match="no separating transformation changes"):
        testing.assert_separates(per_network(probe), silent)


# ---- round trips ----------------------------------------------------------------------------------


def test_roundtrip_of_graphs() -> None:
    testing.assert_roundtrip(mixed_batch())
    testing.assert_roundtrip(testing.random_graph(CNN, dtype=torch.float16))


def read(source: object) -> NeuralGraph:
    assert isinstance(source, dict)
    return NeuralGraph.build(RELU, source)


def test_roundtrip_of_sources() -> None:
    state = testing.random_graph(RELU).state_dict()
    testing.assert_roundtrip(state, read, lambda graph, *, like: graph.state_dict())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: {k: v.float().double() for k, v in s.items()}, "layers.0.weight: .* bytes"),
        (lambda s: {k: v.float() for k, v in s.items()}, "torch.float32 .* instead of torch.float64"),
        (lambda s: dict(reversed(s.items())), "keys"),
        (lambda s: {k: v for k, v in s.items() if "bias" not in k}, "keys"),
        (lambda s: {k: v + 0.0 for k, v in s.items()}, "layers.0.bias: 1 bytes"),
    ],
)
def test_lossy_roundtrips_are_caught(damage: Callable[[dict], dict], message: str) -> None:
    state = testing.random_graph(RELU).state_dict()
    state["layers.0.bias"][0] = -0.0  # equal to 0.0, but not to the bit
    with pytest.raises(AssertionError, match=message):
        testing.assert_roundtrip(state, read, lambda graph, *, like: damage(graph.state_dict()))


class Forgetful(NeuralGraph):
    """Loses the last network's biases when it is taken apart."""

    def to_data_list(self) -> list[NeuralGraph]:
        singles = super().to_data_list()
        last = singles[-1].map_stacks(lambda s: Stack(s.spec, s.nodes * 0, s.blocks))
        return [*singles[:-1], last]


def test_lossy_graphs_are_caught() -> None:
    graph = Forgetful.from_stacks(mixed_batch().stacks(), mixed_batch().members())
    with pytest.raises(AssertionError, match="to_data_list.*node parameters"):
        testing.assert_roundtrip(graph)


def test_roundtrip_needs_both_functions() -> None:
    with pytest.raises(TypeError, match="convert and restore"):
        testing.assert_roundtrip({})


# ---- functions ------------------------------------------------------------------------------------


def test_same_function_of_graphs_and_modules() -> None:
    module = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    state = {}
    for i, layer in enumerate((0, 2, 4)):
        state[f"layers.{i}.weight"] = module[layer].weight
        state[f"layers.{i}.bias"] = module[layer].bias
    graph = NeuralGraph.build(RELU, state)
    assert testing.assert_same_function(graph, module) < 1e-14
    assert testing.assert_same_function(module, graph) < 1e-14
    assert testing.assert_same_function(module, module, torch.randn(4, 3, dtype=torch.float64)) == 0
    with torch.no_grad():
        module[2].bias[0] += 1e-4
    copy = NeuralGraph.build(RELU, {k: v.detach().clone() for k, v in state.items()})
    with torch.no_grad():
        module[2].bias[0] += 1e-4
    with pytest.raises(AssertionError, match="network 0 has relative error"):
        testing.assert_same_function(copy, module)


def test_the_worst_network_is_named() -> None:
    graph = testing.random_graph(TANH, networks=3)
    moved = graph.map_stacks(lambda s: Stack(s.spec, s.nodes * torch.tensor([1.0, 1, 1.001])[:, None, None], s.blocks))
    with pytest.raises(AssertionError, match="network 2"):
        testing.assert_same_function(moved, graph)


def test_functions_need_inputs_and_equal_numbers() -> None:
    with pytest.raises(GraphNFNError, match="inputs="):
        testing.assert_same_function(torch.relu, torch.relu)
    with pytest.raises(GraphNFNError, match="compared 3 networks with 1"):
        testing.assert_same_function(testing.random_graph(TANH, networks=3), testing.random_graph(TANH))


# ---- batches --------------------------------------------------------------------------------------


def test_batch_independence() -> None:
    graphs = mixed_batch().to_data_list()
    assert testing.assert_batch_independent(per_network(probe), graphs) < 1e-12
    assert testing.assert_batch_independent(Shrink(), graphs) == 0


def test_normalising_over_the_batch_is_caught() -> None:
    def module(graph: NeuralGraph) -> Tensor:
        out = per_network(probe)(graph)
        return out / (1 + out.norm())

    with pytest.raises(AssertionError, match="differs at place"):
        testing.assert_batch_independent(module, mixed_batch().to_data_list())


def test_dependence_on_the_place_is_caught() -> None:
    def module(graph: NeuralGraph) -> Tensor:
        out = per_network(probe)(graph)
        return out * (1 + 1e-3 * torch.arange(len(out))[:, None])

    with pytest.raises(AssertionError, match="of batch"):
        testing.assert_batch_independent(module, mixed_batch().to_data_list())


def test_one_network_is_no_batch() -> None:
    with pytest.raises(GraphNFNError, match="two at least"):
        testing.assert_batch_independent(RowNorms(), [testing.random_graph(RELU)])


def test_pure_modules_and_others() -> None:
    testing.assert_pure(per_network(probe), mixed_batch())

    def scales_in_place(graph: NeuralGraph) -> Tensor:
        graph.edge_attr.mul_(2)
        return graph.edge_attr

    def adds_a_field(graph: NeuralGraph) -> Tensor:
        graph.extra = graph.x
        return graph.x

    with pytest.raises(AssertionError, match="changed 'edge_attr'"):
        testing.assert_pure(scales_in_place, mixed_batch())
    with pytest.raises(AssertionError, match="extra"):
        testing.assert_pure(adds_a_field, mixed_batch())


# ---- random graphs --------------------------------------------------------------------------------


def test_random_graphs_are_generic() -> None:
    graph = testing.random_graph(SINE, networks=2)
    assert graph.validate()
    assert not torch.equal(graph.stacks()[0].nodes[0], graph.stacks()[0].nodes[1])
    output = run(graph, torch.randn(256, 3, dtype=torch.float64))
    assert 0.1 < float(output.std()) < 10
    assert torch.equal(testing.random_graph(SINE, 3).x, testing.random_graph(SINE, 3).x)
    assert not torch.equal(testing.random_graph(SINE, 3).x, testing.random_graph(SINE, 4).x)
