"""The path sweep: sums over all paths of products of weights, and of their absolute values, without activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphnfn.nn.state import PlaceTable, State
from graphnfn.nn.taps import Sizes, TapTable
from graphnfn.nn.typed import soft_log
from graphnfn.nn.wiring import Head, Level, Wiring, identity
from graphnfn.symmetry.charge import ACTIVATION, ADJOINT, ODD, WEIGHT


class PathSweep(nn.Module):
    """What reaches a neuron along all paths from the inputs, and what leads from it to the outputs.

    From learned states at the input neurons, with k_i = ``turn`` and s_i = ``turned_bias`` of
    :mod:`graphnfn.nn.parity`, ``o_i = k_i sum_j w_ij . o_j + beta s_i`` (out-typed), and back from learned states at
    the output neurons ``r_j = sum_i w_ij . k_i r_i`` (out-typed). The same sums over absolute values are even:
    ``p_i = sum_j |w_ij| . p_j + beta' |s_i|`` and ``q_j = sum_i |w_ij| . q_i``, from the absolute values of learned
    states, so that with taps at 1 nothing cancels: path norms. Neurons see both pairs, with learned vectors a, b, c
    for input, hidden and output neurons:
    ``e_i <- e_i + log(a |o_i| + b o_i r_i + c |r_i|) + log(a' p_i + b' p_i q_i + c' q_i)``
    (no bars around o and r where no sign is free), with the signed logarithm ``log(t) = sign(t) ln(1 + |t|)``, since
    products over layers span decades.

    No neuron is evaluated: each sum is a row of the resolvent ``(I - A)^-1`` of the neuron graph with weights A = w or
    ``|w|``, applied to d channels. Only of a network without activations is ``o`` what it computes. There are neither
    gates nor dense layers per neuron, which few training networks would not determine; what earlier layers found does
    not change the sums, so further rounds are further channels.

    Weights are in units of a neuron's own period (sin, cos), and with a reference width as in
    :class:`~graphnfn.nn.gated.GatedSweep`.

    Args:
        width: channels d.
        sizes: of the tables of input neurons, output neurons and taps.

    Shape: even ``[..., d]`` in and out; o goes to ``state.odd``.

    Source: path norms are those of Neyshabur et al., "Norm-Based Capacity Control in Neural Networks" (2015, arXiv
    1503.00036).

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.nn.blocks import BlockWiring
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 4, 1], "tanh"), networks=3, dtype=torch.float32)
        >>> wiring = BlockWiring(graph.stacks()[0])
        >>> start = State([torch.zeros(3, n, 8) for n in (2, 4, 1)])
        >>> [tuple(e.shape) for e in PathSweep(8, Sizes.of([graph.spec]))(start, wiring).even]
        [(3, 2, 8), (3, 4, 8), (3, 1, 8)]
    """

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__()
        WEIGHT.from_source(ACTIVATION).parity.require(ODD, "forward message")
        WEIGHT.from_target(ADJOINT).parity.require(ODD, "backward message")
        self.paths, self.masses = _Paths(width, sizes), _Masses(width, sizes)

    def forward(self, state: State, wiring: Wiring) -> State:
        there, seen = self.paths(wiring)
        _, seen_masses = self.masses(wiring)
        return State([e + one + other for e, one, other in zip(state.even, seen, seen_masses, strict=True)], there)


class _Paths(nn.Module):
    """Sums over products of weights, which have the sign types of activations and adjoints."""

    head: Head = staticmethod(identity)
    there, back = 0.0, -0.5
    """Powers of the relative width in what is sent to outputs and to inputs."""

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__()
        self.inputs, self.outputs = PlaceTable(sizes.inputs, width), PlaceTable(sizes.outputs, width)
        self.taps = TapTable(width, sizes)
        self.beta = nn.Parameter(torch.ones(width))
        roles = ("input", "hidden", "output")
        self.mix = nn.ParameterDict({role: nn.Parameter(torch.randn(3, width)) for role in roles})

    def ends(self, values: Tensor) -> Tensor:
        """States where paths begin."""
        return values

    def turned(self, level: Level, values: Tensor) -> Tensor:
        """In-typed values as out-typed ones, and back."""
        return level.in_periods(level.turned(values))

    def bias(self, level: Level) -> Tensor:
        """The bias, typed like what it is added to."""
        return level.turned_bias

    def even(self, level: Level, values: Tensor) -> Tensor:
        """Out-typed values as even ones."""
        return level.even(values)

    def forward(self, wiring: Wiring) -> tuple[list[Tensor], list[Tensor]]:
        """Per level, the sums from the inputs and what neurons see of these and of those to the outputs."""
        xs: list[Tensor] = []
        for i, level in enumerate(wiring.levels):
            if level.role == "input":
                xs.append(self.ends(self.inputs(level)))
                continue
            arrived = wiring.pull(i, wiring.scaled(xs, self.there), self.taps, self.head)
            xs.append(torch.addcmul(self.turned(level, arrived), self.bias(level), self.beta))
        sent, seen = [torch.empty(0)] * len(xs), list(xs)
        for i, level in reversed(list(enumerate(wiring.levels))):
            if level.role == "output":
                y = self.ends(self.outputs(level))
            else:
                y = wiring.scale(i, wiring.push(i, wiring.scaled(sent, self.back), self.taps, self.head), 0.5)
            sent[i] = self.turned(level, y)
            of_x, of_both, of_y = self.mix[level.role]
            single = torch.addcmul(self.even(level, xs[i]) * of_x, self.even(level, y), of_y)
            seen[i] = soft_log(torch.addcmul(single, xs[i] * y, of_both))
        return xs, seen


class _Masses(_Paths):
    """The same of absolute weights, which are even as they are."""

    head: Head = staticmethod(torch.abs)
    there, back = -0.5, -1.0

    def ends(self, values: Tensor) -> Tensor:
        return values.abs()  # nothing cancels, as in a norm

    def turned(self, level: Level, values: Tensor) -> Tensor:
        return values

    def bias(self, level: Level) -> Tensor:
        return level.turned_bias.abs()

    def even(self, level: Level, values: Tensor) -> Tensor:
        return values
