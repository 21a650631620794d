"""Stacked networks on inputs, seen through means over positions: what probes and lattices read of a network.

:func:`graphnfn.functional.run` goes through all networks layer by layer with PyTorch's operators, and its backward pass
makes gradients of weights that nobody wants. Where there is a C compiler, ``csrc/answers.c`` goes through network by
network, in cache, with a sample as a lane of a vector. It is an accelerator only: on other devices, for learned weights
and large blocks, and for specs without a :func:`~graphnfn.nn.course.course_of`, ``run`` gives the same numbers.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphnfn.functional import run
from graphnfn.nn.compiled import LARGEST
from graphnfn.nn.course import Course, course_of
from graphnfn.nn.library import TYPES, library
from graphnfn.stack import Stack


def answers(stack: Stack, inputs: Tensor) -> Tensor:
    """Mean answers ``mean_s f(u_p)_(o, s)`` over positions, ``[B, outputs, P]``.

    Args:
        stack: networks.
        inputs: ``[P, *input_shape]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> answers(random_graph(mlp_spec([2, 8, 1], "sin"), networks=3).stacks()[0], torch.zeros(5, 2).double()).shape
        torch.Size([3, 1, 5])
    """
    course = _course(stack, inputs)
    if course is not None:
        return _Answers.apply(course, False, inputs, stack.nodes, *stack.blocks)[0]  # type: ignore
    return _mean_answers(stack, run(stack, inputs))


def fields(stack: Stack, points: Tensor, outputs: int) -> Tensor:
    """Answers of coordinate networks, ``[B, outputs, P]``; outputs that a network lacks are 0.

    Args:
        stack: networks.
        points: ``[P, coordinates]``.
        outputs: at least those of the networks.
    """
    found = answers(stack, points)
    missing = outputs - found.shape[1]
    return F.pad(found, (0, 0, 0, missing)) if missing else found


def activity(stack: Stack, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean answers as :func:`answers`, and for hidden neurons in their order ``mean_s x`` and ``sqrt(mean_s x^2)``.

    A root's gradient at 0, where a channel is silent, is 0.

    Args:
        stack: networks.
        inputs: ``[P, *input_shape]``.

    Returns:
        ``[B, outputs, P]`` and ``[B, hidden, 2, P]``.
    """
    course = _course(stack, inputs)
    if course is not None:
        return _Answers.apply(course, True, inputs, stack.nodes, *stack.blocks)  # type: ignore
    found: list[Tensor] = []

    def record(_: int, h: Tensor) -> Tensor:
        flat = h.flatten(3) if h.dim() > 3 else h[..., None]  # [P, B, n, positions]
        root = torch.linalg.vector_norm(flat, dim=-1) * flat.shape[-1] ** -0.5
        found.append(torch.stack([flat.mean(-1), root]))
        return h

    answer = _mean_answers(stack, run(stack, inputs, hidden=record))
    none = answer.new_zeros(stack.size, 0, 2, answer.shape[2])
    return answer, torch.cat(found, 3).permute(2, 3, 0, 1) if found else none


def _mean_answers(stack: Stack, answer: Tensor) -> Tensor:
    """``[B, P, outputs, *positions]`` (or these in one axis, where they are flattened) to ``[B, outputs, P]``."""
    return answer.reshape(*answer.shape[:2], stack.spec.groups[-1].size, -1).mean(-1).transpose(1, 2)


def _course(stack: Stack, inputs: Tensor) -> Course | None:
    """How the compiled functions run a stack; None where they cannot."""
    like, weights = inputs, (stack.nodes, *stack.blocks)
    if like.device.type != "cpu" or like.dtype not in TYPES or any(w.dtype != like.dtype for w in weights):
        return None
    if any(w.requires_grad for w in weights):
        return None
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or not inputs.numel() or not stack.size:
        return None
    if inputs.shape[1] != stack.spec.groups[0].size:
        return None
    course = course_of(stack.spec, tuple(inputs.shape[2:]))
    return None if course is None or course.plan.weights > LARGEST or library(like.dtype) is None else course


