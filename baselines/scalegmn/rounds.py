"""Rounds of message passing, block by block, on exactly those neurons and edges that the result depends on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.scalegmn.layers import Ends, Equivariant, Features, Kinds, MLPs, Place, Plain
from baselines.scalegmn.messages import EdgeUpdate, Messages, PlainEdgeUpdate, PlainMessages, along
from graphnfn.spec import NetSpec


@dataclass(frozen=True)
class Want:
    """Groups whose neurons, and blocks whose (forward, backward) edges, a layer must give."""

    nodes: frozenset[int]
    edges: frozenset[int] = frozenset()
    back: frozenset[int] = frozenset()


def receptive_field(spec: NetSpec, last: Want, layers: int, bidirectional: bool) -> list[Want]:
    """Per layer, what later layers or the readout need of it.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> spec = mlp_spec([2, 4, 4, 1], "relu")
        >>> [sorted(w.nodes) for w in receptive_field(spec, Want(frozenset({3})), 3, False)]
        [[1, 2, 3], [2, 3], [3]]
    """
    wants = [last]
    for _ in range(layers - 1):
        want = wants[0]
        heard = {b for g in want.nodes for b in spec.incoming[g]} | want.edges
        answered = {b for g in want.nodes for b in spec.outgoing[g]} | want.back if bidirectional else set()
        ends = {spec.position[e] for b in heard | answered for e in (spec.blocks[b].src, spec.blocks[b].dst)}
        wants.insert(0, Want(want.nodes | ends, frozenset(heard), frozenset(answered)))
    return wants


@dataclass
class State:
    """Features per group, and per block for both directions."""

    nodes: dict[int, Tensor]
    edges: dict[int, Features]
    back: dict[int, Features]


@dataclass(frozen=True)
class Parts:
    """Makes the nets of a layer for scale and sign symmetries."""

    kinds: Kinds
    ends: Ends
    extra: int
    width: int
    mlps: MLPs

    def net(self, into: int, out: int) -> nn.Module:
        return Equivariant(self.kinds, self.ends, into, self.extra, out, self.mlps)

    def messages(self) -> nn.Module:
        return Messages(Equivariant(self.kinds, self.ends, self.width, self.extra, self.width, self.mlps), self.width)

    def edge_update(self, out: int) -> nn.Module:
        return EdgeUpdate(self.kinds, self.width, out, self.mlps)


@dataclass(frozen=True)
class PlainParts:
    """Makes the nets of a layer that knows permutations only."""

    width: int
    mlps: MLPs

    def net(self, into: int, out: int) -> nn.Module:
        return Plain(into, out, self.mlps)

    def messages(self) -> nn.Module:
        return PlainMessages(self.width, self.mlps)

    def edge_update(self, out: int) -> nn.Module:
        return PlainEdgeUpdate(self.width, out, self.mlps)


@dataclass(frozen=True)
class Form:
    """Shape of an encoder: layers, directions, and whether its last layer gives weights instead of features."""

    width: int
    layers: int
    bidirectional: bool
    dropout: float
    edit: int | None = None


class Layer(nn.Module):
    """One round: ``h_i' = UPD(h_i, sum fw messages[, sum bw messages])``, then edges from the old h."""

    def __init__(self, parts: Parts | PlainParts, form: Form, last: bool, updates_back: bool) -> None:
        super().__init__()
        ends = last and form.edit is not None
        self.drop, self.sends_position = form.dropout, form.bidirectional
        self.hear = parts.messages()
        self.answer = parts.messages() if form.bidirectional else None
        self.update = parts.net((3 if form.bidirectional else 2) * form.width, 1 if ends else form.width)
        has_edges = not last or ends
        self.edges = parts.edge_update((form.edit or 1) if ends else form.width) if has_edges else None
        self.back = parts.edge_update(form.width) if updates_back and not last else None
        self.skip: nn.Linear | None = None

    def forward(self, spec: NetSpec, state: State, places: Sequence[Place], want: Want) -> State:
        nodes = {}
        for g in sorted(want.nodes):
            heard = [self._messages(self.hear, spec, state, places, b, 2) for b in spec.incoming[g]]
            parts = [state.nodes[g], _total(heard, state.nodes[g])]
            if self.answer is not None:
                answered = [self._messages(self.answer, spec, state, places, b, 1) for b in spec.outgoing[g]]
                parts.append(_total(answered, state.nodes[g]))
            new = self.update(torch.cat(parts, -1), places[g])
            new = new if self.skip is None else self.skip(state.nodes[g]) + new
            nodes[g] = F.dropout(new, self.drop, self.training)
        edges = self._updated(self.edges, spec, state, places, want.edges, 2) if self.edges is not None else {}
        back = self._updated(self.back, spec, state, places, want.back, 1) if self.back is not None else state.back
        return State(nodes, edges, back)

    def _messages(
        self, net: nn.Module, spec: NetSpec, state: State, places: Sequence[Place], b: int, axis: int
    ) -> Tensor:
        sender, receiver = _ends(spec, b, axis)
        place = places[receiver]
        signs = place.signs if isinstance(place.signs, bool) else along(place.signs, 3 - axis)
        extra = places[sender].extra if self.sends_position else place.extra
        if extra is not None:
            extra = along(extra, axis if self.sends_position else 3 - axis)
        edges = (state.edges if axis == 2 else state.back)[b]
        return net(edges, state.nodes[sender], axis, Place(place.role, signs, extra))

    def _updated(
        self, net: nn.Module, spec: NetSpec, state: State, places: Sequence[Place], blocks: Iterable[int], axis: int
    ) -> dict[int, Features]:
        old = state.edges if axis == 2 else state.back
        out: dict[int, Features] = {}
        for b in sorted(blocks):
            ends = [(state.nodes[g], replace(places[g], extra=None)) for g in _ends(spec, b, axis)]
            out[b] = net(old[b], axis, *ends)
        return out


def _ends(spec: NetSpec, b: int, axis: int) -> tuple[int, int]:
    """Sender and receiver of a block read forward (senders on axis 2) or back (on axis 1)."""
    src, dst = spec.position[spec.blocks[b].src], spec.position[spec.blocks[b].dst]
    return (src, dst) if axis == 2 else (dst, src)


def _total(messages: list[Tensor], like: Tensor) -> Tensor:
    return reduce(torch.add, messages) if messages else torch.zeros_like(like)
