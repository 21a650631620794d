"""The block-major wiring: messages as batched GEMMs on stacked weights, no gather and no scatter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from graphnfn.activations import Activation, Gauge
from graphnfn.nn.parity import even_bias, turn_and_bias
from graphnfn.nn.taps import TapTable
from graphnfn.nn.wiring import Head, Level, Wiring, identity
from graphnfn.spec import NODE_FIELDS, Block, NetSpec
from graphnfn.stack import Stack

_SLOPE = NODE_FIELDS.index("slope")


@dataclass(frozen=True)
class GroupFacts:
    """What a level needs to know of a neuron group, independent of the weights."""

    place: Tensor
    depth_in: Tensor
    depth_out: Tensor
    kind: Tensor
    signed: Tensor | bool
    periodic: Tensor | bool
    plain: bool
    parts: tuple[tuple[Activation, bool, Tensor | None], ...]


@lru_cache(maxsize=256)
def group_facts(spec: NetSpec, device: torch.device) -> tuple[GroupFacts, ...]:
    """Per group of the spec, its facts on a device."""
    depth_out = [0] * len(spec.groups)
    for i in reversed(range(len(spec.groups))):
        depth_out[i] = max((depth_out[spec.position[spec.blocks[b].dst]] + 1 for b in spec.outgoing[i]), default=0)
    facts = []
    for i, group in enumerate(spec.groups):
        pairs = group.per_neuron()
        signed = [bool(g & Gauge.SIGN) for _, g in pairs]
        periodic = [a.rule.half_turns and group.half_turns for a, _ in pairs]
        plain = [not s or (bool(a.phi_sign) and not a.rule.half_turns) for (a, _), s in zip(pairs, signed, strict=True)]
        distinct = list(dict.fromkeys((a, bool(g & Gauge.SIGN)) for a, g in pairs))
        parts = []
        for act, sign in distinct:
            rows = torch.tensor([(a, bool(g & Gauge.SIGN)) == (act, sign) for a, g in pairs], device=device)
            parts.append((act, sign, None if len(distinct) == 1 else rows[:, None]))
        facts.append(
            GroupFacts(
                place=torch.arange(group.size, device=device),
                depth_in=torch.full((group.size,), spec.levels[i], device=device),
                depth_out=torch.full((group.size,), depth_out[i], device=device),
                kind=torch.tensor([a.code for a, _ in pairs], device=device),
                signed=one_answer(signed, device),
                periodic=one_answer(periodic, device),
                plain=all(plain),
                parts=tuple(parts),
            )
        )
    return tuple(facts)


def one_answer(values: list[bool], device: torch.device) -> Tensor | bool:
    """A mask ``[n, 1]``, or a plain bool where all agree, which spares the layers work."""
    return values[0] if len(set(values)) == 1 else torch.tensor(values, device=device)[:, None]


def typed_bias(parts: tuple, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``turn``, ``turned_bias`` and ``even_bias`` of neurons with one activation or several."""
    if len(parts) == 1:
        act, sign, _ = parts[0]
        return *turn_and_bias(act, sign, bias), even_bias(act, sign, bias)
    turn = turned = even = torch.zeros_like(bias)
    for act, sign, rows in parts:
        everywhere = torch.ones((), dtype=torch.bool, device=bias.device) if rows is None else rows
        one, two = turn_and_bias(act, sign, bias)
        turn, turned = torch.where(everywhere, one, turn), torch.where(everywhere, two, turned)
        even = torch.where(everywhere, even_bias(act, sign, bias), even)
    return turn, turned, even


