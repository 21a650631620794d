"""Which atoms play the same part: they occur in the same tensors equally often, inside the same bundles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.gauge.infer import Inference
from converters.gauge.system import Ints
from converters.gauge.values import Factor

_PRIME = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Classes:
    """Per class of atoms that move together ("root"): its part.

    Args:
        roots: root of every atom.
        part: equal for roots that may be exchanged, as 64-bit hashes.
        plain: the same without regard to the bundles that they lie in.
        bundles: pairs (root, root of the bundle that it lies in).
    """

    roots: Ints
    part: NDArray[np.uint64]
    plain: NDArray[np.uint64]
    bundles: Ints


def classify(found: Inference) -> Classes:
    """Hash every root's occurrences."""
    roots = found.system.roots()
    size = int(roots.max()) + 1 if len(roots) else 0
    plain = np.ones(size, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for number, factor in enumerate(_factors(found)):
            seen, counts = np.unique(roots[factor.atoms.reshape(-1)], return_counts=True)
            tag = _mix(np.uint64(number + 1) * _PRIME + counts.astype(np.uint64))
            plain[seen] = _mix(plain[seen] * _PRIME ^ tag)
        pairs = np.zeros((0, 2), dtype=np.int64)
        if found.system.parents:
            children = roots[np.concatenate([a.reshape(-1) for a, _ in found.system.parents])]
            parents = [np.repeat(b, a.shape[1]) for a, b in found.system.parents]
            pairs = np.unique(np.stack([children, roots[np.concatenate(parents)]], 1), axis=0)
        part = plain.copy()
        np.add.at(part, pairs[:, 0], _mix(pairs[:, 1].astype(np.uint64) * _PRIME + np.uint64(7)))
    return Classes(roots, part, plain, pairs)


def _factors(found: Inference) -> list[Factor]:
    """All places where atoms occur, in a fixed order."""
    out = [f for name in found.order for f in found.params[name].factors]
    out += list(found.joint.values())
    return out + [f for value in found.values.values() for f in value.factors]
