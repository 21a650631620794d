"""The table of a zoo: one row per network, read when it is first needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import torch
from torch import Tensor

from graphnfn.errors import ZooError
from graphnfn.zoo.files import TABLE


@dataclass(frozen=True)
class ZooTable:
    """The Parquet table of a zoo folder.

    Args:
        path: of the file.
        count: number of rows.
    """

    path: Path
    count: int

    @staticmethod
    def open(folder: Path) -> ZooTable:
        """Read the footer, no rows.

        Raises:
            ZooError: the table is missing, damaged or empty.
        """
        path = folder / TABLE
        if not path.is_file():
            raise ZooError(f"{folder} has no {TABLE}: copy the whole folder, or rebuild the zoo")
        with _read_errors(path):
            count = pyarrow.parquet.read_metadata(path).num_rows
        if count == 0:
            raise ZooError(f"the zoo {folder} is empty: its table has no row. Build it with one network at least")
        return ZooTable(path, count)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All columns."""
        with _read_errors(self.path):
            return pd.read_parquet(self.path).reset_index(drop=True)

    def column(self, name: str) -> list[Any]:
        """One column.

        Raises:
            ZooError: there is no such column.
        """
        if name not in self.frame:
            raise ZooError(f"{self.path} has no column {name!r}; it has {list(self.frame.columns)}")
        return self.frame[name].tolist()

    def spec_numbers(self, specs: int) -> Tensor:
        """Per network, the number of its spec; all 0 where there is one spec.

        Raises:
            ZooError: a number is not one of the specs.
        """
        if specs == 1:
            return torch.zeros(self.count, dtype=torch.long)
        numbers = np.asarray(self.column("spec"))
        if not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < 0 or numbers.max() >= specs:
            raise ZooError(f"column 'spec' of {self.path} must hold numbers 0 to {specs - 1}, one spec per network")
        return torch.from_numpy(numbers.astype(np.int64))


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ZooError(f"{path} cannot be read ({error}): copy it again or rebuild the zoo") from error
