"""The native sweep as one autograd function on stacked weights: the numbers of the loop, a fraction of its cost.

The loop in :class:`~graphnfn.nn.wiring.Wiring` leaves to autograd some forty small elementwise operators a level, each
a pass over memory with its own buffer. Here a level takes one GEMM and about four passes down, one GEMM and two
passes up, and the backward pass is written by hand from activations, slopes and returned states. Networks go through
in chunks that fit into a core's cache; on a CPU with a C compiler, one by one, see :mod:`graphnfn.nn.compiled`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphnfn.nn import compiled
from graphnfn.nn.links import Link
from graphnfn.nn.responses import response_of
from graphnfn.nn.tape import Tape
from graphnfn.nn.taps import gain_slot
from graphnfn.nn.wiring import Level, NativeCall
from graphnfn.spec import NetSpec

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
    links: tuple[tuple[int, int, int], ...]
    networks: int

    def rows(self, width: int) -> list[slice]:
        """The networks in runs that go through one after another."""
        widest = max(level.place.numel() for level in self.levels)
        runs = max(1, min(self.networks, round(self.networks * widest * width / CHUNK)))
        step = math.ceil(self.networks / runs)
        return [slice(i, min(i + step, self.networks)) for i in range(0, self.networks, step)]


@lru_cache(maxsize=512)
def sweep_links(spec: NetSpec) -> tuple[tuple[int, int, int], ...]:
    """Per block of a spec, its levels and its gain, as :class:`Route` wants them."""
    return tuple((spec.position[b.src], spec.position[b.dst], gain_slot(b)) for b in spec.blocks)


def fused_sweep(route: Route, call: NativeCall, weights: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Even features and activations per level, as :meth:`Wiring.native` gives them.

    Args:
        route: levels and links.
        call: states, tables and vectors.
        weights: per block, mixed weights ``[B, dst, src * R]``.
    """
    tensors: list[Any] = [call.answer.weight, call.answer.bias, *call.taps.gains, *weights]
    for i, level in enumerate(route.levels):
        beta = call.beta(level)
        state = _all(call.start[i], route.networks) if level.role == "input" else call.end.get(i)
        even = _all(call.even[i], route.networks)
        tensors += [call.mix[level.role], None if isinstance(beta, float) else beta, level.bias, state, even]
    found = _Sweep.apply(route, torch.is_grad_enabled(), *tensors)
    xs, rest = [], iter(found[len(route.levels) :])
    for i, level in enumerate(route.levels):
        xs.append(call.start[i] if level.role == "input" else next(rest))
    return list(found[: len(route.levels)]), xs


def _all(state: Tensor, networks: int) -> Tensor:
    return (state if len(state) == networks else state.expand(networks, -1, -1)).contiguous()


GAINS = 3


class _Flat:
    """The tensors by name (or anything else about them, in the same order)."""

    def __init__(self, route: Route, flat: Any) -> None:
        first = 2 + GAINS
        last = first + len(route.links)
        self.answer, self.offset = flat[:2]
        self.gains, self.weights = flat[2:first], flat[first:last]
        self.mix, self.beta, self.bias, self.state, self.even = (flat[last + k :: 5] for k in range(5))


def _tape(route: Route, given: _Flat, made: list[Any], wanted: Any = None) -> Tape:
    links = [
        Link(src, dst, slot, weight, given.gains[slot], bool(wanted and wanted[k]))
        for k, ((src, dst, slot), weight) in enumerate(zip(route.links, given.weights, strict=True))
    ]
    ends = [s if level.role == "output" else None for s, level in zip(given.state, route.levels, strict=True)]
    responses = [response_of(level) for level in route.levels]
    return Tape(
        route.levels, responses, links, given.mix, given.beta, ends, given.answer, given.offset, given.even, *made
    )


def _buffers(route: Route, given: _Flat) -> list[list[Any]]:
    """Per level x, what is kept, returned states, roots and even features, in one piece of memory.

    One allocation that comes and goes is kept by the C library for the next sweep; many are returned to the system,
    and fetching them again can take longer than the sweep.
    """
    width, made = len(given.offset), [[], [], [], [], []]
    wanted = []
    for level in route.levels:
        keeps = level.role != "input" and response_of(level).keeps
        wanted.append((level.place.numel(), (level.role != "input", keeps, True, True, True)))
    numbers = sum(n * sum(needs) for n, needs in wanted) * route.networks * width
    pieces = given.offset.new_empty(numbers)
    start = 0
    for (n, needs), state in zip(wanted, given.state, strict=True):
        shape = (route.networks, n, width)
        steps = (n * width, width, 1)
        for values, need in zip(made, needs, strict=True):
            values.append(pieces.new_empty(0).set_(pieces.untyped_storage(), start, shape, steps) if need else None)
            start += need * route.networks * n * width
        if made[0][-1] is None:
            made[0][-1] = state
    return made


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, route: Route, learning: bool, *flat: Any) -> tuple[Tensor, ...]:
        given = _Flat(route, flat)
        *made, even = _buffers(route, given)
        tape = _tape(route, given, made)
        library = compiled.library_for(tape)
        if library is not None:
            library.run(tape, even)
        else:
            for rows in route.rows(len(given.offset)):
                tape.run(rows, even)
        if learning:
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*flat, *(t for tensors in made for t in tensors))
            ctx.route, ctx.library = route, library
        # the inputs' own states may not be outputs, too; the caller has them
        return (*even, *(x for x, level in zip(made[0], route.levels, strict=True) if level.role != "input"))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        route, count = ctx.route, len(ctx.route.levels)
        needed = ctx.needs_input_grad[2:]
        saved, size, wants = ctx.saved_tensors, len(needed), _Flat(route, needed)
        given = _Flat(route, saved[:size])
        made = [saved[size + k * count : size + (k + 1) * count] for k in range(4)]
        tape = _tape(route, given, made, wants.weights)
        tape.expect_grads(wants.bias)
        rest = iter(grads[count:])
        even_grads = list(grads[:count])
        x_grads = [None if level.role == "input" else next(rest) for level in route.levels]
        if ctx.library is not None:
            ctx.library.adjoint(tape, even_grads, x_grads)
        else:
            for rows in route.rows(len(given.offset)):
                tape.adjoint(rows, even_grads, x_grads)
        gains: list[Tensor | None] = [None] * GAINS
        for link in tape.links:
            before = gains[link.slot]
            gains[link.slot] = link.gain_grad if before is None else before + link.gain_grad
        found: list[Any] = [tape.answer_grad, tape.offset_grad, *gains, *(k.weight_grad for k in tape.links)]
        for i, level in enumerate(route.levels):
            state = None
            if level.role != "hidden":
                state = tape.start_grads[i] if level.role == "input" else tape.end_grad(i)
            found += [tape.mix_grads[i], tape.beta_grads[i], tape.bias_grads[i], state, even_grads[i]]
        return (None, None, *(g if n else None for g, n in zip(found, needed, strict=True)))
