"""The next batch is read while a step runs on the last one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch.utils.data import DataLoader


class Prefetched:
    """The batches of a loader, in its order, each read in a thread while the one before is worked on.

    A thread lives from the first batch of an iteration to its end, or until it is closed or dropped: between
    iterations there is none, so that a process can be forked. What goes wrong in it is raised where its batch is asked
    for. PyTorch's loader reads ahead in processes only, which costs more than to read a memory-mapped batch.

    Args:
        loader: without worker processes. What it draws from PyTorch's global random numbers it must draw in
            ``iter()``, as it does where it has its own order: the thread runs beside a model that draws from them, too.

    Example:
        >>> list(Prefetched(DataLoader([1, 2, 3], batch_size=2)))
        [tensor([1, 2]), tensor([3])]
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.batch_sampler = loader.batch_sampler  # where Lightning tells the epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return _ahead(iter(self.loader))


def _ahead(batches: Iterator[Any]) -> Iterator[Any]:
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as reader:
        coming = reader.submit(next, batches, end)
        while (batch := coming.result()) is not end:
            coming = reader.submit(next, batches, end)
            yield batch
