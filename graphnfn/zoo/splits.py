"""Fresh splits of the rows of a table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from graphnfn.errors import ZooError

SPLITS = ("train", "val", "test")
TOGETHER = ("image_set", "image", "trial", "modeldir")
"""Columns by which builders and readers tell networks of one image, or checkpoints of one training."""


def fresh_split(table: pd.DataFrame, seed: int, fractions: tuple[float, float, float]) -> np.ndarray:
    """A split per row; rows that agree in all columns of :data:`TOGETHER` that the table has get the same.

    Args:
        table: one row per network.
        seed: of the shuffle.
        fractions: of train, val and test, of what is shuffled.

    Raises:
        ZooError: the fractions do not sum to 1.

    Example:
        >>> table = pd.DataFrame({"trial": ["a", "a", "b", "b"], "epoch": [1, 2, 1, 2]})
        >>> fresh_split(table, 0, (0.5, 0.0, 0.5)).tolist()
        ['train', 'train', 'test', 'test']
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ZooError(f"got fractions {fractions}; expected three for train, val and test that sum to 1")
    number = belonging(table)
    count = int(number.max(initial=-1)) + 1
    ends = np.round(np.cumsum([0, *fractions]) * count).astype(int)
    names = np.repeat(SPLITS, np.diff(ends))
    return names[np.random.default_rng(seed).permutation(count)][number]


def belonging(table: pd.DataFrame) -> np.ndarray:
    """Per row a number that rows share which belong together, in the order in which they come; a row in which one of
    the columns is missing is on its own.

    Example:
        >>> belonging(pd.DataFrame({"image": [4, 7, 4, None, None]})).tolist()
        [0, 1, 0, 2, 3]
        >>> belonging(pd.DataFrame({"score": [1, 1, 1]})).tolist()
        [0, 1, 2]
    """
    columns = [name for name in TOGETHER if name in table]
    if not columns:
        return np.arange(len(table))
    number = table.groupby(columns, sort=False).ngroup().to_numpy(dtype=float, na_value=np.nan)
    return pd.factorize(np.where(np.isnan(number), len(table) + np.arange(len(table)), number))[0]
