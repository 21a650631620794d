"""The native sweep in C (``csrc``): small networks on a CPU.

PyTorch's own operators cannot come below four or five times the price of running a small network: what a neuron sees
takes ten passes over memory, and launching a hundred operators takes longer than the arithmetic. The compiled sweep
goes through network by network, level by level, in the first cache. It is an accelerator only: without a compiler, on
other devices, for other activations and for large blocks :class:`~graphnfn.nn.tape.Tape` gives the same numbers.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphnfn.nn.library import TYPES, library
from graphnfn.nn.plan import Plan

if TYPE_CHECKING:
    from graphnfn.nn.fused import Given

LARGEST = 1 << 15
"""Weights of a block beyond which the GEMMs of a BLAS library are better than a loop in the first cache."""


class Library:
    """The sweep and its adjoint for one type of numbers."""

    def __init__(self, loaded: ctypes.CDLL) -> None:
        self._forward, self._adjoint = loaded.sweep_forward, loaded.sweep_adjoint
        for function in (self._forward, self._adjoint):
            function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]

    def run(self, plan: Plan, given: Given, x: Sequence[Tensor], held: Tensor | None, even: Sequence[Tensor]) -> None:
        """Writes activations behind the inputs and even features, as :meth:`Tape.run` does for all networks.

        Args:
            plan: of the spec.
            given: everything that the sweep reads, contiguous.
            x: activations.
            held: for what the backward pass needs, None without one.
            even: even features.
        """
        none = ([(0,) * 6] * len(even), [(0,) * 3] * len(plan.links), (0, 0))
        self._call(self._forward, plan, given, (x, held, [e.data_ptr() for e in even]), none)

    def adjoint(
        self, plan: Plan, given: Given, wanted: Given, x: Sequence[Tensor], held: Tensor,
        even_grads: Sequence[Tensor | None], x_grads: Sequence[Tensor | None],
    ) -> list[Tensor | None]:  # fmt: skip
        """Gradients in the order of the flat arguments, without those of the even features."""
        heads = (given.answer, given.offset, given.bias_gain, given.nodes, given.start, given.end)
        table = [torch.zeros_like(t) if w else None for t, w in zip(heads, (1, 1, 1, wanted.nodes, 1, 1), strict=True)]
        mix, gains = zeros(given.mix), zeros(given.gains)
        raw = [torch.empty_like(t) if w else None for t, w in zip(given.weights, wanted.weights, strict=True)]
        taps = [
            torch.zeros_like(t) if w and t is not None else None
            for t, w in zip(given.tap_mixes, wanted.tap_mixes, strict=True)
        ]
        dense = [[None if g is None else g.contiguous() for g in grads] for grads in (even_grads, x_grads)]
        answer, offset, beta, bias, start, end = (_at(t) for t in table)
        step, rows = given.nodes.element_size() * given.nodes.shape[2], []
        for i, role in enumerate(plan.roles):
            state = start if role == 0 else end if role == 2 else 0
            own = (0 if plan.periodic[i] else beta, bias and bias + plan.starts[i] * step, state)
            rows.append((_at(dense[0][i]), _at(dense[1][i]), mix[role].data_ptr(), *own))
        links = [
            (gains[slot].data_ptr(), _at(t), _at(w)) for (_, _, slot), t, w in zip(plan.links, taps, raw, strict=True)
        ]
        self._call(self._adjoint, plan, given, (x, held, [0] * len(rows)), (rows, links, (answer, offset)))
        return [*table, *mix, *gains, *raw, *taps]

    @staticmethod
    def _call(function: Any, plan: Plan, given: Given, made: tuple[Any, Any, Any], grads: tuple[Any, Any, Any]) -> None:
        """Write the structures of ``sweep.h``, field by field, and call it.

        Args:
            function: of the library.
            plan: of the spec.
            given: what the sweep reads.
            made: activations, what is held, and addresses of the even features that it writes.
            grads: addresses of gradients per level, per link, and of ``answer`` and ``offset``.
        """
        (x, held, out), (level_grads, link_grads, head_grads) = made, grads
        (networks, count, fields), width = given.nodes.shape, given.offset.shape[0]
        size, turned, assumed = given.nodes.element_size(), given.answer.T.contiguous(), plan.rows
        assert assumed is not None
        rows = [width, len(plan.sizes), len(plan.links), given.answer.data_ptr(), turned.data_ptr()]
        rows += (given.offset.data_ptr(), *head_grads)
        bias, beta, end, shared = given.nodes.data_ptr(), given.bias_gain.data_ptr(), given.end, given.end.shape[0] == 1
        mix, at = [_at(m) for m in given.mix], 0 if held is None else held.data_ptr()
        for i, (n, role) in enumerate(zip(plan.sizes, plan.roles, strict=True)):
            last, hold = role == 2, n * width
            rows += (*assumed[i], count * fields, fields, 0 if shared else hold, hold, plan.scales[i])
            rows += (bias + plan.starts[i] * fields * size, 0 if plan.periodic[i] else beta, mix[role])
            rows += (end.data_ptr() if last else 0, given.even[i].data_ptr(), x[i].data_ptr())
            step = networks * hold * size if held is not None else 0
            keeps = plan.keeps[i] * step
            rows += (at if keeps else 0, at + keeps if step else 0, at + keeps + step if step else 0, out[i])
            at += keeps + 2 * step
            rows += level_grads[i]
        for k, (src, dst, slot) in enumerate(plan.links):
            raw, taps, gain = given.weights[k], given.tap_mixes[k], given.gains[slot]
            rows += (src, dst, raw.shape[3], gain.shape[0], raw.data_ptr(), _at(taps), gain.data_ptr(), *link_grads[k])
        memory = array("q", rows)  # it and the tensors behind the numbers stay until the call is over
        if function(memory.buffer_info()[0], 0, networks):
            raise MemoryError("no memory for the scratch space of a native sweep")


def zeros(tensors: Sequence[Tensor | None]) -> list[Any]:
    """A gradient to add to for every tensor that there is."""
    return [None if t is None else torch.zeros_like(t) for t in tensors]


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def library_for(plan: Plan, given: Given) -> Library | None:
    """The library that can run a sweep, or None where :class:`~graphnfn.nn.tape.Tape` has to."""
    like = given.answer
    if plan.rows is None or plan.weights > LARGEST or like.device.type != "cpu" or like.dtype not in TYPES:
        return None
    if any(t.dtype != like.dtype for t in (given.nodes, given.start, given.end, *given.even, *given.weights)):
        return None
    return _sweeps(like.dtype)


@lru_cache(maxsize=4)
def _sweeps(dtype: torch.dtype) -> Library | None:
    loaded = library(dtype)
    return None if loaded is None else Library(loaded)
