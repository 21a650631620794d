"""Run traced networks: their program on their own tensors."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from graphnfn.program import execute
from graphnfn.traced import TracedSpec
from graphnfn.traced_stack import TracedStack


def run_traced(
    stack: TracedStack,
    row: int = 0,
    inputs: Sequence[Tensor] | None = None,
    *,
    observe: Callable[[str, Any], Any] | None = None,
) -> tuple[Any, ...]:
    """The outputs of one network of a stack.

    Args:
        stack: traced networks.
        row: which of them.
        inputs: of the traced shapes; without them the example inputs.
        observe: see :func:`graphnfn.program.execute`.
    """
    tensors = {name: t[row] for name, t in stack.tensors.items()}
    return run_program(stack.spec, tensors, stack.extra, stack.inputs if inputs is None else inputs, observe=observe)


def run_program(
    spec: TracedSpec,
    tensors: Mapping[str, Tensor],
    extra: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    *,
    observe: Callable[[str, Any], Any] | None = None,
) -> tuple[Any, ...]:
    """The outputs of a program on tensors of one network; floating-point constants and inputs take their type."""
    first = next(t for t in tensors.values() if t.is_floating_point())
    dtype, like = first.dtype, first.new_empty(0)
    del first  # it may have been made for this

    def fit(t: Tensor) -> Tensor:
        return t.to(dtype) if t.is_floating_point() else t

    constants = [fit(extra[name]) for name in spec.program.constants]
    rest = {name: fit(t) for name, t in extra.items()}
    both: Mapping[str, Tensor] = ChainMap(cast("dict[str, Tensor]", tensors), rest)  # tensors may be made when read
    return execute(spec.program, both, [fit(x) for x in inputs], constants, observe, like=like)


def doubled(stack: TracedStack) -> TracedStack:
    """The stack in float64."""
    return stack.apply(lambda t: t.to(torch.float64))
