"""From a zoo on disk to batches of neuron graphs with labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.errors import ExperimentError
from experiments.tasks import Task
from graphnfn.graph import NeuralGraph
from graphnfn.zoo import Zoo

Batch = tuple[NeuralGraph, Tensor]


def open_zoo(config: DictConfig) -> Zoo:
    """The zoo that a configuration names, with a split, reduced to the networks that it asks for.

    Args:
        config: the node ``zoo``: ``folder``; ``where``, column of the table -> value; ``split_seed``, None for the
            table's own split or the seed of a fresh one with ``fractions`` for train, val and test.

    Raises:
        ZooError: the folder is no zoo, or has no split.
        ExperimentError: no network has these values.
    """
    zoo = Zoo.open(config.folder)
    if config.split_seed is not None:
        zoo = zoo.with_split(config.split_seed, tuple(config.fractions))
    elif "split" not in zoo.table:
        raise ExperimentError(
            f"the table of {config.folder} has no column 'split': give zoo.split_seed=0 for a fresh one"
        )
    where, folder = config.where, config.folder
    chosen = np.ones(len(zoo), dtype=bool)
    for column, value in where.items():
        if column not in zoo.table:
            raise ExperimentError(f"zoo.where names column {column!r}; the table has {list(zoo.table.columns)}")
        chosen &= zoo.table[column].to_numpy() == value
    if not chosen.any():
        raise ExperimentError(f"no network of {folder} has {dict(where)}: loosen zoo.where")
    if config.most_train is not None:
        if config.most_train < 1:
            raise ExperimentError(f"got zoo.most_train={config.most_train}; expected 1 or more, or null for all")
        train = np.flatnonzero(chosen & (zoo.table["split"].to_numpy() == "train"))
        chosen[train[config.most_train :]] = False
    return zoo if chosen.all() else zoo.subset(torch.from_numpy(chosen))


def for_learning(zoo: Zoo) -> Zoo:
    """The zoo without its test networks: what a search may see."""
    return zoo.subset(torch.from_numpy(zoo.table["split"].to_numpy() != "test"))


def loader(zoo: Zoo, rows: Tensor, task: Task, *, batch_size: int, shuffle: bool) -> DataLoader[Batch]:
    """Batches of some rows of a zoo with what a task wants to know of them."""
    labels = task.labels(zoo, rows)

    def collate(places: list[int]) -> Batch:
        return zoo.batch(rows[places]), labels[places]

    indices: Any = range(len(rows))
    return DataLoader(indices, batch_size=batch_size, shuffle=shuffle, collate_fn=collate)


@torch.no_grad()
def predict(
    model: Callable[[NeuralGraph], Tensor],
    zoo: Zoo,
    rows: Tensor,
    *,
    change: Callable[[NeuralGraph, int], NeuralGraph] = lambda graph, _: graph,
    batch_size: int = 64,
) -> Tensor:
    """Outputs of a model for some networks, in the order of ``rows``.

    Args:
        model: in evaluation mode.
        zoo: where the networks are.
        rows: which ones.
        change: what happens to a batch before the model sees it; the number counts the batches.
        batch_size: networks at once.
    """
    return torch.cat([model(change(zoo.batch(part), i)) for i, part in enumerate(rows.split(batch_size))])
