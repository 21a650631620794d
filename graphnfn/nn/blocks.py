"""The block-major wiring: messages as batched GEMMs on stacked weights, no gather and no scatter."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from graphnfn.nn.facts import group_facts
from graphnfn.nn.fused import fused_sweep, plan_of
from graphnfn.nn.messages import can_message, message
from graphnfn.nn.pooling import pooled_as
from graphnfn.nn.taps import TapTable
from graphnfn.nn.wiring import SEEN, Head, Level, NativeCall, Wiring, identity
from graphnfn.spec import NODE_FIELDS, Block
from graphnfn.stack import Stack

_SLOPE = NODE_FIELDS.index("slope")


class BlockWiring(Wiring):
    """The wiring of a (canonical, effective) stack; see :mod:`graphnfn.nn.wiring`."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.spec, self.networks, self.stacks = stack, stack.spec, stack.size, [stack]
        self._cache: dict[tuple[int, TapTable, Head], Tensor] = {}
        self.levels = []
        nodes, facts = stack.nodes, group_facts(self.spec, stack.nodes.device)
        for i, (group, fact) in enumerate(zip(self.spec.groups, facts, strict=True)):
            here = self.spec.span(i)
            self.levels.append(
                Level(
                    role=group.role,
                    bias=nodes[:, here, :1],
                    signed=fact.signed,
                    periodic=fact.periodic,
                    place=fact.place,
                    depth_in=fact.depth_in,
                    depth_out=fact.depth_out,
                    kind=fact.kind,
                    parts=fact.parts,
                    plain=fact.plain,
                    first=self.spec.levels[i] == 1,
                    slope=nodes[:, here, _SLOPE : _SLOPE + 1] if nodes.shape[-1] > _SLOPE else None,
                    size=group.size,
                )
            )

    def plus(self, states: list[Tensor], seen: list[list[Tensor | None]]) -> list[Tensor]:
        return [x if v is None else x + v for x, v in zip(states, seen[0], strict=True)]

    def _mixed(self, b: int, taps: TapTable, head: Head) -> Tensor:
        """``head`` of a block's weights with its taps mixed, ``[B, n_dst, n_src, R]``, computed once."""
        key = (b, taps, head)
        if key not in self._cache:
            weight, block = head(self.stack.blocks[b]), self.spec.blocks[b]
            self._cache[key] = weight @ taps.mix(block) if block.taps else weight
        return self._cache[key]

    def native(self, call: NativeCall) -> tuple[list[Tensor], list[Tensor]]:
        plan = plan_of(self.spec, self.stack.nodes.device)
        ordinary = torch.is_autocast_enabled(call.answer.weight.device.type)  # chooses types operator by operator
        if ordinary or torch.compiler.is_compiling() or not plan.simple or self._learned_slopes():
            return super().native(call)
        widths = {v.size for v in self.levels if v.role == "hidden"}
        if self.reference is not None and widths - {self.reference}:
            if len(widths) > 1:
                return super().native(call)
            call = replace(call, mix=dict(call.mix) | {"hidden": self._seen(call.mix["hidden"])})
        return fused_sweep(plan, self.levels, self.stack, call)

    def _seen(self, mix: Tensor) -> Tensor:
        """What hidden neurons of one width see, as factors: that is the loop's scaling once for all levels."""
        hidden = next(i for i, v in enumerate(self.levels) if v.role == "hidden")
        return torch.stack([self.scale(hidden, t, power) for t, power in zip(mix, SEEN, strict=True)])

    def _learned_slopes(self) -> bool:
        return self.stack.nodes.requires_grad and any(act.name == "prelu" for v in self.levels for act, *_ in v.parts)

    def _message(self, b: int, x: Tensor, taps: TapTable, head: Head, *, turned: bool) -> Tensor | None:
        """A block's message in one step, where that is possible."""
        weight, block = self.stack.blocks[b], self.spec.blocks[b]
        if (head is not identity and head is not torch.abs) or not can_message(weight, x):
            return None
        mix = taps.mix(block) if block.taps else None
        return message(weight, mix, taps.gain(block), x, turned=turned, bars=head is torch.abs)

    def pull(self, level: int, states: list[Tensor], taps: TapTable, head: Head = identity) -> Tensor:
        total = None
        for b in self.spec.incoming[level]:
            block = self.spec.blocks[b]
            x = states[self.spec.position[block.src]]
            if (found := self._message(b, x, taps, head, turned=False)) is not None:
                total = found if total is None else total + found
                continue
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
            if (found := self._message(b, y, taps, head, turned=True)) is not None:
                total = found if total is None else total + found
                continue
            y = (y[..., None, :, :] * taps.gain(block)[:, None]).flatten(-3, -2)  # [B or 1, R * dst, d]
            weight = self._mixed(b, taps, head).permute(0, 2, 3, 1).flatten(2)
            message = torch.matmul(weight, y[0]) if y.shape[0] == 1 else torch.bmm(weight, y)
            total = message if total is None else total + message
        assert total is not None
        return total

    def pool(self, level: int, values: Tensor) -> Tensor:
        hidden = self.levels[level].role == "hidden"
        return pooled_as(values.expand(self.networks, -1, -1), self.reference if hidden else None)

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


class LoopWiring(BlockWiring):
    """The same with the reference loop and PyTorch's operators throughout: what faster ways are checked against."""

    native = Wiring.native

    def _message(self, b: int, x: Tensor, taps: TapTable, head: Head, *, turned: bool) -> Tensor | None:
        return None
