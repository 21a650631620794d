"""The update of a neuron in a gated sweep: dense layers on even features, and gates on typed ones.

``(d, g, h) = MLP(e, M, r)`` with ``|r|`` where the neuron's sign is free, ``e' = e + d`` and
``o = norm(u (1 + g) + v h)``. On a CPU with a C compiler what surrounds the two dense layers takes one pass over memory
each (``csrc/gates.c``); elsewhere PyTorch's operators give the same numbers.
"""

from __future__ import annotations

import ctypes
from array import array
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from graphnfn.nn.library import TYPES, bits, library
from graphnfn.nn.typed import soft_norm
from graphnfn.nn.wiring import Level


def gate(
    mlp: nn.Sequential, level: Level, e: Tensor, mass: Tensor, response: Tensor, typed: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor | None]:
    """``e'`` and ``o`` of a level.

    Args:
        mlp: normalisation, dense layer, SiLU, dense layer; ``3 d`` to ``3 d``.
        level: whose signs.
        e: even features ``[..., d]``.
        mass: M.
        response: r, in-typed or out-typed.
        typed: u ``[..., d]`` and v ``[..., d]`` or ``[..., 1]``; None where nothing but ``e'`` is wanted.
    """
    e, mass, response = torch.broadcast_tensors(e, mass, response)
    if isinstance(level.signed, bool) and _can_compile(mlp, e, mass, response, *(typed or ())):
        u, v = (None, None) if typed is None else (t.expand(*e.shape[:-1], -1).contiguous() for t in typed)
        flat = (e.contiguous(), mass.contiguous(), response.contiguous(), u, v)
        layers: Any = mlp
        tables = [t.contiguous() for k in (0, 1, 3) for t in (layers[k].weight, layers[k].bias)]
        return _Gate.apply(level.signed, layers[0].eps, *flat, *tables)  # type: ignore[return-value]
    change, mixing, other = mlp(torch.cat([e, mass, level.even(response)], -1)).chunk(3, -1)
    if typed is None:
        return e + change, None
    return e + change, soft_norm(typed[0] * (1 + mixing) + typed[1] * other)


def _can_compile(mlp: nn.Sequential, *states: Tensor) -> bool:
    like = next(mlp.parameters())
    if like.device.type != "cpu" or like.dtype not in TYPES or any(t.dtype != like.dtype for t in states):
        return False
    return not (torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")) and library(like.dtype) is not None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bars: bool, eps: float, *given: Any) -> tuple[Tensor, Tensor | None]:
        e, mass, r, u, v, gain, shift, w1, b1, w2, b2 = given
        rows, d = e.numel() // e.shape[-1], e.shape[-1]
        facts = (rows, d, int(bars), int(v is not None and v.shape[-1] == d), bits(eps))
        y, stats = e.new_empty(rows, 3 * d), e.new_empty(rows, 2)
        states = (e, mass, r, gain, shift, u, v)
        _call("gate_enter", facts, *states, y, stats)
        a = torch.addmm(b1, y, w1.T)
        h = nn.functional.silu(a)
        c = torch.addmm(b2, h, w2.T)
        e_out, o, size = torch.empty_like(e), None if u is None else torch.empty_like(e), e.new_empty(rows)
        _call("gate_leave", facts, *states, y, stats, c, e_out, o, size)
        ctx.facts = facts
        ctx.save_for_backward(*states, y, stats, c, e_out, o, size, w1, w2, a, h)
        ctx.set_materialize_grads(False)
        return e_out, o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_e: Tensor | None, of_o: Tensor | None) -> tuple[Any, ...]:
        *given, w1, w2, a, h = ctx.saved_tensors
        e, mass, r, gain, shift, u, v, y, _, c, _, o, _ = given
        of_e = torch.zeros_like(e) if of_e is None else of_e.contiguous()
        of_o = None if o is None else torch.zeros_like(o) if of_o is None else of_o.contiguous()
        of_c, of_b2 = torch.empty_like(c), shift.new_zeros(shift.shape)
        of_u, of_v = (None if t is None else torch.empty_like(t) for t in (u, v))
        _call("gate_leave_adjoint", ctx.facts, *given, of_e, of_o, None, of_c, of_b2, of_u, of_v)
        of_a = torch.ops.aten.silu_backward(of_c @ w2, a)
        of_y = of_a @ w1
        of_states = [torch.empty_like(t) for t in (e, mass, r)]
        of_gain, of_shift = torch.zeros_like(gain), torch.zeros_like(shift)
        rest = (of_e, of_o, of_y, None, None, None, None, *of_states, of_gain, of_shift)
        _call("gate_enter_adjoint", ctx.facts, *given, *rest)
        of_layers = (of_gain, of_shift, of_a.T @ y, of_a.sum(0), of_c.T @ h, of_b2)
        return None, None, *of_states, of_u, of_v, *of_layers


_POINTERS = 25


def _call(name: str, facts: tuple[int, ...], *tensors: Tensor | None) -> None:
    """Write the structure of ``gates.c``, field by field, and call a function."""
    pointers = [0 if t is None else t.data_ptr() for t in tensors]
    memory = array("q", [*facts, *pointers, *[0] * (_POINTERS - len(pointers))])  # stays until the call is over
    like = tensors[0]
    assert like is not None
    if _functions(like.dtype)[name](memory.buffer_info()[0]):
        raise MemoryError("no memory for the scratch space of a gated update")


@lru_cache(maxsize=4)
def _functions(dtype: torch.dtype) -> dict[str, Any]:
    loaded, found = library(dtype), {}
    for name in ("gate_enter", "gate_leave", "gate_leave_adjoint", "gate_enter_adjoint"):
        found[name] = getattr(loaded, name)
        found[name].argtypes = [ctypes.c_void_p]
    return found
