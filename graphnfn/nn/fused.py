"""The native sweep as one autograd function on stacked weights: the numbers of the loop, a fraction of its cost.

The loop in :class:`~graphnfn.nn.wiring.Wiring` leaves to autograd some forty small elementwise operators a level, each
a pass over memory with its own buffer. Here a level takes one GEMM and about four passes down, one GEMM and two
passes up, and the backward pass is written by hand from activations, slopes and returned states. Networks go through
in chunks that fit into a core's cache; on a CPU with a C compiler, one by one, see :mod:`graphnfn.nn.compiled`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        widest = max(level.place.shape[0] for level in self.levels)
        runs = max(1, min(self.networks, round(self.networks * widest * width / CHUNK)))
        step = math.ceil(self.networks / runs)
        return [slice(i, min(i + step, self.networks)) for i in range(0, self.networks, step)]


@lru_cache(maxsize=512)
def sweep_links(spec: NetSpec) -> tuple[tuple[int, int, int], ...]:
    """Per block of a spec, its levels and its gain, as :class:`Route` wants them."""
    return tuple((spec.position[b.src], spec.position[b.dst], gain_slot(b)) for b in spec.blocks)


def fused_sweep(
    route: Route, call: NativeCall, weights: Sequence[Tensor], mixes: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[Tensor]]:
    """Even features and activations per level, as :meth:`Wiring.native` gives them.

    Args:
        route: levels and links.
        call: states, tables and vectors.
        weights: per block ``[B, dst, src, taps]``.
        mixes: per block ``[taps, R]``, None for one tap.
    """
    tensors: list[Any] = [call.answer.weight, call.answer.bias, *call.taps.gains, *weights, *mixes]
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
    return (state if state.shape[0] == networks else state.expand(networks, -1, -1)).contiguous()


GAINS = 3


class _Flat:
    """The tensors by name (or anything else about them, in the same order)."""

    def __init__(self, route: Route, flat: Any) -> None:
        first = 2 + GAINS
        middle, last = first + len(route.links), first + 2 * len(route.links)
        self.answer, self.offset, self.gains = flat[0], flat[1], flat[2:first]
        self.weights, self.mixes = flat[first:middle], flat[middle:last]
        self.mix, self.beta, self.bias, self.state, self.even = (flat[last + k :: 5] for k in range(5))


def _tape(route: Route, given: _Flat, made: Sequence[Any], wanted: _Flat | None = None) -> Tape:
    links = []
    for k, (src, dst, slot) in enumerate(route.links):
        learned = (False, False) if wanted is None else (wanted.weights[k], wanted.mixes[k])
        links.append(Link(src, dst, slot, given.weights[k], given.mixes[k], given.gains[slot], learned))
    ends = [s if level.role == "output" else None for s, level in zip(given.state, route.levels, strict=True)]
    responses = [response_of(level) for level in route.levels]
    return Tape(
        route.levels, responses, links, given.mix, given.beta, ends, given.answer, given.offset, given.even, *made
    )


def _buffers(route: Route, given: _Flat, held: int) -> list[list[Any]]:
    """Per level x, what is kept, returned states, roots and even features, in one piece of memory.

    What the backward pass alone needs is for ``held`` networks. One allocation that comes and goes is kept by the C library for the next sweep; many are returned to the system,
    and fetching them again can take longer than the sweep.
    """
    width, made = given.offset.shape[0], [[], [], [], [], []]
    wanted = []
    for level in route.levels:
        hidden = level.role != "input"
        rows = (hidden * route.networks, hidden * response_of(level).keeps * held, held, held, route.networks)
        wanted.append((level.place.shape[0], rows))
    pieces = given.offset.new_empty(sum(n * sum(rows) for n, rows in wanted) * width)
    memory, start = pieces.untyped_storage(), 0
    for (n, rows), state in zip(wanted, given.state, strict=True):
        for values, count in zip(made, rows, strict=True):
            shape, steps = (count, n, width), (n * width, width, 1)
            values.append(pieces.new_empty(0).set_(memory, start, shape, steps) if count else None)
            start += count * n * width
        if made[0][-1] is None:
            made[0][-1] = state
    return made


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, route: Route, learning: bool, *flat: Any) -> tuple[Tensor, ...]:
        given = _Flat(route, flat)
        library = compiled.library_for(route.levels, given)
        # the compiled sweep needs what it holds for one network only, unless a backward pass is to come
        *made, even = _buffers(route, given, route.networks if learning or library is None else 1)
        tape = _tape(route, given, made)
        if library is not None:
            library.run(tape, even)
        else:
            for rows in route.rows(given.offset.shape[0]):
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
        tape = _tape(route, given, made, wants)
        tape.expect_grads(wants.bias)
        rest = iter(grads[count:])
        even_grads = list(grads[:count])
        x_grads = [None if level.role == "input" else next(rest) for level in route.levels]
        if ctx.library is not None:
            ctx.library.adjoint(tape, even_grads, x_grads)
        else:
            for rows in route.rows(given.offset.shape[0]):
                tape.adjoint(rows, even_grads, x_grads)
            for link in tape.links:
                link.unmix()
        gains: list[Tensor | None] = [None] * GAINS
        for link in tape.links:
            before = gains[link.slot]
            gains[link.slot] = link.gain_grad if before is None else before + link.gain_grad
        found: list[Any] = [tape.answer_grad, tape.offset_grad, *gains, *(k.raw_grad for k in tape.links)]
        found += [k.mix_grad for k in tape.links]
        for i, level in enumerate(route.levels):
            state = None
            if level.role != "hidden":
                state = tape.start_grads[i] if level.role == "input" else tape.end_grad(i)
            found += [tape.mix_grads[i], tape.beta_grads[i], tape.bias_grads[i], state, even_grads[i]]
        return (None, None, *(g if n else None for g, n in zip(found, needed, strict=True)))
