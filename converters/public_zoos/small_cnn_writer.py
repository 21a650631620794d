"""Write a zoo in the layout of the Small CNN Zoo, so that published codes run on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from converters.public_zoos.small_cnn import CONFIG, FINAL_STEP, cut
from graphnfn.errors import ZooError
from graphnfn.spec import Block, NetSpec
from graphnfn.zoo import Zoo
from graphnfn.zoo.files import fresh_folder

HYPER_PARAMETERS = (
    "activation", "b_init", "dataset", "dnn_architecture", "dropout", "epochs", "epochs_between_checkpoints",
    "init_std", "l2reg", "learning_rate", "num_layers", "num_units", "optimizer", "random_seed", "train_fraction",
    "w_init",
)  # fmt: skip
"""Columns that the published table calls ``config.NAME``."""
_KERAS_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}
ORDER = "split.csv"


@dataclass(frozen=True)
class SmallCNNZooWriter:
    """Writes ``weights.npy``, ``layout.csv``, ``metrics.csv.gz`` and ``split.csv``, the order that fixes the split.

    Args:
        resplit: seed of a fresh split of 40 % train, 10 % val and 50 % test, the only sizes that the published
            loaders can make; None keeps the zoo's split, which must have these sizes.

    Example:
        >>> SmallCNNZooWriter(resplit=0).resplit
        0
    """

    resplit: int | None = None

    def write(self, zoo: Zoo, folder: Path) -> str:
        """Write the whole zoo; returns what to tell the loaders.

        Raises:
            ZooError: the networks are no such CNNs of one shape, a column is missing, or the split has other sizes.
        """
        order = self._order(zoo)
        tensors = _pairs(zoo.specs)
        if "test_accuracy" not in zoo.table:
            raise ZooError(f"the table has no column 'test_accuracy', which this layout needs: {list(zoo.table)}")
        if "step" in zoo.table and set(zoo.table["step"]) != {FINAL_STEP}:
            raise ZooError(f"column 'step' must be {FINAL_STEP} throughout: the loaders read the last checkpoint only")
        matrix, layout = _flatten(zoo, tensors)
        with fresh_folder(folder) as new:
            np.save(new / "weights.npy", matrix)
            layout.to_csv(new / "layout.csv", index=False)
            packing = {"method": "gzip", "mtime": 0}
            _metrics(zoo).to_csv(new / "metrics.csv.gz", index=False, compression=packing)  # type: ignore[arg-type]
            np.savetxt(new / ORDER, order, fmt="%d")
        facts = {b.conv.stride[0] for spec in zoo.specs for b in spec.blocks if b.conv is not None}
        stride = f"; convolutions have stride {facts.pop()}: import with stride=" if facts - {2} else ""
        return f"data_path={folder} split file={folder / ORDER}{stride}"

    def _order(self, zoo: Zoo) -> np.ndarray:
        """Row numbers such that the published cut gives every network its split."""
        if self.resplit is not None:
            return np.random.default_rng(self.resplit).permutation(len(zoo))
        if "split" not in zoo.table:
            raise ZooError("the zoo has no column 'split': give resplit=0 to draw one")
        places = dict(zip(("train", "val", "test"), cut(len(zoo)), strict=True))
        wanted = {name: len(part) for name, part in places.items()}
        found = dict(Counter(zoo.table["split"]))
        if found != {name: n for name, n in wanted.items() if n}:
            raise ZooError(
                f"the split has {found} networks; this layout's loaders cut {wanted}: give resplit=0 to draw a new one"
            )
        order = np.zeros(len(zoo), dtype=np.int64)
        for name, part in places.items():
            order[part] = np.flatnonzero(zoo.table["split"] == name)
        return order


def _pairs(specs: tuple[NetSpec, ...]) -> list[tuple[Block, str]]:
    """Blocks in order, each with the name of its bias; all specs must agree."""
    shapes = {tuple((b.shape, b.kind) for b in spec.blocks) for spec in specs}
    first = specs[0]
    biases = {p.group: p.param for p in first.node_params if p.field == "bias"}
    chained = [b.dst for b in first.blocks[:-1]] == [b.src for b in first.blocks[1:]]
    plain = all(spec.params == first.params and spec.num_fields == 1 for spec in specs) and len(shapes) == 1
    ranks = "".join(str(len(b.shape)) for b in first.blocks)
    dense = ranks.lstrip("4")
    known = chained and plain and set(dense) == {"2"} and ranks[0] == "4" and len(biases) == len(first.blocks)
    if not known or any(len(b.view) != len(b.shape) for b in first.blocks):
        raise ZooError(
            "this layout holds CNNs of one shape, with biases: convolutions in two dimensions, global average pooling, "
            "dense layers; export other networks in another layout"
        )
    return [(b, biases[b.dst]) for b in first.blocks]


def _flatten(zoo: Zoo, pairs: list[tuple[Block, str]]) -> tuple[np.ndarray, pd.DataFrame]:
    """The matrix ``[networks, parameters]`` and where in it every variable lies."""
    matrix, lines = np.zeros((len(zoo), zoo.specs[0].num_params), dtype=np.float32), []
    graph = zoo.batch(slice(None))
    parts = [(stack.unpack(), places.numpy()) for stack, places in zip(graph.stacks(), graph.members(), strict=True)]
    start, seen = 0, Counter()
    for block, bias in pairs:
        kind = "conv2d" if len(block.shape) == 4 else "dense"
        layer = f"sequential/{kind}_{seen[kind]}" if seen[kind] else f"sequential/{kind}"
        seen[kind] += 1
        for name, variable in ((bias, "bias:0"), (block.param, "kernel:0")):
            for tensors, places in parts:
                values = tensors[name].numpy()
                if values.dtype != np.float32:
                    raise ZooError(f"{name!r} has type {values.dtype}; this layout holds float32")
                axes = _KERAS_AXES.get(values.ndim - 1, (0,))
                values = values.transpose(0, *(a + 1 for a in axes))
                shape = values.shape[1:]
                size = int(np.prod(shape))
                matrix[places, start : start + size] = values.reshape(len(values), size)
            lines.append((f"{layer}/{variable}", start, start + size, size, str(tuple(int(n) for n in shape))))
            start += size
    return matrix, pd.DataFrame(lines, columns=["varname", "start_idx", "end_idx", "size", "shape"])


def _metrics(zoo: Zoo) -> pd.DataFrame:
    names = [next(str(g.activations[0]) for g in spec.groups if g.role == "hidden") for spec in zoo.specs]
    activation = [names[s] for s in zoo.spec_index.tolist()]
    table = zoo.table.drop(columns=["spec", "split", "row"], errors="ignore").assign(activation=activation)
    table = table.rename(columns={name: f"{CONFIG}{name}" for name in HYPER_PARAMETERS})
    return table if "step" in table else table.assign(step=FINAL_STEP)
