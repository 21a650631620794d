"""The Zoo class; its folder layout is described in :mod:`graphnfn.zoo`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from graphnfn.errors import SpecError, ZooError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack
from graphnfn.zoo.files import Rows, WeightFiles, as_run, read_description, write_folder
from graphnfn.zoo.layouts import described_specs
from graphnfn.zoo.splits import SPLITS as SPLITS
from graphnfn.zoo.splits import fresh_split
from graphnfn.zoo.table import ZooTable
from graphnfn.zoo.weights import HeldWeights, ZooWeights, cut, named_tensors

FORMAT, VERSION = "graphnfn-zoo", 1


class Zoo:
    """Networks of one or several architectures, row by row beside a table; see the module for the files.

    Attributes:
        specs: the architectures.
        about: facts about the zoo as a whole.

    Example:
        >>> import tempfile
        >>> from graphnfn.chain import mlp_spec
        >>> spec = mlp_spec([2, 4, 1], "tanh")
        >>> stack = Stack.pack(spec, {name: torch.randn(9, *shape) for name, shape in spec.params.items()})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Zoo.write(folder, [stack], pd.DataFrame({"score": np.linspace(0, 1, 9)}))
        ...     zoo = Zoo.open(folder).with_split(seed=0)
        ...     zoo, zoo.batch(zoo.split("train")).num_graphs, zoo.labels("score", [0, 8])
        (Zoo(networks=9, specs=1), 5, tensor([0., 1.]))
    """

    specs: tuple[NetSpec, ...]
    about: dict[str, Any]

    def __init__(
        self,
        weights: ZooWeights | HeldWeights,
        table: ZooTable,
        about: dict[str, Any],
        rows: Tensor | None = None,
    ) -> None:
        """Use :meth:`open`."""
        self.specs, self.about = weights.specs, about
        self._weights, self._table_source, self._rows = weights, table, rows

    @classmethod
    def open(cls, folder: str | Path) -> Zoo:
        """Open a folder without reading weights or table.

        Raises:
            ZooError: parts are missing, damaged, or contradict each other.
        """
        folder = Path(folder)
        description = read_description(folder)
        table, files = ZooTable.open(folder), WeightFiles.open(folder)
        if "format" in description:
            specs = _listed_specs(description, folder)
            weights = ZooWeights(files, specs, table.count, lambda: table.spec_numbers(len(specs)))
            return cls(weights, table, description.get("about", {}))
        shapes = {key: files.shape(key)[1:] for key in files.pieces}
        specs, number = described_specs(description, shapes, table.count, table.column)
        return cls(ZooWeights(files, specs, table.count, lambda: number), table, description)

    @staticmethod
    def write(
        folder: str | Path,
        stacks: Sequence[Stack],
        table: pd.DataFrame,
        *,
        about: Mapping[str, Any] | None = None,
        networks_per_file: int | None = None,
    ) -> None:
        """Write a zoo; it appears whole or not at all.

        Args:
            folder: must not exist yet, or be empty.
            stacks: one per spec.
            table: one row per network: in the order of the stacks, or with a column ``spec`` that gives every row's
                stack (the networks of a stack then follow in the order of the table).
            about: facts about the zoo as a whole.
            networks_per_file: split the weights into files of so many networks (of every spec).

        Raises:
            ZooError: the table does not fit the stacks, or the folder is in use.
        """
        sizes = [s.size for s in stacks]
        if not sum(sizes):
            raise ZooError("an empty zoo cannot be written: give one network at least")
        if len({s.spec for s in stacks}) != len(stacks):
            raise ZooError("two stacks have the same spec: join them with Stack.join")
        if len(table) != sum(sizes):
            raise ZooError(f"the table has {len(table)} rows and the stacks hold {sum(sizes)} networks: give one each")
        if "spec" not in table:
            table = table.assign(spec=np.repeat(np.arange(len(sizes)), sizes))
        number = torch.from_numpy(table["spec"].to_numpy(dtype=np.int64, copy=True))
        if torch.bincount(number, minlength=len(sizes)).tolist() != sizes:
            raise ZooError(f"column 'spec' of the table does not count {sizes} networks per stack: correct it")
        specs = [s.spec for s in stacks]
        tensors = named_tensors(stacks, number)
        step = networks_per_file or len(table)
        longest = max(len(t) for t in tensors.values())
        shards = [cut(tensors, slice(i, i + step)) for i in range(0, longest, step)]
        content = {"format": FORMAT, "version": VERSION, "specs": [json.loads(s.to_json()) for s in specs]}
        write_folder(Path(folder), {**content, "about": dict(about or {})}, shards, table)

    def __len__(self) -> int:
        return self._weights.count if self._rows is None else len(self._rows)

    def __repr__(self) -> str:
        return f"Zoo(networks={len(self)}, specs={len(self.specs)})"

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per network."""
        table = self._table_source.frame
        return table if self._rows is None else table.iloc[self._rows.numpy()].reset_index(drop=True)

    @cached_property
    def spec_index(self) -> Tensor:
        """Per network, the number of its spec, ``[N]``."""
        number = self._weights.number
        return number if self._rows is None else number[self._rows]

    def split(self, name: str) -> Tensor:
        """Rows of a split, ascending.

        Raises:
            ZooError: the table has no split, or no such one.
        """
        if "split" not in self.table:
            raise ZooError("this zoo's table has no column 'split': make one with zoo.with_split(seed=0)")
        rows = np.flatnonzero(self.table["split"].to_numpy() == name)
        if len(rows) == 0:
            known = sorted(map(str, self.table["split"].unique()))
            raise ZooError(f"no network is in split {name!r}; this zoo has {known}")
        return torch.from_numpy(rows)

    def with_split(self, seed: int = 0, fractions: tuple[float, float, float] = (0.6, 0.15, 0.25)) -> Zoo:
        """The zoo with a fresh random column ``split`` (train, val, test) in memory; the folder stays as it is.

        Rows that belong together (:data:`graphnfn.zoo.splits.TOGETHER`), such as networks of one image or checkpoints
        of one training, come into the same split.

        Args:
            seed: of the shuffle.
            fractions: of train, val and test, of what is shuffled; they sum to 1.

        Raises:
            ZooError: the fractions do not sum to 1.
        """
        column = fresh_split(self.table, seed, fractions)
        zoo = Zoo(self._weights, self._table_source, self.about, self._rows)
        zoo.__dict__["table"] = self.table.assign(split=column)  # fills the cached property
        return zoo

    def labels(self, column: str, rows: ArrayLike | Tensor | slice | None = None) -> Tensor:
        """A numeric column: integers as int64, others in the default floating-point type.

        Raises:
            ZooError: there is no such column, it is not numeric, or it has missing values.
        """
        if column not in self.table:
            raise ZooError(f"the table has no column {column!r}; it has {list(self.table.columns)}")
        values = self.table[column]
        if not (pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values)):
            raise ZooError(f"column {column!r} holds {values.dtype}; expected numbers: encode it first")
        if rows is not None:
            picked = self._positions(rows)
            values = values.iloc[picked if isinstance(picked, slice) else picked.numpy()]
        count = int(values.isna().to_numpy().sum())
        if count:
            raise ZooError(f"column {column!r} has {count} missing values among these rows: choose others with subset")
        whole = not pd.api.types.is_float_dtype(values)
        out = torch.from_numpy(values.to_numpy(dtype=np.int64 if whole else np.float64, copy=True))
        return out if whole else out.to(torch.get_default_dtype())

    def batch(self, rows: ArrayLike | Tensor | slice) -> NeuralGraph:
        """Networks as one graph, in the order of ``rows``: views for consecutive rows, copies otherwise.

        Args:
            rows: a slice, row numbers, or a mask with one entry per network.

        Raises:
            ZooError: there is no row, or one is out of range.
        """
        return self._weights.graph(self._stored(rows))

    def subset(self, rows: ArrayLike | Tensor | slice) -> Zoo:
        """The zoo of some rows, in their order; nothing is copied.

        Raises:
            ZooError: there is no row, or one is out of range.
        """
        stored = self._stored(rows)
        stored = torch.arange(stored.start, stored.stop) if isinstance(stored, slice) else stored
        zoo = Zoo(self._weights, self._table_source, self.about, stored)
        if "table" in self.__dict__:  # keeps a split made in memory
            picked = self._positions(rows)
            picked = picked if isinstance(picked, slice) else picked.numpy()
            zoo.__dict__["table"] = self.table.iloc[picked].reset_index(drop=True)
        return zoo

    def with_networks(self, graph: NeuralGraph) -> Zoo:
        """The zoo with other networks beside its table, those of a graph in memory; the folder stays as it is.

        Args:
            graph: a network per row, such as what :meth:`graphnfn.models.GraphMetaNet.prepare` makes of ``batch(...)``.

        Raises:
            ZooError: it has more or fewer networks than the table has rows.
        """
        if graph.num_graphs != len(self):
            raise ZooError(f"got {graph.num_graphs} networks for a table of {len(self)} rows: give one each")
        zoo = Zoo(HeldWeights(graph), self._table_source, self.about)
        zoo.__dict__["table"] = self.table
        return zoo

    def validate(self) -> None:
        """Read every weight once.

        Raises:
            ZooError: weights are NaN or infinite; tells which networks.
        """
        bad = []
        for start in range(0, len(self), 1024):
            graph = self.batch(slice(start, start + 1024))
            for stack, places in zip(graph.stacks(), graph.members(), strict=True):
                finite = stack.nodes.flatten(1).isfinite().all(1)
                for block in stack.blocks:
                    finite &= block.flatten(1).isfinite().all(1)
                bad += (places[~finite] + start).tolist()
        if bad:
            raise ZooError(
                f"{len(bad)} networks have NaN or infinite weights: rows {sorted(bad)[:8]}; leave them out with subset"
            )

    def _positions(self, rows: ArrayLike | Tensor | slice) -> Rows:
        """Rows of this zoo, checked; consecutive ones as a slice."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            rows = np.arange(start, stop, step)
        index = (rows if isinstance(rows, Tensor) else torch.from_numpy(np.array(rows))).reshape(-1)
        if index.dtype == torch.bool and len(index) == len(self):
            index = index.nonzero().flatten()
        if len(index) == 0:
            raise ZooError("no network is chosen: give one row at least")
        if index.dtype.is_floating_point or index.dtype == torch.bool:
            raise ZooError(f"rows are {index.dtype} of length {len(index)}: give integers, or a mask of {len(self)}")
        index = index.long()
        least, most = (int(bound) for bound in index.aminmax())
        if least < 0 or most >= len(self):
            raise ZooError(f"rows {least} to {most} asked of a zoo of {len(self)} networks")
        return as_run(index) if most - least == len(index) - 1 else index

    def _stored(self, rows: ArrayLike | Tensor | slice) -> Rows:
        """Rows of the files."""
        picked = self._positions(rows)
        return picked if self._rows is None else as_run(self._rows[picked])


def _listed_specs(description: Mapping[str, Any], folder: Path) -> tuple[NetSpec, ...]:
    found = (description.get("format"), description.get("version"))
    if found != (FORMAT, VERSION):
        raise ZooError(f"{folder} has format {found[0]!r}, version {found[1]!r}; this reads {FORMAT!r}, {VERSION}")
    specs = description.get("specs")
    if not isinstance(specs, list) or not specs:
        raise ZooError(f"the spec.json of {folder} lists no specs: rebuild the zoo")
    try:
        return tuple(NetSpec.from_json(json.dumps(spec)) for spec in specs)
    except SpecError as error:
        raise ZooError(f"the spec.json of {folder} is damaged: {error}") from error