class _Answers(torch.autograd.Function):
    """The compiled functions; weights get no gradient."""

    @staticmethod
    def forward(
        ctx: Any, course: Course, hidden: bool, inputs: Tensor, nodes: Tensor, *blocks: Tensor
    ) -> tuple[Tensor, Tensor]:
        samples, networks, vector = len(inputs), len(nodes), 64 // inputs.element_size()
        lanes = -(-samples // vector) * vector
        answer = inputs.new_empty(networks, course.plan.sizes[-1], samples)
        seen = inputs.new_empty(networks, course.hidden if hidden else 0, 2, samples)
        given = (_in_lanes(inputs, lanes), nodes.contiguous(), *(b.contiguous() for b in blocks))
        _call("answers_forward", course, given, (seen, answer), (None, None), None)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given, seen, answer)
        ctx.course, ctx.shape = course, inputs.shape
        return answer, seen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_answer: Tensor | None, of_seen: Tensor | None) -> tuple[Any, ...]:
        *given, seen, answer = ctx.saved_tensors
        grad = torch.zeros_like(given[0])
        grads = [None if g is None or not g.numel() else g.contiguous() for g in (of_seen, of_answer)]
        _call("answers_adjoint", ctx.course, given, (seen, answer), grads, grad)
        turned = grad[..., : answer.shape[2]].permute(2, 1, 0).reshape(ctx.shape)
        return None, None, turned, *(None for _ in given[1:])


def _in_lanes(inputs: Tensor, lanes: int) -> Tensor:
    """``[P, neurons, *positions]`` as ``[places, neurons, lanes]``."""
    turned = inputs.flatten(2).permute(2, 1, 0) if inputs.dim() > 2 else inputs.T[None]
    return F.pad(turned, (0, lanes - len(inputs))).contiguous()


def _call(
    name: str, course: Course, given: Sequence[Tensor], seen: Sequence[Tensor],
    grads: Sequence[Tensor | None], input_grad: Tensor | None,
) -> None:  # fmt: skip
    """Write the structures of ``answers.c``, field by field, and call a function of the library.

    Args:
        name: of the function.
        course: of the spec.
        given: inputs in lanes, nodes and blocks, contiguous.
        seen: of hidden neurons (of none: not asked for), and answers.
        grads: of these.
        input_grad: to add to.
    """
    inputs, nodes, *blocks = given
    plan, size, (networks, count, fields) = course.plan, inputs.element_size(), nodes.shape
    samples, lanes, last = seen[1].shape[2], inputs.shape[2], len(course.places) - 1
    rows = [last + 1, len(blocks), samples, lanes, inputs.data_ptr(), _at(input_grad)]
    assert plan.rows is not None
    for i, (n, role, act, *_) in enumerate(plan.rows):
        kept, grad = seen[role == 2], grads[role == 2]
        first = plan.starts[i] - plan.starts[1] if role == 1 else 0
        step = first * 2 * samples * size
        wanted = role and kept.numel()
        rows += n, course.places[i], act, 2 if role == 1 else 1, kept[0].numel(), count * fields, fields, plan.scales[i]
        rows += (nodes.data_ptr() + plan.starts[i] * fields * size, kept.data_ptr() + step if wanted else 0)
        rows.append(grad.data_ptr() + step if role and grad is not None else 0)
    for k, (src, dst, _) in enumerate(plan.links):
        rows += src, dst, blocks[k].shape[3], course.factors[k], blocks[k].data_ptr()
        rows += (entries.data_ptr() for entries in course.entries[k])
    memory = array("q", rows)  # it and the tensors behind the numbers stay until the call is over
    if _functions(inputs.dtype)[name](memory.buffer_info()[0], 0, networks):
        raise MemoryError("no memory for the scratch space of a run of networks")


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


@lru_cache(maxsize=4)
def _functions(dtype: torch.dtype) -> dict[str, Any]:
    loaded, found = library(dtype), {}
    for name in ("answers_forward", "answers_adjoint"):
        found[name] = getattr(loaded, name)
        found[name].argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    return found
