"""Networks as a GraphMetaNet reads them, for those that are read many times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from graphnfn.stack import Stack


@dataclass(frozen=True)
class Prepared(Stack):
    """A stack that :meth:`graphnfn.models.GraphMetaNet.prepare` made: canonical weights, and what was seen of them.

    A model takes it as it is, without canonicalising it again; everything else sees an ordinary stack. It must not be
    edited: group elements give ordinary stacks, which are made canonical anew.

    Args:
        statistics: of balanced weights, ``[B, statistics]``.
        picture: of networks of coordinates on the lattice, ``[B, outputs, side, ...]``.
        field: of these in the middles of cells, ``[B, outputs * middles]``.
        values: the same in ascending order, ``[B, outputs, middles]``.

    Each of the last four is None where no model asked for it.
    """

    statistics: Tensor | None = None
    picture: Tensor | None = None
    field: Tensor | None = None
    values: Tensor | None = None

    def apply(self, function: Callable[[Tensor], Tensor]) -> Prepared:
        """The stack with a function applied to every tensor."""
        seen = (None if t is None else function(t) for t in (self.statistics, self.picture, self.field, self.values))
        return Prepared(self.spec, function(self.nodes), tuple(function(b) for b in self.blocks), *seen)
