"""Where the weights of every network of a zoo lie in its stacks, and graphs made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from graphnfn.errors import ZooError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.traced_stack import AnyStack
from graphnfn.zoo.files import Rows, WeightFiles, as_run

MOST_NODES = 2**24
"""Numbers that are kept in memory at most for the nodes of all networks of a zoo."""


class ZooWeights:
    """The stacks of a zoo together with their meaning.

    Args:
        files: the stacks.
        specs: the architectures.
        count: number of networks.
        number: gives the number of every network's spec, ``[count]``; called when first needed.

    Raises:
        ZooError: a parameter is missing, has a wrong shape or length, or a tensor belongs to no parameter.
    """

    def __init__(
        self, files: WeightFiles, specs: tuple[NetSpec, ...], count: int, number: Callable[[], Tensor]
    ) -> None:
        self.specs, self.count = specs, count
        self._files, self._read_number = files, number
        self._shared = share_stacks(specs)
        self._check()

    @cached_property
    def number(self) -> Tensor:
        """Per network, the number of its spec, ``[count]``."""
        number = self._read_number()
        if not self._shared:
            held = [self._files.shape(self._key(s, next(iter(spec.params))))[0] for s, spec in enumerate(self.specs)]
            told = torch.bincount(number, minlength=len(self.specs)).tolist()
            if held != told:
                raise ZooError(f"the table counts {told} networks per spec, the weights hold {held}: rebuild the zoo")
        return number

    def graph(self, rows: Rows) -> NeuralGraph:
        """The networks of some rows, in their order."""
        if len(self.specs) == 1:
            return NeuralGraph.from_stacks([self._stack(0, rows)])
        return _several(self.number[rows], lambda s, places: self._stack(s, self._lines(s, rows, places)))

    def _lines(self, s: int, rows: Rows, places: Tensor) -> Rows:
        """Where in the stacks of a spec the networks at some places of ``rows`` lie."""
        chosen = places + rows.start if isinstance(rows, slice) else rows[places]
        return as_run(chosen if self._shared else self._rank[s][chosen])

    @cached_property
    def _rank(self) -> list[Tensor]:
        """Per spec and row, how many networks of the spec come before."""
        return [(self.number == s).cumsum(0) - 1 for s in range(len(self.specs))]

    def _stack(self, s: int, lines: Rows) -> Stack:
        spec = self.specs[s]
        if not isinstance(lines, slice) and (whole := self._whole[s]) is not None:
            return whole.apply(lambda t: t.index_select(0, lines))  # copies row by row
        return Stack.pack(spec, {name: self._files.take(self._key(s, name), lines) for name in spec.params})

    @cached_property
    def _whole(self) -> list[Stack | None]:
        """Per spec, all its networks as one stack: blocks stay in the files, nodes are in memory.

        A batch takes as many copies then as there are blocks, and one. None where it would cost more than it saves:
        where a block would have to be copied, or where there are too many nodes.
        """
        counts = [self._files.shape(self._key(s, next(iter(spec.params))))[0] for s, spec in enumerate(self.specs)]
        numbers = sum(n * spec.num_nodes * spec.num_fields for n, spec in zip(counts, self.specs, strict=True))
        return [self._packed(s) if numbers <= MOST_NODES else None for s in range(len(self.specs))]

    def _packed(self, s: int) -> Stack | None:
        spec, keys = self.specs[s], {name: self._key(s, name) for name in self.specs[s].params}
        parts = [self._files.pieces[key] for key in keys.values()]
        types = {pieces[0].dtype for pieces in parts}
        views = all(b.dims == tuple(range(len(b.dims))) for b in spec.blocks)
        one_file = all(len(pieces) == 1 for pieces in parts)
        if not (views and one_file and len(types) == 1 and parts[0][0].is_floating_point()):
            return None
        return Stack.pack(spec, {name: self._files.pieces[key][0] for name, key in keys.items()})

    def _key(self, s: int, name: str) -> str:
        return name if self._shared else f"{s}/{name}"

    def _check(self) -> None:
        wanted: dict[str, tuple[int, ...]] = {}
        for s, spec in enumerate(self.specs):
            wanted.update({self._key(s, name): shape for name, shape in spec.params.items()})
        missing, extra = wanted.keys() - self._files.pieces, self._files.pieces.keys() - wanted
        if missing or extra:
            what = f"lack {sorted(missing)}" if missing else f"hold {sorted(extra)}, which no spec mentions"
            raise ZooError(f"the weights {what}; expected {sorted(wanted)}: rebuild the zoo or correct spec.json")
        lengths: dict[str, int] = {}
        for key, shape in wanted.items():
            length, *got = self._files.shape(key)
            if tuple(got) != shape:
                raise ZooError(f"tensor {key!r} has shape {tuple(got)} per network; spec.json says {shape}")
            first = "" if self._shared else key.split("/")[0]
            if lengths.setdefault(first, length) != length:
                raise ZooError(f"tensor {key!r} holds {length} networks, others {lengths[first]}: rebuild the zoo")
        if sum(lengths.values()) != self.count:
            raise ZooError(
                f"the table has {self.count} rows but the weights hold {sum(lengths.values())} networks: "
                "they belong to different zoos; copy both again or rebuild the zoo"
            )


class HeldWeights:
    """The networks of a graph in memory, in place of those in files.

    Args:
        graph: one or several architectures.
    """

    def __init__(self, graph: NeuralGraph) -> None:
        self._stacks, members = graph.stacks(), graph.members()
        self.specs, self.count = tuple(stack.spec for stack in self._stacks), graph.num_graphs
        self.number, self._line = (torch.empty(self.count, dtype=torch.long) for _ in range(2))
        for s, places in enumerate(members):
            self.number[places], self._line[places] = s, torch.arange(len(places))

    def graph(self, rows: Rows) -> NeuralGraph:
        """The networks of some rows, in their order."""
        if len(self.specs) == 1:
            return NeuralGraph.from_stacks([_taken(self._stacks[0], rows)])
        line = self._line[rows]
        return _several(self.number[rows], lambda s, places: _taken(self._stacks[s], as_run(line[places])))


def _several(number: Tensor, stack: Callable[[int, Tensor], AnyStack]) -> NeuralGraph:
    """A batch of several specs: ``number`` is that of every network, ``stack`` makes those of a spec at some places."""
    found = {s: (number == s).nonzero().flatten() for s in number.unique().tolist()}
    return NeuralGraph.from_stacks([stack(s, places) for s, places in found.items()], list(found.values()))


def _taken(stack: AnyStack, rows: Rows) -> AnyStack:
    return stack.take(rows) if isinstance(rows, slice) else stack.apply(lambda t: t.index_select(0, rows))


def share_stacks(specs: Sequence[NetSpec]) -> bool:
    """Whether networks of all specs lie in the same stacks, because their parameters agree."""
    return all(spec.params == specs[0].params for spec in specs)


def named_tensors(stacks: Sequence[Stack], number: Tensor) -> dict[str, Tensor]:
    """The tensors of a zoo file from one stack per spec; ``number`` is the spec of every network."""
    unpacked = [stack.unpack() for stack in stacks]
    if not share_stacks([s.spec for s in stacks]):
        named = {f"{s}/{name}": tensor for s, part in enumerate(unpacked) for name, tensor in part.items()}
        return {key: tensor.contiguous() for key, tensor in named.items()}
    out = {}
    for name, first in unpacked[0].items():
        out[name] = first.new_empty(len(number), *first.shape[1:])
        for s, part in enumerate(unpacked):
            out[name][number == s] = part[name]
    return out


def cut(tensors: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """The same rows of every stack; a stack that has none of them is left out."""
    return {key: tensor[rows].contiguous() for key, tensor in tensors.items() if len(tensor[rows])}
