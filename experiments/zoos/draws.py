"""Random draws that belong to one network: the same whatever else is built, and in whatever order."""

from __future__ import annotations

import math
import zlib

import numpy as np

Range = tuple[float, float]
"""Lower and upper bound."""

SPLIT_SHARES = (("train", 0.6), ("val", 0.15), ("test", 0.25))


def network_generator(seed: int, network: int, purpose: str) -> np.random.Generator:
    """An independent stream for every seed, network and purpose.

    Example:
        >>> first, again = (network_generator(0, 5, "plan").random() for _ in range(2))
        >>> first == again, first == network_generator(0, 6, "plan").random()
        (True, False)
    """
    return np.random.default_rng([seed, network, zlib.crc32(purpose.encode())])


def log_uniform(rng: np.random.Generator, bounds: Range) -> float:
    """A number whose logarithm is uniform; equal bounds give the bound."""
    low, high = bounds
    return float(low) if low == high else math.exp(rng.uniform(math.log(low), math.log(high)))


def split_name(seed: int, unit: int) -> str:
    """train, val or test with shares .6, .15, .25; it depends on the seed and the unit only."""
    draw = network_generator(seed, unit, "split").random()
    total = 0.0
    for name, share in SPLIT_SHARES:
        total += share
        if draw < total:
            return name
    return SPLIT_SHARES[-1][0]
