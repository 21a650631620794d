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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from graphnfn.activations import Activation
from graphnfn.nn.taps import TapTable
from graphnfn.spec import Block, Role

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
        even_bias: what of it is even ``[..., 1]``.
        turn: conversion between in- and out-typed features ``[..., 1]``, see :mod:`graphnfn.nn.parity`;
            None where it is 1 for all.
        turned_bias: the bias as an out-typed feature ``[..., 1]``.
        signed: whether the neuron's sign is free ``[..., 1]``, or one answer for all.
        periodic: whether half turns act on the neuron ``[..., 1]``, or one answer for all.
        place: the neuron's place in its group ``[...]``.
        depth_in, depth_out: blocks from the inputs and to the outputs ``[...]``.
        kind: activation id ``[...]``.
        parts: the activations, with the mask of the neurons that have it (None: all).
        slope: PReLU slopes ``[..., 1]``, where there are any.
    """

    role: Role
    bias: Tensor
    even_bias: Tensor
    turn: Tensor | None
    turned_bias: Tensor
    signed: Tensor | bool
    periodic: Tensor | bool
    place: Tensor
    depth_in: Tensor
    depth_out: Tensor
    kind: Tensor
    parts: tuple[tuple[Activation, Tensor | None], ...]
    slope: Tensor | None

    def even(self, values: Tensor) -> Tensor:
        """Values as even features: as they are where no sign is free, else their absolute value."""
        if isinstance(self.signed, bool):
            return values.abs() if self.signed else values
        return torch.where(self.signed, values.abs(), values)

    def turned(self, values: Tensor) -> Tensor:
        """In-typed values as out-typed ones, and back."""
        return values if self.turn is None else values * self.turn

    def activate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Every neuron's own activation at z, and its derivative there (rows that mix neurons: identity)."""
        value = derivative = None
        for act, rows in self.parts:
            if act.rule.elementwise:
                x, dx = act.value_and_slope(z, self.slope)
            else:
                x, dx = z, torch.ones_like(z)
            value = x if value is None or rows is None else torch.where(rows, x, value)
            derivative = dx if derivative is None or rows is None else torch.where(rows, dx, derivative)
        assert value is not None and derivative is not None
        return value, derivative


class Wiring(ABC):
    """Levels in topological order, and the messages between them."""

    levels: list[Level]
    networks: int

    @abstractmethod
    def join(self, values: list[Tensor]) -> Tensor:
        """One tensor of all levels' features, so that a layer acts once on all neurons."""

    @abstractmethod
    def split(self, joined: Tensor) -> list[Tensor]:
        """The inverse of :meth:`join`."""

    @abstractmethod
    def pull(self, level: int, states: list[Tensor], taps: TapTable, head: Head = identity) -> Tensor:
        """Per neuron i of a level, ``sum_j sum_t head(w_ij[t]) tap[t] * x_j`` over its sources j."""

    @abstractmethod
    def push(self, level: int, states: list[Tensor], taps: TapTable, head: Head = identity) -> Tensor:
        """Per neuron j of a level, ``sum_i sum_t head(w_ij[t]) tap[t] * y_i`` over its targets i."""

    @abstractmethod
    def pool(self, level: int, values: Tensor) -> Tensor:
        """Mean, standard deviation and maximum over each neuron group of a level, ``[groups, 3 d]``."""

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
