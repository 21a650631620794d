"""The native sweep as one autograd function on stacked weights: the numbers of the loop, a fraction of its cost.

The loop in :class:`~graphnfn.nn.wiring.Wiring` leaves to autograd some forty small elementwise operators a level, each
a pass over memory with its own buffer. Here a level takes one GEMM and about four passes down, one GEMM and two
passes up, and the backward pass is written by hand from activations, slopes and returned states. Networks go through
in chunks that fit into a core's cache; on a CPU with a C compiler, one by one, see :mod:`graphnfn.nn.compiled`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphnfn.nn import compiled
from graphnfn.nn.links import Link
from graphnfn.nn.plan import ROLES, Plan, plan_of
from graphnfn.nn.responses import response_of
from graphnfn.nn.tape import Tape
from graphnfn.nn.wiring import Level, NativeCall
from graphnfn.stack import Stack

__all__ = ["fused_sweep", "plan_of"]
CHUNK = 1 << 16
"""Numbers in the largest state of the networks that go through at a time (256 KiB in float32)."""


class Given:
    """What a sweep is differentiated by (or something about each of these), in the order of the flat arguments."""

    def __init__(self, plan: Plan, flat: Sequence[Any]) -> None:
        levels, blocks = len(plan.sizes), len(plan.links)
        self.answer, self.offset, self.bias_gain, self.nodes, self.start, self.end = flat[:6]
        self.mix, self.gains = flat[6:9], flat[9:12]
        self.even, rest = flat[12 : 12 + levels], flat[12 + levels :]
        self.weights, self.tap_mixes = rest[:blocks], rest[blocks:]


def fused_sweep(plan: Plan, levels: list[Level], stack: Stack, call: NativeCall) -> tuple[list[Tensor], list[Tensor]]:
    """Even features and activations per level, as :meth:`Wiring.native` gives them.

    Args:
        plan: of the stack's spec.
        levels: of the wiring.
        stack: canonical weights.
        call: states, tables and vectors.
    """
    last, batch = len(levels) - 1, stack.size
    start = call.start[0]
    mixes = [call.taps.mix(block) if block.taps else None for block in stack.spec.blocks]
    flat = [
        call.answer.weight, call.answer.bias, call.bias_gain, stack.nodes, _all(start, batch), call.end[last],
        *(call.mix[name] if r in plan.used[0] else None for r, name in enumerate(ROLES)),
        *(gain if slot in plan.used[1] else None for slot, gain in enumerate(call.taps.gains)),
        *(_all(e, batch) for e in call.even), *stack.blocks, *mixes,
    ]  # fmt: skip
    flat = [t if t is None else t.contiguous() for t in flat]
    if torch.is_grad_enabled():
        found = _Sweep.apply(plan, levels, *flat)
    else:
        found = _forward(plan, levels, Given(plan, flat), learning=False)[0]
    return list(found[: last + 1]), [start, *found[last + 1 :]]


def _all(state: Tensor, networks: int) -> Tensor:
    return state if state.shape[0] == networks else state.expand(networks, -1, -1)


def _forward(
    plan: Plan, levels: list[Level], given: Given, *, learning: bool
) -> tuple[list[Tensor], Tensor | None, compiled.Library | None]:
    """Even features and activations behind the inputs; what the backward pass needs besides; what did it."""
    batch, width, like = given.nodes.shape[0], given.offset.shape[0], given.offset
    library = compiled.library_for(plan, given)
    nodes = plan.starts[-1]
    made = like.new_empty((2 * nodes - plan.sizes[0]) * batch * width)  # one piece: see plan.views
    even, x = plan.views(made, batch, width)
    held = like.new_empty(plan.held * batch * width) if learning or library is None else None
    if library is not None:
        library.run(plan, given, [given.start, *x], held, even)
    else:
        assert held is not None
        tape = _tape(plan, levels, given, x, held)
        for rows in _chunks(plan, batch, width):
            tape.run(rows, even)
    return [*even, *x], held, library


def _chunks(plan: Plan, networks: int, width: int) -> list[slice]:
    """The networks in runs that go through one after another."""
    runs = max(1, min(networks, round(networks * max(plan.sizes) * width / CHUNK)))
    step = math.ceil(networks / runs)
    return [slice(i, min(i + step, networks)) for i in range(0, networks, step)]


def _tape(
    plan: Plan, levels: list[Level], given: Given, x: Sequence[Tensor], held: Tensor, wanted: Given | None = None
) -> Tape:
    links = []
    for k, (src, dst, slot) in enumerate(plan.links):
        learned = (False, False) if wanted is None else (wanted.weights[k], wanted.tap_mixes[k])
        links.append(Link(src, dst, slot, given.weights[k], given.tap_mixes[k], given.gains[slot], learned))
    beta: list[Tensor | None] = []
    for level in levels:
        free = level.periodic
        part = torch.where(free, 1.0, given.bias_gain) if isinstance(free, Tensor) else given.bias_gain
        beta.append(None if free is True or level.role == "input" else part)
    ends = [given.end if level.role == "output" else None for level in levels]
    mix, responses = [given.mix[r] for r in plan.roles], [response_of(level) for level in levels]
    made = plan.held_views(held, given.nodes.shape[0], given.offset.shape[0])
    states = (list(given.even), [given.start, *x], *made)
    return Tape(levels, responses, links, mix, beta, ends, given.answer, given.offset, *states)


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, levels: list[Level], *flat: Any) -> tuple[Tensor, ...]:
        found, held, library = _forward(plan, levels, Given(plan, flat), learning=True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*flat, held, *found[len(levels) :])
        ctx.plan, ctx.levels, ctx.library = plan, levels, library
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        plan, needed = ctx.plan, ctx.needs_input_grad[2:]
        saved, size, count = ctx.saved_tensors, len(needed), len(plan.sizes)
        given, wanted = Given(plan, saved[:size]), Given(plan, needed)
        even_grads, x_grads = list(grads[:count]), [None, *grads[count:]]
        held, x = saved[size], saved[size + 1 :]
        if ctx.library is not None:
            found = ctx.library.adjoint(plan, given, wanted, [given.start, *x], held, even_grads, x_grads)
        else:
            tape = _tape(plan, ctx.levels, given, x, held, wanted)
            found = _adjoint(plan, tape, given, wanted, even_grads, x_grads)
        flat = [*found[:12], *even_grads, *found[12:]]
        return (None, None, *(g if n else None for g, n in zip(flat, needed, strict=True)))


def _adjoint(
    plan: Plan, tape: Tape, given: Given, wanted: Given, even_grads: list[Tensor | None], x_grads: list[Tensor | None]
) -> list[Any]:
    """Gradients in the order of the flat arguments, without those of the even features."""
    tape.expect_grads(wanted.nodes)
    for rows in _chunks(plan, given.nodes.shape[0], given.offset.shape[0]):
        tape.adjoint(rows, even_grads, x_grads)
    bias_gain, nodes = torch.zeros_like(given.bias_gain), None
    mix, gains = compiled.zeros(given.mix), compiled.zeros(given.gains)
    for link in tape.links:
        link.unmix()
        gains[link.slot] += link.gain_grad
    if wanted.nodes:
        nodes = torch.zeros_like(given.nodes)
        nodes[..., :1] = torch.cat([g for g in tape.bias_grads if g is not None], 1)
    for i, level in enumerate(tape.levels):
        mix[plan.roles[i]] += tape.mix_grads[i]
        beta = tape.beta_grads[i]
        if beta is not None:
            free = level.periodic
            bias_gain += torch.where(free, 0.0, beta).sum(0) if isinstance(free, Tensor) else beta
    last = len(plan.sizes) - 1
    table = (tape.answer_grad, tape.offset_grad, bias_gain, nodes, tape.start_grads[0], tape.end_grad(last))
    return [*table, *mix, *gains, *(k.raw_grad for k in tape.links), *(k.mix_grad for k in tape.links)]
