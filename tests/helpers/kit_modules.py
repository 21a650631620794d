"""Modules on neuron graphs, right and deliberately broken, for the tests of the testing kit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphnfn import testing
from graphnfn.chain import mlp_spec, small_cnn_spec
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
