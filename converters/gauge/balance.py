"""Solve the equations between the scales (over the rationals) and signs (mod 2) of one neuron's cells."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

Expression = dict[int, Fraction]


class Solver:
    """Sparse elimination that keeps every solved unknown in terms of free ones.

    Args:
        rank: unknowns with a lower rank are solved first, so those with the highest stay free.
        modulus: 2 for signs, None for scales.
    """

    def __init__(self, rank: Mapping[int, int], modulus: int | None) -> None:
        self.rank, self.modulus = rank, modulus
        self.solved: dict[int, Expression] = {}
        self.users: dict[int, set[int]] = {}

    def add(self, row: Mapping[int, Fraction]) -> None:
        """One equation ``sum coefficient * unknown = 0``."""
        left: Expression = {}
        for unknown, c in row.items():
            for u, k in self.expression(unknown).items():
                self._accumulate(left, u, c * k)
        if not left:
            return
        pivot = min(left, key=lambda u: (self.rank.get(u, 0), -u))
        c = left.pop(pivot)
        solution = {u: self._reduced(-k / c) for u, k in left.items()}
        self.solved[pivot] = solution
        for u in solution:
            self.users.setdefault(u, set()).add(pivot)
        for other in self.users.pop(pivot, ()):
            old = self.solved[other]
            k = old.pop(pivot)
            for u, v in solution.items():
                self._accumulate(old, u, k * v)
                if u in old:
                    self.users.setdefault(u, set()).add(other)
                else:
                    self.users.get(u, set()).discard(other)

    def expression(self, unknown: int) -> Expression:
        """An unknown in terms of free ones."""
        if unknown in self.solved:
            return self.solved[unknown]
        return {unknown: Fraction(1)}

    def _reduced(self, value: Fraction) -> Fraction:
        return value % self.modulus if self.modulus else value

    def _accumulate(self, row: Expression, unknown: int, value: Fraction) -> None:
        total = self._reduced(row.get(unknown, Fraction(0)) + value)
        if total:
            row[unknown] = total
        else:
            row.pop(unknown, None)
