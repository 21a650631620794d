"""Who trains on what: the order of an epoch, and the part of every batch that one process takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from experiments.data import Batch
from experiments.tasks import Task
from graphnfn.zoo import Zoo


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed that depends on all three, so that an epoch is the same whether or not training was resumed before it."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


class EpochOrder(Sampler[int]):
    """The numbers ``0 .. size - 1`` in an order that depends on the seed and the epoch only.

    Example:
        >>> order = EpochOrder(5, seed=0)
        >>> sorted(order) == list(range(5)), list(order) == list(order)
        (True, True)
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed, self._epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it before every epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, self._epoch))
        return iter(torch.randperm(self._size, generator=generator).tolist())


class Shares(Sampler[list[int]]):
    """The share of process ``rank`` in every batch: entries rank, rank + world, ...

    The weight of a share makes the mean over processes of its mean losses the mean loss of the batch:
    (1 / world) sum_r weight_r mean_r = mean, with weight_r = world size_r / size. Where a batch is smaller than
    ``world``, a process without a share gets one entry of weight 0, as all must take part in every step.

    Args:
        sampler: gives the order.
        batch_size: of all processes together.
        rank: of this process.
        world: number of processes.

    Example:
        >>> [list(Shares(EpochOrder(5, seed=0), 4, rank=r, world=2))[1] for r in (0, 1)]
        [[2], [2]]
        >>> [Shares(EpochOrder(5, seed=0), 4, rank=r, world=2).weight(1) for r in (0, 1)]
        [2.0, 0.0]
    """

    def __init__(self, sampler: EpochOrder, batch_size: int, *, rank: int, world: int) -> None:
        self.sampler, self._batch_size, self._rank, self._world = sampler, batch_size, rank, world

    def __len__(self) -> int:
        return -(-len(self.sampler) // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.sampler)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            yield batch[self._rank :: self._world] or batch[:1]

    def weight(self, number: int) -> float:
        """Factor on the mean loss of this process in a batch."""
        size = min(self._batch_size, len(self.sampler) - number * self._batch_size)
        return self._world * len(range(self._rank, size, self._world)) / size


@dataclass(frozen=True)
class Pick:
    """Networks by their place among ``rows``, with their labels."""

    zoo: Zoo
    rows: Tensor
    labels: Tensor

    def __call__(self, places: list[int]) -> Batch:
        return self.zoo.batch(self.rows[places]), self.labels[places]


def share_loader(zoo: Zoo, rows: Tensor, task: Task, shares: Shares) -> DataLoader[Batch]:
    """Batches of some rows of a zoo, as far as one process takes them; leaves the global random numbers alone."""
    pick, own = Pick(zoo, rows, task.labels(zoo, rows)), torch.Generator()
    return DataLoader(range(len(rows)), batch_sampler=shares, collate_fn=pick, generator=own)  # type: ignore[arg-type]
