"""One block's message as one step: taps mixed, gains applied and summed, with a backward pass written by hand."""

from __future__ import annotations

import ctypes
from array import array
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphnfn.nn.library import TYPES, library

LARGEST = 1 << 15
"""Weights of a block beyond which PyTorch's GEMMs are better."""


def can_message(weight: Tensor, x: Tensor) -> bool:
    """Whether the compiled message can be used: on a CPU, small blocks, weights that are not learned."""
    fits = weight.dtype == x.dtype and x.dtype in TYPES and weight.shape[1:].numel() <= LARGEST
    if not fits or weight.requires_grad or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not torch.is_autocast_enabled("cpu") and library(x.dtype) is not None


def message(weight: Tensor, mix: Tensor | None, gain: Tensor, x: Tensor, *, turned: bool, bars: bool) -> Tensor:
    """``out_i = sum_jtr w_ij[t] mix[t, r] gain[r] * x_j``, from sources to targets or turned around.

    Args:
        weight: ``[B, dst, src, taps]``.
        mix: ``[taps, R]``, None for one tap.
        gain: ``[R, d]``.
        x: states ``[B or 1, src, d]`` (``[B or 1, dst, d]`` where turned).
        turned: whether messages go from targets to sources.
        bars: whether weights enter by their absolute values.

    Example:
        >>> w, x = torch.randn(2, 4, 3, 1), torch.randn(2, 3, 8)
        >>> expected = w[..., 0] @ x
        >>> found = message(w, None, torch.ones(1, 8), x, turned=False, bars=False) if can_message(w, x) else expected
        >>> bool(torch.allclose(found, expected, atol=1e-5))
        True
    """
    args = (weight.contiguous(), None if mix is None else mix.contiguous(), gain.contiguous(), x.contiguous())
    return _Message.apply(turned, bars, *args)  # type: ignore[return-value]


class _Message(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, turned: bool, bars: bool, weight: Tensor, mix: Tensor | None, gain: Tensor, x: Tensor
    ) -> Tensor:
        ctx.turned, ctx.bars = turned, bars
        ctx.save_for_backward(weight, mix, gain, x)
        out = x.new_empty(weight.shape[0], weight.shape[2 if turned else 1], x.shape[2])
        _call(_functions(x.dtype)[0], (turned, bars), (weight, mix, gain, x, out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        weight, mix, gain, x = ctx.saved_tensors
        grad, grads = grad.contiguous(), [torch.zeros_like(x), torch.zeros_like(gain)]
        of_mix = None if mix is None or not ctx.needs_input_grad[3] else torch.zeros_like(mix)
        _call(_functions(x.dtype)[1], (ctx.turned, ctx.bars), (weight, mix, gain, x, None, grad, *grads, of_mix))
        return None, None, None, of_mix, grads[1], grads[0]


@lru_cache(maxsize=4)
def _functions(dtype: torch.dtype) -> tuple[Any, Any]:
    loaded = library(dtype)
    assert loaded is not None
    for function in (loaded.message_forward, loaded.message_adjoint):
        function.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    return loaded.message_forward, loaded.message_adjoint


def _call(function: Any, flags: tuple[bool, bool], tensors: tuple[Tensor | None, ...]) -> None:
    """Write the structure of ``message.c``, field by field, and call the function."""
    weight, _, gain, x, *_ = tensors
    assert weight is not None and gain is not None and x is not None
    networks, n_dst, n_src, taps = weight.shape
    stride = 0 if x.shape[0] == 1 and networks > 1 else x.stride(0)
    pointers = [0 if t is None else t.data_ptr() for t in tensors]
    facts = (x.shape[2], n_dst, n_src, taps, gain.shape[0], *map(int, flags), stride)
    memory = array("q", [*facts, *pointers, *[0] * (9 - len(pointers))])  # stays until the call is over
    if function(memory.buffer_info()[0], networks):
        raise MemoryError("no memory for the scratch space of a message")
