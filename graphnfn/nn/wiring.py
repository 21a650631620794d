"""How states travel along weights: one interface, two implementations.

A *level* is a set of neurons that are updated together; a *wiring* moves states between levels.
:class:`~graphnfn.nn.blocks.BlockWiring` works on the stacked weights of networks of one spec: a level is
a neuron group, states are ``[B, n, d]``, a message is one batched GEMM per block.
:class:`~graphnfn.nn.edges.EdgeWiring` works on ``edge_index``: a level is all hidden (or output) neurons of
one depth in any mix of networks, states are ``[nodes, d]``, a message is a gather and a scatter.  Layers are
written once, against the interface, and both wirings give the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from graphnfn.nn.parity import Parts, even_biases, turns_and_biases
from graphnfn.nn.taps import TapTable
from graphnfn.nn.typed import soft_root
from graphnfn.spec import Block, Role
from graphnfn.stack import Stack

SEEN = (0.0, 0.5, 0.5)
"""Powers of the relative width in what a neuron sees: of its activation, of both together, of its adjoint."""

Head = Callable[[Tensor], Tensor]
"""An elementwise function of weights: ``identity`` (typed like the weight) or ``torch.abs`` (even)."""


def identity(weight: Tensor) -> Tensor:
    """The weight itself."""
    return weight


@dataclass(frozen=True)
class Level:
    """Neurons that are updated together; tensors lead with ``[B, n]`` (or broadcastable) or ``[nodes]``.

    Args:
        role: input, hidden or output, the same for all of them.
        bias: canonical bias ``[..., 1]``.
        signed: whether the neuron's sign is free ``[..., 1]``, or one answer for all.
        periodic: whether half turns act on the neuron ``[..., 1]``, or one answer for all.
        place: the neuron's place in its group ``[...]``.
        depth_in, depth_out: blocks from the inputs and to the outputs ``[...]``.
        kind: activation id ``[...]``.
        parts: the activations, whether their sign is free, and the mask of the neurons that have it (None: all).
        plain: whether ``turn`` is 1 for all.
        first: whether nothing but input neurons feeds these.
        slope: PReLU slopes ``[..., 1]``, where there are any.
        size: neurons of the neuron's group ``[..., 1]``, or one number for all.
    """

    role: Role
    bias: Tensor
    signed: Tensor | bool
    periodic: Tensor | bool
    place: Tensor
    depth_in: Tensor
    depth_out: Tensor
    kind: Tensor
    parts: Parts
    plain: bool
    first: bool
    slope: Tensor | None
    size: Tensor | int

    @cached_property
    def even_bias(self) -> Tensor:
        """What of the bias is even ``[..., 1]``."""
        return even_biases(self.parts, self.bias)

    @cached_property
    def _turned(self) -> tuple[Tensor, Tensor]:
        return turns_and_biases(self.parts, self.bias)

    @property
    def turn(self) -> Tensor | None:
        """Conversion between in- and out-typed features ``[..., 1]``, see :mod:`~graphnfn.nn.parity`; None: all 1."""
        return None if self.plain else self._turned[0]

    @property
    def turned_bias(self) -> Tensor:
        """The bias as an out-typed feature ``[..., 1]``."""
        return self.bias if self.plain else self._turned[1]

    def even(self, values: Tensor) -> Tensor:
        """Values as even features: as they are where no sign is free, else their absolute value."""
        if isinstance(self.signed, bool):
            return values.abs() if self.signed else values
        return torch.where(self.signed, values.abs(), values)

    def turned(self, values: Tensor) -> Tensor:
        """In-typed values as out-typed ones, and back."""
        return values if self.turn is None else values * self.turn

    @cached_property
    def frequency(self) -> Tensor | float:
        """omega ``[..., 1]`` of the neurons whose activation has a period, 1 of the others; or one number for all."""
        found: Tensor | float = 1.0
        for act, _, rows in self.parts:
            if act.rule.half_turns:
                own = torch.full_like(self.bias, act.parameter)
                found = act.parameter if rows is None else torch.where(rows, own, found)
        return found

    def in_periods(self, typed: Tensor) -> Tensor:
        """In-typed values in units of the period, ``omega x``: those in which a bias turns a neuron's phase."""
        return typed if isinstance(self.frequency, float) and self.frequency == 1 else typed * self.frequency

    def waves(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """``sin m`` (in-typed) and ``cos m`` (even) of in-typed m; m and 1 where an activation has no period."""
        sine, cosine = m, torch.ones_like(m)
        for act, _, rows in self.parts:
            if act.rule.half_turns:
                sine = m.sin() if rows is None else torch.where(rows, m.sin(), sine)
                cosine = m.cos() if rows is None else torch.where(rows, m.cos(), cosine)
        return sine, cosine

    def activate(self, z: Tensor, slope: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Every neuron's own activation at z, and its derivative there (rows that mix neurons: identity).

        ``slope`` takes the place of the level's own PReLU slopes, for z of some of its networks.
        """
        slope = self.slope if slope is None else slope
        value = derivative = None
        for act, _, rows in self.parts:
            if act.rule.elementwise:
                x, dx = act.value_and_slope(z, slope)
            else:
                x, dx = z, torch.ones_like(z)
            value = x if value is None or rows is None else torch.where(rows, x, value)
            derivative = dx if derivative is None or rows is None else torch.where(rows, dx, derivative)
        assert value is not None and derivative is not None
        return value, derivative


@dataclass(frozen=True)
class NativeCall:
    """What a native sweep works with besides weights; lists run over levels.

    Args:
        even: even features, to which what the neurons see is added.
        start: states x of the input levels.
        end: by output level, states from which the way back begins, next to ``answer`` of the outputs.
        answer: ``d -> d``.
        taps: tap vectors.
        bias_gain: factor ``[d]`` of the biases; periodic neurons keep theirs, since half turns act on it.
        mix: by role, a, b, c of ``e + root(a |x| + b x y + c |y|)`` as ``[3, d]``.
    """

    even: list[Tensor]
    start: dict[int, Tensor]
    end: dict[int, Tensor]
    answer: nn.Linear
    taps: TapTable
    bias_gain: Tensor
    mix: Mapping[str, Tensor]

    def beta(self, level: Level) -> Tensor | float:
        """Factors of a level's biases, ``[d]`` or ``[..., d]``, or 1."""
        if isinstance(level.periodic, bool):
            return 1.0 if level.periodic else self.bias_gain
        return torch.where(level.periodic, 1.0, self.bias_gain)


class Wiring(ABC):
    """Levels in topological order, and the messages between them."""

    levels: list[Level]
    networks: int
    stacks: list[Stack]
    reference: int | None = None
    """Neurons per hidden group for which what layers see is scaled; None leaves it as it is."""

    def relative_width(self, level: int) -> Tensor | float:
        """``rho = n / reference``, n the size of a neuron's hidden group; 1 without a reference and at the ends."""
        here = self.levels[level]
        return 1.0 if self.reference is None or here.role != "hidden" else here.size / self.reference

    def scaled(self, states: list[Tensor], power: float) -> list[Tensor]:
        """States times ``rho^power``."""
        return [self.scale(i, state, power) for i, state in enumerate(states)]

    def scale(self, level: int, state: Tensor, power: float) -> Tensor:
        """The state of one level times ``rho^power``."""
        rho = self.relative_width(level)
        return state if isinstance(rho, float) and rho == 1 else state * rho**power

    @abstractmethod
    def plus(self, states: list[Tensor], seen: list[list[Tensor | None]]) -> list[Tensor]:
        """States plus ``[B, n, d]`` for the groups of each stack's spec; None adds nothing."""

    @abstractmethod
    def pull(self, level: int, states: list[Tensor], taps: TapTable, head: Head = identity) -> Tensor:
        """Per neuron i of a level, ``sum_j sum_t head(w_ij[t]) tap[t] * x_j`` over its sources j."""

    @abstractmethod
    def push(self, level: int, states: list[Tensor], taps: TapTable, head: Head = identity) -> Tensor:
        """Per neuron j of a level, ``sum_i sum_t head(w_ij[t]) tap[t] * y_i`` over its targets i."""

    @abstractmethod
    def pool(self, level: int, values: Tensor) -> Tensor:
        """Mean, standard deviation and maximum over each neuron group of a level, ``[groups, 3 d]``.

        With a reference width those of hidden groups are what so many neurons would show on average.
        """

    @abstractmethod
    def collect(self, level: int, rows: Tensor, *, pooled: bool) -> Tensor:
        """Sum of pooled rows ``[groups, d]`` (or of neurons ``[..., d]``) by network, ``[networks, d]``."""

    # Edges come in bundles: edge features are ``[..., d]`` with leading ``[B, n_dst, n_src]`` or ``[edges]``.

    @abstractmethod
    def weights(self, k: int) -> Tensor:
        """Canonical weights of a bundle, ``[..., taps]``."""

    @abstractmethod
    def block(self, k: int) -> Block:
        """A block whose taps are those of the bundle."""

    @abstractmethod
    def at_source(self, k: int, states: list[Tensor]) -> Tensor:
        """Neuron states at the sources of a bundle's edges, broadcastable to them."""

    @abstractmethod
    def at_target(self, k: int, states: list[Tensor]) -> Tensor:
        """Neuron states at the targets of a bundle's edges, broadcastable to them."""

    @abstractmethod
    def to_targets(self, values: list[Tensor], reduce: str) -> list[Tensor]:
        """Edge features, one tensor a bundle, reduced ("sum" or "mean") at their targets: one tensor a level."""

    @abstractmethod
    def to_sources(self, values: list[Tensor], reduce: str) -> list[Tensor]:
        """The same at their sources."""

    @abstractmethod
    def unbundle(self, edges: list[Tensor], nodes: list[Tensor]) -> list[tuple[list[Tensor], Tensor]]:
        """Per stack, edge values ``[..., taps]`` as its blocks and node values ``[..., 1]`` as ``[B, nodes]``."""

    @property
    @abstractmethod
    def num_bundles(self) -> int:
        """How many bundles there are."""

    def native(self, call: NativeCall) -> tuple[list[Tensor], list[Tensor]]:
        """A native sweep, see :class:`~graphnfn.nn.native.NativeSweep`: even features and activations per level.

        Neurons see adjoints times ``rho^(1/2)``: a function's derivative by one of n neurons falls like ``n^(-1/2)``.
        This is the plain loop; a wiring may have something faster that gives the same numbers.
        """
        xs: list[Tensor] = []
        slopes: list[Tensor] = []
        for i, level in enumerate(self.levels):
            if level.role == "input":
                x, slope = call.start[i], torch.ones_like(call.start[i])
            else:
                x, slope = level.activate(self.pull(i, xs, call.taps) + level.bias * call.beta(level))
            xs.append(x)
            slopes.append(slope)
        ys: list[Tensor] = [torch.empty(0)] * len(xs)
        even = list(call.even)
        for i in reversed(range(len(xs))):
            level, x = self.levels[i], xs[i]
            returned = call.end[i] + call.answer(x) if level.role == "output" else self.push(i, ys, call.taps)
            ys[i] = returned * slopes[i]
            of_x, of_product, of_y = (
                self.scale(i, t, power) for t, power in zip(call.mix[level.role], SEEN, strict=True)
            )
            seen = torch.addcmul(x * returned * of_product, level.even(x), of_x)
            # activations span decades, hence the root
            even[i] = even[i] + soft_root(torch.addcmul(seen, level.even(returned), of_y))
        return even, xs

    def outer(self, k: int, into: list[Tensor], out: list[Tensor], taps: Tensor) -> Tensor:
        """Per edge of a bundle and tap, ``sum_c into_i^c out_j^c taps[t, c]``, ``[..., taps]``."""
        return (self.at_target(k, into) * self.at_source(k, out)) @ taps.T

    def lift(self, taps: TapTable) -> list[Tensor]:
        """Per bundle, ``sum_t w[t] tap[t]``: weights as typed edge features ``[..., d]``."""
        lifted = []
        for k in range(self.num_bundles):
            block = self.block(k)
            lifted.append(self.weights(k) @ taps.mix(block) @ taps.gain(block))
        return lifted
