"""TracedStack: the weights of several traced networks of one architecture, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from graphnfn.errors import SpecError
from graphnfn.spec import Block, NetSpec
from graphnfn.stack import Stack
from graphnfn.traced import Column, TracedSpec, column_places


@dataclass(frozen=True)
class TracedStack:
    """B traced networks of one spec; nodes and blocks are made from their tensors when first asked for.

    Args:
        spec: what the tensors mean.
        tensors: those that the symmetry moves, ``[B, *shape]``, each in its own type.
        extra: further tensors that the program needs, the same for all networks: counters, masks, constants.
        inputs: example inputs of the program.
    """

    spec: TracedSpec
    tensors: Mapping[str, Tensor]
    extra: Mapping[str, Tensor]
    inputs: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """Number of networks."""
        return next(iter(self.tensors.values())).shape[0]

    @cached_property
    def blocks(self) -> tuple[Tensor, ...]:
        """Per block of the spec, weights ``[B, n_dst, n_src, taps]``: views of the tensors."""
        return tuple(_block(b, self.tensors[b.param]) for b in self.spec.blocks)

    @cached_property
    def nodes(self) -> Tensor:
        """Node features ``[B, nodes, fields]``, 0 where a group has fewer."""
        first = next(iter(self.tensors.values()))
        dtype = torch.float64 if any(t.dtype == torch.float64 for t in self.tensors.values()) else torch.float32
        out = torch.zeros(self.size, self.spec.num_nodes, self.spec.num_fields, dtype=dtype, device=first.device)
        for c in self.spec.columns:
            out[:, self.spec.span(c.group), c.first : c.first + c.width] = _column(self.spec, c, self.tensors[c.param])
        return out

    def group(self, i: int) -> Tensor:
        """Node features of one group, ``[B, n, fields]``."""
        return self.nodes[:, self.spec.span(i)]

    def apply(self, function: Callable[[Tensor], Tensor]) -> TracedStack:
        """The stack with a function applied to every tensor that the symmetry moves."""
        return replace(self, tensors={name: function(t) for name, t in self.tensors.items()})

    def take(self, rows: Tensor | slice) -> TracedStack:
        """Some of the networks; a slice gives views."""
        return self.apply(lambda t: t[rows])

    def unpack(self) -> dict[str, Tensor]:
        """The tensors ``[B, *shape]`` by name."""
        return dict(self.tensors)


AnyStack = Stack | TracedStack


def _block(b: Block, tensor: Tensor) -> Tensor:
    for axis, start, stop in b.part:
        tensor = tensor.narrow(axis + 1, start, stop - start)
    batch = tensor.shape[0]
    tensor = tensor.reshape(batch, *b.view).permute(0, *(d + 1 for d in b.dims))
    return tensor.reshape(batch, *b.sizes, b.num_taps)


def _column(spec: TracedSpec, c: Column, tensor: Tensor) -> Tensor:
    """``[B, neurons, width]``."""
    batch = tensor.shape[0]
    if c.axis < 0:
        return tensor.reshape(batch, 1, -1)
    size = spec.law.by_id[c.group].size
    index = torch.from_numpy(column_places(c, size).reshape(-1)).to(tensor.device)
    rows = tensor.movedim(c.axis + 1, 1).index_select(1, index)
    return rows.reshape(batch, size, -1)


def pack(
    spec: NetSpec,
    tensors: Mapping[str, Tensor],
    extra: Mapping[str, Tensor] | None = None,
    inputs: tuple[Tensor, ...] = (),
) -> AnyStack:
    """A stack of any spec from stacked parameters ``[B, *shape]``.

    Raises:
        SpecError: a parameter is missing or has another shape.
    """  # fmt: skip
    if not isinstance(spec, TracedSpec):
        return Stack.pack(spec, tensors)
    for name, shape in spec.shapes:
        got = tuple(tensors[name].shape[1:]) if name in tensors else None
        if got != shape:
            raise SpecError(f"parameter {name!r} has shape {got}; the spec expects {shape}")
    return TracedStack(spec, {name: tensors[name] for name, _ in spec.shapes}, extra or {}, inputs)


def join(stacks: list[Any]) -> AnyStack:
    """Stacks of one spec, one after the other."""
    if not isinstance(stacks[0], TracedStack):
        return Stack.join(stacks)
    if len(stacks) == 1:
        return stacks[0]
    names = stacks[0].tensors
    return replace(stacks[0], tensors={n: torch.cat([s.tensors[n] for s in stacks]) for n in names})
