"""Weights in float64, moved by a group element, made one by one when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from graphnfn.symmetry.exchange import exchanged, orbits
from graphnfn.symmetry.law_element import LawElement


class Moved(Mapping[str, Tensor]):
    """``element.act(tensors)`` that never holds more than a few tensors: a large network fits beside itself.

    Args:
        names: of the tensors.
        read: a tensor of the network, in float64.
        element: what moves them; None for nothing.
    """

    def __init__(self, names: Sequence[str], read: Callable[[str], Tensor], element: LawElement | None = None) -> None:
        self.names, self.read, self.element = dict.fromkeys(names), read, element
        self.moves = None if element is None else replace(element, order={})
        self.orbit: dict[str, str] = {}
        if element is not None and element.order:
            self.orbit = orbits([e for e in element.law.exchanges if e.id in element.order])

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        if self.element is None or self.moves is None:
            return self.read(name)
        if name not in self.orbit:
            return self.moves.act({name: self.read(name)})[name]
        twins = [n for n in self.names if self.orbit.get(n) == self.orbit[name]]
        moved = {n: self.moves.act({n: self.read(n)})[n] for n in twins}
        for exchange in self.element.law.exchanges:
            if exchange.id in self.element.order:
                moved = exchanged(moved, exchange, self.element.order[exchange.id].tolist())
        return moved[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
