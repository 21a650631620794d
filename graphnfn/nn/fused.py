"""The native sweep as one autograd function on stacked weights: the numbers of the loop, a fraction of its cost.

The loop in :class:`~graphnfn.nn.wiring.Wiring` leaves to autograd some forty small elementwise operators a level, each
a pass over memory with its own buffer. Here a level takes one GEMM and about four passes down, one GEMM and two
passes up, and the backward pass is written by hand from activations, slopes and returned states. Networks go through
in chunks that fit into a core's cache; on a CPU with a C compiler, one by one, see :mod:`graphnfn.nn.compiled`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphnfn.nn import compiled
from graphnfn.nn.links import Link
from graphnfn.nn.responses import response_of
from graphnfn.nn.tape import Tape
from graphnfn.nn.wiring import Level, NativeCall

CHUNK = 1 << 16
"""Numbers in the largest state of the networks that go through at a time (256 KiB in float32)."""


@dataclass(frozen=True)
class Route:
    """What a fused sweep is told besides tensors.

    Args:
        levels: in topological order.
        links: per block, source level, target level and which gain is its own.
        networks: B.
    """

    levels: list[Level]
    links: list[tuple[int, int, int]]
    networks: int

    def rows(self, width: int) -> list[slice]:
        """The networks in runs that go through one after another."""
        widest = max(level.place.numel() for level in self.levels)
        runs = max(1, min(self.networks, round(self.networks * widest * width / CHUNK)))
        step = math.ceil(self.networks / runs)
        return [slice(i, min(i + step, self.networks)) for i in range(0, self.networks, step)]


def fused_sweep(
    route: Route, call: NativeCall, gains: list[Tensor], weights: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Even features and activations per level, as :meth:`Wiring.native` gives them.

    Args:
        route: levels and links.
        call: states, tables and vectors.
        gains: distinct gain tensors ``[R, d]``.
        weights: per block, mixed weights ``[B, dst, src * R]``.
    """
    tensors: list[Any] = [call.answer.weight, call.answer.bias, *gains, *weights]
    for i, level in enumerate(route.levels):
        beta = call.beta(level)
        state = call.start[i].expand(route.networks, -1, -1).contiguous() if level.role == "input" else call.end.get(i)
        even = call.even[i].expand(route.networks, -1, -1).contiguous()
        tensors += [call.mix[level.role], None if isinstance(beta, float) else beta, level.bias, state, even]
    found = _Sweep.apply(route, len(gains), *tensors)
    xs, rest = [], iter(found[len(route.levels) :])
    for i, level in enumerate(route.levels):
        xs.append(call.start[i] if level.role == "input" else next(rest))
    return list(found[: len(route.levels)]), xs


class _Flat:
    """The tensors by name (or anything else about them, in the same order)."""

    def __init__(self, route: Route, gains: int, flat: Any) -> None:
        blocks = len(route.links)
        self.answer, self.offset = flat[:2]
        self.gains, self.weights = flat[2 : 2 + gains], flat[2 + gains : 2 + gains + blocks]
        rest = flat[2 + gains + blocks :]
        self.mix, self.beta, self.bias, self.state, self.even = (list(rest[k::5]) for k in range(5))


def _tape(route: Route, given: _Flat, learned: list[bool], made: list[list[Any]]) -> Tape:
    links = [
        Link(src, dst, slot, weight, given.gains[slot], wanted)
        for (src, dst, slot), weight, wanted in zip(route.links, given.weights, learned, strict=True)
    ]
    ends = [s if level.role == "output" else None for s, level in zip(given.state, route.levels, strict=True)]
    responses = [response_of(level) for level in route.levels]
    return Tape(
        route.levels, responses, links, given.mix, given.beta, ends, given.answer, given.offset, given.even, *made
    )


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, route: Route, gains: int, *flat: Any) -> tuple[Tensor, ...]:
        given = _Flat(route, gains, flat)
        width, made = len(given.offset), [[] for _ in range(4)]
        even = []
        for level, state in zip(route.levels, given.state, strict=True):
            shape = (route.networks, level.place.numel(), width)
            keeps = response_of(level).keeps
            made[0].append(state if level.role == "input" else given.offset.new_empty(shape))
            made[1].append(given.offset.new_empty(shape) if keeps else None)
            made[2].append(given.offset.new_empty(shape))
            made[3].append(given.offset.new_empty(shape))
            even.append(given.offset.new_empty(shape))
        tape = _tape(route, given, [False] * len(route.links), made)
        library = compiled.library_for(tape)
        if library is not None:
            library.run(tape, even)
        else:
            for rows in route.rows(width):
                tape.run(rows, even)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*flat, *(t for tensors in made for t in tensors))
        ctx.route, ctx.gains = route, gains
        # the inputs' own states may not be outputs, too; the caller has them
        return (*even, *(x for x, level in zip(made[0], route.levels, strict=True) if level.role != "input"))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        route, gains, count = ctx.route, ctx.gains, len(ctx.route.levels)
        saved, size = ctx.saved_tensors, len(ctx.needs_input_grad) - 2
        given, needed = _Flat(route, gains, saved[:size]), _Flat(route, gains, ctx.needs_input_grad[2:])
        made = [list(saved[size + k * count : size + (k + 1) * count]) for k in range(4)]
        tape = _tape(route, given, list(needed.weights), made)
        tape.expect_grads(needed.bias)
        rest = iter(grads[count:])
        even_grads = list(grads[:count])
        x_grads = [None if level.role == "input" else next(rest) for level in route.levels]
        library = compiled.library_for(tape)
        if library is not None:
            library.adjoint(tape, even_grads, x_grads)
        else:
            for rows in route.rows(len(given.offset)):
                tape.adjoint(rows, even_grads, x_grads)
        gain_grads = [sum(link.gain_grad for link in tape.links if link.slot == slot) for slot in range(gains)]
        found: list[Any] = [tape.answer_grad, tape.offset_grad, *gain_grads, *(k.weight_grad for k in tape.links)]
        for i, level in enumerate(route.levels):
            state = (
                tape.start_grads[i] if level.role == "input" else tape.end_grad(i) if level.role == "output" else None
            )
            found += [tape.mix_grads[i], tape.beta_grads[i], tape.bias_grads[i], state, even_grads[i]]
        return (None, None, *(g if n else None for g, n in zip(found, ctx.needs_input_grad[2:], strict=True)))
