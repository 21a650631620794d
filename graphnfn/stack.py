"""Stack: the weights of several networks of one spec, block by block, without any per-edge index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from graphnfn.errors import SpecError
from graphnfn.spec import NEUTRAL_NODE, NODE_FIELDS, NetSpec


@dataclass(frozen=True)
class Stack:
    """B networks of one spec.

    Args:
        spec: what the tensors mean.
        nodes: node parameters, ``[B, nodes, fields]``; groups follow one another.
        blocks: per block of the spec, weights ``[B, n_dst, n_src, taps]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> stack = Stack.pack(spec, {name: torch.ones(3, *shape) for name, shape in spec.params.items()})
        >>> stack.size, stack.blocks[0].shape, stack.unpack()["layers.1.weight"].shape
        (3, torch.Size([3, 4, 2, 1]), torch.Size([3, 1, 4]))
    """

    spec: NetSpec
    nodes: Tensor
    blocks: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """Number of networks."""
        return self.nodes.shape[0]

    def apply(self, function: Callable[[Tensor], Tensor]) -> Stack:
        """The stack with a function applied to every tensor."""
        return Stack(self.spec, function(self.nodes), tuple(function(b) for b in self.blocks))

    def take(self, rows: Tensor | slice) -> Stack:
        """Some of the networks; a slice gives views."""
        return self.apply(lambda t: t[rows])

    def group(self, i: int) -> Tensor:
        """Node parameters of one group, ``[B, n, fields]``."""
        return self.nodes[:, self.spec.span(i)]

    @staticmethod
    def join(stacks: list[Stack]) -> Stack:
        """Stacks of one spec, one after the other."""
        if len(stacks) == 1:
            return stacks[0]
        blocks = tuple(torch.cat(parts) for parts in zip(*(s.blocks for s in stacks), strict=True))
        return Stack(stacks[0].spec, torch.cat([s.nodes for s in stacks]), blocks)

    @staticmethod
    def pack(spec: NetSpec, tensors: Mapping[str, Tensor]) -> Stack:
        """Read stacked parameters ``[B, *shape]``; blocks of plain layers are views of them.

        Raises:
            SpecError: a parameter is missing or has another shape.
        """
        for name, shape in spec.params.items():
            if name not in tensors:
                raise SpecError(f"parameter {name!r} is missing; got {sorted(tensors)}")
            if tensors[name].shape[1:] != shape:
                got = tuple(tensors[name].shape[1:])
                raise SpecError(f"parameter {name!r} has shape {got}; the spec expects {shape}")
        dtype = reduce(torch.promote_types, {tensors[name].dtype for name in spec.params})
        dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
        blocks = []
        for b in spec.blocks:
            tensor = tensors[b.param].to(dtype)
            batch = tensor.shape[0]
            if b.dims != tuple(range(len(b.dims))):
                tensor = tensor.reshape(batch, *b.view).permute(0, *(d + 1 for d in b.dims))
            blocks.append(tensor.reshape(batch, *b.sizes, b.num_taps))
        first = blocks[0]
        if spec.num_fields == 1:
            nodes = first.new_zeros(first.shape[0], spec.num_nodes, 1)
        else:
            neutral = torch.tensor(NEUTRAL_NODE[: spec.num_fields], dtype=dtype, device=first.device)
            nodes = neutral.repeat(first.shape[0], spec.num_nodes, 1)
        for p in spec.node_params:
            nodes[:, spec.span(p.group), NODE_FIELDS.index(p.field)] = tensors[p.param].to(dtype)
        return Stack(spec, nodes, tuple(blocks))

    def unpack(self) -> dict[str, Tensor]:
        """The parameters ``[B, *shape]`` by name, in the order of the spec.

        Raises:
            SpecError: copies of a tied parameter disagree.
        """
        out: dict[str, Tensor] = {}
        for b, block in zip(self.spec.blocks, self.blocks, strict=True):
            inverse = [b.dims.index(d) + 1 for d in range(len(b.dims))]
            tensor = block.reshape(self.size, *(b.view[d] for d in b.dims)).permute(0, *inverse)
            _put(out, b.param, tensor.reshape(self.size, *b.shape))
        for p in self.spec.node_params:
            column = self.nodes[:, self.spec.span(p.group), NODE_FIELDS.index(p.field)]
            _put(out, p.param, column[:, : p.shape[0]])
        return {name: out[name] for name in self.spec.params}


def _put(out: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in out and not torch.equal(out[name], value):
        raise SpecError(f"parameter {name!r} is tied, but its copies differ: edit all copies alike")
    out[name] = value