class BlockWiring(Wiring):
    """The wiring of a (canonical, effective) stack; see :mod:`graphnfn.nn.wiring`."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.spec, self.networks = stack, stack.spec, stack.size
        self._cache: dict[tuple[int, TapTable, Head], Tensor] = {}
        self.levels = []
        for i, (group, facts) in enumerate(
            zip(self.spec.groups, group_facts(self.spec, stack.nodes.device), strict=True)
        ):
            values = stack.group(i)
            bias = values[..., :1]
            turn, turned, even = typed_bias(facts.parts, bias)
            self.levels.append(
                Level(
                    role=group.role,
                    bias=bias,
                    even_bias=even,
                    turn=None if facts.plain else turn,
                    turned_bias=turned,
                    signed=facts.signed,
                    periodic=facts.periodic,
                    place=facts.place,
                    depth_in=facts.depth_in,
                    depth_out=facts.depth_out,
                    kind=facts.kind,
                    parts=tuple((a, rows) for a, _, rows in facts.parts),
                    slope=values[..., _SLOPE : _SLOPE + 1] if values.shape[-1] > _SLOPE else None,
                )
            )

    def join(self, values: list[Tensor]) -> Tensor:
        return torch.cat([v.expand(self.networks, -1, -1) for v in values], 1)

    def split(self, joined: Tensor) -> list[Tensor]:
        return list(joined.split([group.size for group in self.spec.groups], 1))

    def _mixed(self, b: int, taps: TapTable, head: Head) -> Tensor:
        """``head`` of a block's weights with its taps mixed, ``[B, n_dst, n_src, R]``, computed once."""
        key = (b, taps, head)
        if key not in self._cache:
            weight, block = head(self.stack.blocks[b]), self.spec.blocks[b]
            self._cache[key] = weight @ taps.mix(block) if block.taps else weight
        return self._cache[key]

    def pull(self, level: int, states: list[Tensor], taps: TapTable, head: Head = identity) -> Tensor:
        total = None
        for b in self.spec.incoming[level]:
            block = self.spec.blocks[b]
            x = states[self.spec.position[block.src]]
            x = (x[..., None, :] * taps.gain(block)).flatten(-3, -2)  # [B or 1, src * R, d]
            weight = self._mixed(b, taps, head).flatten(2)
            message = torch.matmul(weight, x[0]) if x.shape[0] == 1 else torch.bmm(weight, x)
            total = message if total is None else total + message
        assert total is not None
        return total

    def push(self, level: int, states: list[Tensor], taps: TapTable, head: Head = identity) -> Tensor:
        total = None
        for b in self.spec.outgoing[level]:
            block = self.spec.blocks[b]
            y = states[self.spec.position[block.dst]]
            y = (y[..., None, :, :] * taps.gain(block)[:, None]).flatten(-3, -2)  # [B or 1, R * dst, d]
            weight = self._mixed(b, taps, head).permute(0, 2, 3, 1).flatten(2)
            message = torch.matmul(weight, y[0]) if y.shape[0] == 1 else torch.bmm(weight, y)
            total = message if total is None else total + message
        assert total is not None
        return total

    def pool(self, level: int, values: Tensor) -> Tensor:
        values = values.expand(self.networks, -1, -1)
        mean = values.mean(1)
        spread = torch.sqrt(((values - mean[:, None]) ** 2).mean(1) + 1e-6)
        return torch.cat([mean, spread, values.amax(1)], -1)

    def collect(self, level: int, rows: Tensor, *, pooled: bool) -> Tensor:
        return rows if pooled else rows.expand(self.networks, -1, -1).sum(1)

    @property
    def num_bundles(self) -> int:
        return len(self.spec.blocks)

    def weights(self, k: int) -> Tensor:
        return self.stack.blocks[k]

    def block(self, k: int) -> Block:
        return self.spec.blocks[k]

    def at_source(self, k: int, states: list[Tensor]) -> Tensor:
        return states[self.spec.position[self.spec.blocks[k].src]][:, None]

    def at_target(self, k: int, states: list[Tensor]) -> Tensor:
        return states[self.spec.position[self.spec.blocks[k].dst]][:, :, None]

    def outer(self, k: int, into: list[Tensor], out: list[Tensor], taps: Tensor) -> Tensor:
        block = self.spec.blocks[k]
        u, v = into[self.spec.position[block.dst]], out[self.spec.position[block.src]]
        rows = (u[..., None, :] * taps).flatten(1, 2) @ v.transpose(1, 2)  # [B, dst * taps, src]
        return rows.unflatten(1, (-1, len(taps))).movedim(2, -1)

    def to_targets(self, values: list[Tensor], reduce: str) -> list[Tensor]:
        return self._reduce(values, self.spec.incoming, 2, reduce)

    def to_sources(self, values: list[Tensor], reduce: str) -> list[Tensor]:
        return self._reduce(values, self.spec.outgoing, 1, reduce)

    def _reduce(self, values: list[Tensor], blocks: tuple[tuple[int, ...], ...], axis: int, how: str) -> list[Tensor]:
        out = []
        for group, members in zip(self.spec.groups, blocks, strict=True):
            if not members:
                shape = (self.networks, group.size, values[0].shape[-1])
                out.append(values[0].new_zeros(shape))
                continue
            total = torch.stack([values[k].sum(axis) for k in members]).sum(0)
            degree = sum(values[k].shape[axis] for k in members)
            out.append(total / degree if how == "mean" else total)
        return out

    def unbundle(self, edges: list[Tensor], nodes: list[Tensor]) -> list[tuple[list[Tensor], Tensor]]:
        rows = [n.expand(self.networks, -1, -1)[..., 0] for n in nodes]
        return [(edges, torch.cat(rows, 1))]
