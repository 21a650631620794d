"""Which atoms play the same part: they occur in the same tensors equally often, inside the same bundles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.gauge.infer import Inference
from converters.gauge.system import Ints
from converters.gauge.values import Factor

_PRIME = np.uint64(0x9E3779B97F4A7C15)
Hashes = NDArray[np.uint64]


def _mix(x: Hashes) -> Hashes:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Classes:
    """Per class of atoms that move together ("root"): its part, as 64-bit hashes.

    Args:
        roots: root of every atom.
        part: equal for roots of one group.
        plain: the same without regard to the bundles that they lie in.
        label: of the places that they are bound to; roots of other labels do not take each other's place.
        slot: of every atom, where it occurs itself: tells apart the places of one neuron on one axis.
        strand: of every atom; the places of one neuron with the same slot are told apart by it.
        bundles: pairs (root, root of the bundle that it lies in).
    """

    roots: Ints
    part: Hashes
    plain: Hashes
    label: Hashes
    slot: Hashes
    strand: Ints
    bundles: Ints


def classify(found: Inference) -> Classes:
    """Hash every root's occurrences."""
    roots = found.system.roots()
    size = int(roots.max()) + 1 if len(roots) else 0
    factors = _factors(found)
    with np.errstate(over="ignore"):
        plain = _occurrences([roots[f.atoms.reshape(-1)] for f in factors], size)
        slot = _occurrences([f.atoms.reshape(-1) for f in factors], len(roots))
        label = _labels(found, roots, size)
        strand = found.system.strands()
        pairs = _pairs(found, roots)
        part = plain.copy()
        _add_bundles(found, roots, slot ^ _mix(_ranks(roots, strand)), part)
        _add_rows(found, roots, part)
        own = np.unique(pairs[:, 1])  # a bundle that sits in tensors itself is a group of its own
        part[own] = _mix(part[own] + own.astype(np.uint64) * _PRIME)
        part = _divided(part, label)
    return Classes(roots, part, plain, label, slot, strand, pairs)


def _occurrences(places: list[Ints], size: int) -> Hashes:
    out = np.ones(size, dtype=np.uint64)
    for number, here in enumerate(places):
        seen, counts = np.unique(here, return_counts=True)
        out[seen] = _mix(out[seen] * _PRIME ^ _mix(np.uint64(number + 1) * _PRIME + counts.astype(np.uint64)))
    return out


def _add_rows(found: Inference, roots: Ints, part: Hashes) -> None:
    """Neurons in other rows of a tensor are of another group: its columns are permuted within rows."""
    joint = [f for name in found.order for f in found.places[name] if len(f.axes) > 1]
    for number, factor in enumerate(joint):
        for k, row in enumerate(factor.atoms):
            seen, counts = np.unique(roots[row], return_counts=True)
            tag = np.array([number + 11], dtype=np.uint64) * _PRIME + np.uint64(k)
            part[seen] += _mix(_mix(tag) + counts.astype(np.uint64))


def _labels(found: Inference, roots: Ints, size: int) -> Hashes:
    out = np.zeros(size, dtype=np.uint64)
    for number, (atoms, codes, _) in enumerate(found.system.fixed):
        pairs = np.unique(np.stack([roots[atoms], codes]), axis=1)
        tags = _mix(_mix(pairs[1].astype(np.uint64) + np.uint64(1)) + np.uint64(number + 1) * _PRIME)
        np.add.at(out, pairs[0], tags)
    return out


def _ranks(roots: Ints, strand: Ints) -> Hashes:
    """Per atom, the how-manieth strand of its root it is on."""
    pairs, back = np.unique(np.stack([roots, strand]), axis=1, return_inverse=True)
    first = np.searchsorted(pairs[0], pairs[0])
    return (np.arange(pairs.shape[1]) - first)[back.reshape(-1)].astype(np.uint64)


def _add_bundles(found: Inference, roots: Ints, place: Hashes, part: Hashes) -> None:
    """Neurons that lie in other bundles, with any of their places, are of another group.

    What counts is the bundle itself: bundles may be bound to each other, unlike what they hold.
    """
    tags: list[Hashes] = []
    for rows, parents in found.system.parents:
        for row, parent in zip(rows, parents.tolist(), strict=True):
            inside = row[roots[row] != roots[parent]]
            name = np.full(len(inside), parent, dtype=np.uint64)
            tags.append(np.stack([roots[inside].astype(np.uint64), place[inside], name]))
    if tags:
        owner, where, name = np.unique(np.concatenate(tags, 1), axis=1)
        np.add.at(part, owner.astype(np.int64), _mix(_mix(name * _PRIME + np.uint64(7)) ^ where))


def _pairs(found: Inference, roots: Ints) -> Ints:
    """Roots and the roots of the bundles that they lie in; a bundle does not lie in itself."""
    out = [np.zeros((0, 2), dtype=np.int64)]
    for rows, parents in found.system.parents:
        for row, parent in zip(rows, roots[parents].tolist(), strict=True):
            inside = np.unique(roots[row])
            out.append(np.stack([inside, np.full_like(inside, parent)], 1))
    pairs = np.unique(np.concatenate(out), axis=0)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _divided(part: Hashes, label: Hashes) -> Hashes:
    """Roots of one part, all bound to different places, are one fixed group; else every label has its own."""
    both = np.unique(np.stack([part, label]), axis=1)
    parts, labels = np.unique(both[0], return_counts=True)
    _, back, members = np.unique(part, return_inverse=True, return_counts=True)
    mixed = (labels > 1) & (labels < members)
    _ = parts
    return np.where(mixed[back.reshape(-1)], _mix(part * _PRIME ^ label), part)


def _factors(found: Inference) -> list[Factor]:
    """All places where atoms occur, in a fixed order."""
    out = [f for name in found.order for f in found.places[name]]
    return out + [f for value in found.values.values() for f in value.factors]
