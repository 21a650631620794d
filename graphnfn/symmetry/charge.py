"""Charges: how a feature scales when its neurons are rescaled, as an immutable value checked at construction."""

from __future__ import annotations

from dataclasses import dataclass

from graphnfn.errors import SymmetryError


@dataclass(frozen=True)
class Charge:
    """The charge of a node feature, ``x_i -> g_i^dst x_i``, or of an edge feature on j -> i,
    ``e_ij -> g_i^dst g_j^src e_ij``.

    The parity (charge mod 2) is all that is left of a charge under sign flips.  Rules: products add
    charges; sums need equal charges; biases and arbitrary nonlinearities need charge 0.

    Example:
        >>> WEIGHT.from_source(ACTIVATION)      # a forward message has the charge of a pre-activation
        Charge(dst=1, src=0)
        >>> WEIGHT.from_target(ADJOINT)         # a backward message has the charge of an adjoint
        Charge(dst=-1, src=0)
        >>> WEIGHT.from_target(ACTIVATION)      # the published bidirectional ReLU message
        Traceback (most recent call last):
        graphnfn.errors.SymmetryError: a backward message needs edge and node charges that cancel at the target; \
got edge Charge(dst=1, src=-1) and node Charge(dst=1, src=0), which leave charge 2 there
    """

    dst: int = 0
    src: int = 0

    def __mul__(self, other: Charge) -> Charge:
        return Charge(self.dst + other.dst, self.src + other.src)

    @property
    def parity(self) -> Charge:
        """The charge mod 2."""
        return Charge(self.dst % 2, self.src % 2)

    @property
    def neutral(self) -> bool:
        return self == NEUTRAL

    def from_source(self, node: Charge) -> Charge:
        """Charge at the target of the sum over sources of edge * node.

        Raises:
            SymmetryError: the charges do not cancel at the source.
        """
        if self.src + node.dst != 0:
            raise SymmetryError(
                "a forward message needs edge and node charges that cancel at the source; "
                f"got edge {self} and node {node}, which leave charge {self.src + node.dst} there"
            )
        return Charge(self.dst)

    def from_target(self, node: Charge) -> Charge:
        """Charge at the source of the sum over targets of edge * node.

        Raises:
            SymmetryError: the charges do not cancel at the target.
        """
        if self.dst + node.dst != 0:
            raise SymmetryError(
                "a backward message needs edge and node charges that cancel at the target; "
                f"got edge {self} and node {node}, which leave charge {self.dst + node.dst} there"
            )
        return Charge(self.src)

    def require(self, other: Charge, where: str) -> None:
        """Check that two charges may be added.

        Raises:
            SymmetryError: they differ.
        """
        if self != other:
            raise SymmetryError(f"{where}: sums need equal charges; got {self} and {other}")

    def require_neutral(self, where: str) -> None:
        """Check that a bias or an arbitrary nonlinearity is allowed.

        Raises:
            SymmetryError: the charge is not 0.
        """
        if not self.neutral:
            raise SymmetryError(f"{where} needs charge 0; got {self}: drop it or make the feature neutral first")


NEUTRAL = Charge(0)
BIAS = Charge(1)
WEIGHT = Charge(1, -1)
GRADIENT = Charge(-1, 1)
ACTIVATION = Charge(1)
ADJOINT = Charge(-1)
ODD = Charge(1)
"""A parity-odd node feature; use with :attr:`Charge.parity`."""
