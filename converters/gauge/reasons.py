"""In words: what keeps the factors of a group from being freer."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from converters.gauge.balance import Solver

Equation = tuple[list[int], tuple[float, ...], bool, bool, str]
"""Cells, powers, whether it is about scales, whether it is about signs, why."""


def coefficients(cells: Sequence[int], powers: Sequence[float]) -> dict[int, Fraction]:
    """An equation as unknown -> coefficient."""
    row: dict[int, Fraction] = {}
    for cell, power in zip(cells, powers, strict=True):
        row[cell] = row.get(cell, Fraction(0)) + Fraction(power)
    return row


def reason(kind: str, cells: Sequence[int], equations: Sequence[Equation], bent: Sequence[str]) -> str:
    """Why a factor on these cells is of this kind and not more.

    Args:
        kind: as of :class:`graphnfn.law.GaugeVar`.
        cells: where it acts.
        equations: of the neuron.
        bent: what acts on each neuron alone.
    """
    if kind == "GL":
        return ""
    if kind == "nonzero":
        return f"not linear: {_text(bent)}" if bent else ""
    scales = [] if kind == "positive" else _blockers(cells, equations, signs=False)
    signs = [] if kind == "sign" else _blockers(cells, equations, signs=True)
    words = "no scale" if kind == "sign" else ("no sign" if kind == "positive" else "no scale, no sign")
    return f"{words}: {_text(scales or signs)}" if scales or signs else words


def _blockers(cells: Sequence[int], equations: Sequence[Equation], *, signs: bool) -> list[str]:
    """What holds these cells at one, directly or through cells that are bound to them."""
    loose = Solver({}, 2 if signs else None)
    of_kind = [e for e in equations if (e[3] if signs else e[2])]
    for equation in of_kind:
        if len(equation[0]) > 1:
            row = coefficients(*equation[:2])
            loose.add({c: abs(p) % 2 for c, p in row.items() if abs(p) % 2} if signs else row)
    unknowns = {u for cell in cells for u in loose.expression(cell)}
    held = [e[4] for e in of_kind if len(e[0]) == 1 and unknowns & set(loose.expression(e[0][0]))]
    twice = [e[4] for e in of_kind if len(set(e[0])) < len(e[0]) and set(e[0]) & set(cells)]
    return held or [f"on both sides of {why}" for why in twice]


def _text(reasons: Sequence[str]) -> str:
    return "; ".join(list(dict.fromkeys(reasons))[:2])
