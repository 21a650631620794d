"""A GraphMetaNet in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from graphnfn.errors import SpecError

Layer = Literal["native", "gated", "paths", "synchronous", "combined", "probes", "complete"]
Head = Literal["invariant", "edit", "descent"]


@dataclass(frozen=True, kw_only=True)
class MetaNetConfig:
    """A GraphMetaNet in numbers.

    Args:
        width: channels of every feature.
        rounds: how often the layers of ``layer`` are applied, each time with their own parameters.
        out: numbers predicted per network (head "invariant").
        layer: "native" evaluates the network on learned inputs and back, "gated" reads its weights, "paths" sums over
            products of them, "synchronous" is classical message passing, "combined" is native then gated, "probes" runs
            the networks on learned inputs and, where they take coordinates, on a lattice of points,
            "complete" is probes, then combined.
        head: "invariant" gives ``[networks, out]``, "edit" gives edited graphs, made from the layers' features;
            "descent" gives graphs edited by a learned gradient step, for which the layers are optional (rounds=0).
        rank: terms of the edit head's low-rank update.
        points: learned inputs on which the descent head runs the networks.
        jitter: of the lattice of probes in training, see :class:`graphnfn.nn.lattice.LatticeProbes`.
        dropout: share of its values that training leaves out in front of the dense layers that read a lattice.
        reference_width: hidden neurons per group for which predictions are learned, so that they carry over to other
            widths: weights and their statistics are read relative to the fan-in, sums over hidden neurons as means, and
            readouts as those of so many neurons. Groups of that width are read as without it. It concerns layers other
            than "synchronous" on MLPs and CNNs. None: sums as they are.
        statistics: whether the head "invariant" is also told how weights are spread, layer by layer, see
            :class:`~graphnfn.nn.statistics.WeightStatistics`; SIRENs are left out. It helps most where training
            networks are few; call :meth:`GraphMetaNet.fit` before training.
        functionals: whether to the predictions of head "invariant" a linear functional of the field is added that a
            network of 1 to 3 coordinates computes, see :class:`~graphnfn.nn.functionals.FieldFunctionals`, and a
            function of how the field's values are distributed, see :class:`~graphnfn.nn.shares.FieldShares`, for labels
            such as means, moments and volumes; call :meth:`GraphMetaNet.fit` before training.
        balanced: whether networks are read in the form in which what enters and what leaves a neuron is of one size,
            see :func:`~graphnfn.symmetry.balanced.balanced_scales`, instead of with unit incoming norms, in which a
            neuron that does hardly anything looks like any other. Coordinate networks are left out: from balanced
            weights their fields are harder to tell.
        units: whether "gated", "paths" and "synchronous" layers read weights in units of their blocks, which
            :meth:`GraphMetaNet.fit` takes from a zoo; until then weights are read as they are.
        checkpoint: whether to trade time for memory: the backward pass runs every layer once more instead of keeping
            what it made, and traced networks are run on a few channels at a time.

    Raises:
        SpecError: a value is out of range.
    """

    width: int = 32
    rounds: int = 1
    out: int = 1
    layer: Layer = "combined"
    head: Head = "invariant"
    rank: int = 8
    points: int = 64
    jitter: float = 0.0
    dropout: float = 0.0
    reference_width: int | None = None
    statistics: bool = False
    functionals: bool = False
    balanced: bool = False
    units: bool = False
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if self.layer not in get_args(Layer) or self.head not in get_args(Head):
            raise SpecError(
                f"layer={self.layer!r}, head={self.head!r}: expected a layer of {', '.join(get_args(Layer))} "
                "and head 'invariant', 'edit' or 'descent'"
            )
        least = 0 if self.head == "descent" else 1
        if min(self.width, self.out, self.rank, self.points) < 1 or self.rounds < least:
            raise SpecError(
                f"width, rounds, out, rank and points must be 1 at least (rounds 0 with head 'descent'); got {self}"
            )
        if self.reference_width is not None and (self.reference_width < 1 or self.layer == "synchronous"):
            raise SpecError(
                f"got reference_width={self.reference_width} with layer={self.layer!r}; expected 1 or more neurons and "
                "a layer other than 'synchronous'"
            )
        if (self.statistics or self.functionals) and self.head != "invariant":
            raise SpecError(
                f"got statistics={self.statistics}, functionals={self.functionals} with head={self.head!r}; only head "
                "'invariant' reads them: leave them off"
            )
        if not (0 <= self.jitter < 1 and 0 <= self.dropout < 1):
            raise SpecError(f"got jitter={self.jitter}, dropout={self.dropout}; expected numbers in [0, 1)")
