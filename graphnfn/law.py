"""SymmetryLaw: how the neurons of a network sit on the axes of its tensors, and what may be done to them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from graphnfn.errors import SpecError


@dataclass(frozen=True)
class GaugeVar:
    """One factor per neuron of a group that is free.

    Args:
        id: unique name.
        group: whose neurons.
        scale: whether positive factors are free.
        sign: whether signs are free.
        linear: whether any invertible matrix over the group is free (it contains scales, signs, permutations).
        reason: in words, why not more.
    """

    id: str
    group: str
    scale: bool
    sign: bool
    linear: bool = False
    reason: str = ""

    @property
    def kind(self) -> str:
        """GL, nonzero, positive, sign or none."""
        if self.linear:
            return "GL"
        return {(True, True): "nonzero", (True, False): "positive", (False, True): "sign"}.get(
            (self.scale, self.sign), "none"
        )


@dataclass(frozen=True)
class MoveGroup:
    """Neurons that may be permuted among each other (or that stay where they are).

    Args:
        id: unique name.
        size: number of neurons.
        permutable: whether any permutation is a symmetry.
        role: input, hidden or output.
        acts: the operators that act on each of its neurons, e.g. ``("relu",)``.
        reason: in words, why it is fixed.
    """

    id: str
    size: int
    permutable: bool
    role: str = "hidden"
    acts: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Leg:
    """Neuron i of a group sits at the places ``starts[s] + stride i`` of an axis of a tensor (or at ``places``).

    Under the group its entries are multiplied by the product of ``gauge^power``: ``scale`` for positive factors,
    ``sign`` for signs.

    Args:
        param: the tensor.
        axis: of the tensor.
        group: whose neurons.
        starts: first places, one per slot.
        stride: step from neuron to neuron; 0 where ``places`` lists them all, slot after slot.
        where: only these places of another axis, as (axis, start, stop).
        scale: (gauge id, power) pairs.
        sign: gauge ids whose sign enters.
        dst: whether the tensor leads to these neurons, rather than from them.
    """

    param: str
    axis: int
    group: str
    starts: tuple[int, ...]
    stride: int
    where: tuple[tuple[int, int, int], ...] = ()
    scale: tuple[tuple[str, float], ...] = ()
    sign: tuple[str, ...] = ()
    dst: bool = True
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Places ``start .. stop`` of an axis of a tensor, run after run; the whole tensor where the axis is -1."""

    param: str
    axis: int
    runs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Exchange:
    """Parts of a network that may be exchanged as they are, such as experts or the query heads of one key.

    Args:
        id: unique name.
        parts: for every part its pieces, in the same order and of the same shapes.
    """

    id: str
    parts: tuple[tuple[Piece, ...], ...]


@dataclass(frozen=True)
class SymmetryLaw:
    """All of it: groups, gauges, legs, and what may be exchanged: families, sets of equal bundles of groups, and parts.

    A family such as ``(("q.0", "v.0"), ("q.1", "v.1"))`` says that attention heads may be exchanged.
    """

    groups: tuple[MoveGroup, ...]
    gauges: tuple[GaugeVar, ...]
    legs: tuple[Leg, ...]
    families: tuple[tuple[tuple[str, ...], ...], ...] = ()
    notes: tuple[str, ...] = ()
    exchanges: tuple[Exchange, ...] = ()

    @cached_property
    def by_id(self) -> dict[str, MoveGroup]:
        return {g.id: g for g in self.groups}

    @cached_property
    def gauges_of(self) -> dict[str, tuple[GaugeVar, ...]]:
        """Group id -> its gauges."""
        return {g.id: tuple(v for v in self.gauges if v.group == g.id) for g in self.groups}

    @cached_property
    def legs_of(self) -> dict[str, tuple[Leg, ...]]:
        """Tensor -> its legs."""
        found: dict[str, list[Leg]] = {}
        for leg in self.legs:
            found.setdefault(leg.param, []).append(leg)
        return {name: tuple(legs) for name, legs in found.items()}

    def to_json(self) -> str:
        """The law as JSON text; :meth:`from_json` gives it back."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> SymmetryLaw:
        """Read :meth:`to_json`.

        Raises:
            SpecError: the text is not a law.
        """
        try:
            d = json.loads(text)
            return SymmetryLaw(
                tuple(MoveGroup(**_tuples(g)) for g in d["groups"]),
                tuple(GaugeVar(**g) for g in d["gauges"]),
                tuple(Leg(**_tuples(leg)) for leg in d["legs"]),
                _tuple(d["families"]),
                _tuple(d["notes"]),
                tuple(_exchange(e) for e in d.get("exchanges", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"this text is not a SymmetryLaw ({error}); write it with SymmetryLaw.to_json") from error


def _exchange(d: dict[str, Any]) -> Exchange:
    return Exchange(d["id"], tuple(tuple(Piece(**_tuples(p)) for p in part) for part in d["parts"]))


def _tuple(value: Any) -> Any:
    return tuple(_tuple(v) for v in value) if isinstance(value, list) else value


def _tuples(d: dict[str, Any]) -> dict[str, Any]:
    return {key: _tuple(value) for key, value in d.items()}
