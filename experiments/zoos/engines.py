"""Where the chunks of a zoo are made: here on threads, or wherever an engine takes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import pandas as pd
import torch

from graphnfn.stack import Stack

_MOST_WORKERS = 4


@dataclass(frozen=True)
class Chunk:
    """Some networks of a zoo: one stack per spec, and a table with a column ``spec``."""

    stacks: Sequence[Stack]
    table: pd.DataFrame


Make = Callable[[range], Chunk]
"""Makes networks by their numbers; what it makes depends on the numbers only."""


class Engine(Protocol):
    """Makes chunks, in any order."""

    def each(self, make: Make, ranges: Sequence[range]) -> Iterator[tuple[range, Chunk]]:
        """Every range with its chunk, as soon as it is made."""
        ...


@dataclass(frozen=True)
class ThreadEngine:
    """Chunks side by side in this process, each on one thread.

    That beats one chunk on all threads (no waiting inside an operation), and rounding then does not depend on the
    number of cores.

    Args:
        workers: chunks at once; None takes one per core, four at most, as Python's lock makes more useless.

    Example:
        >>> empty = Chunk([], pd.DataFrame())
        >>> [numbers for numbers, _ in ThreadEngine(1).each(lambda _: empty, [range(2), range(2, 3)])]
        [range(0, 2), range(2, 3)]
    """

    workers: int | None = None

    def each(self, make: Make, ranges: Sequence[range]) -> Iterator[tuple[range, Chunk]]:
        """Every range with its chunk; one more is under way than there are workers."""
        workers = self.workers or min(_MOST_WORKERS, os.cpu_count() or 1)
        threads, left = torch.get_num_threads(), iter(ranges)
        pool = ThreadPoolExecutor(workers)
        running: dict[Future[Chunk], range] = {}
        error: BaseException | None = None
        try:
            while True:  # after an error what is under way is still kept, and nothing new begins
                while error is None and len(running) <= workers and (numbers := next(left, None)) is not None:
                    running[pool.submit(on_one_thread, make, numbers)] = numbers
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    numbers, failed = running.pop(future), future.exception()
                    if failed is None:
                        yield numbers, future.result()
                    error = error or failed
            if error is not None:
                raise error
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)


def on_one_thread(make: Make, numbers: range) -> Chunk:
    """Make a chunk with operations that use one thread each."""
    torch.set_num_threads(1)
    return make(numbers)


_ENGINE: ContextVar[Engine] = ContextVar("engine")


def current() -> Engine:
    """The engine of this context: what :func:`using` says, or threads."""
    return _ENGINE.get(ThreadEngine())


@contextmanager
def using(engine: Engine) -> Iterator[None]:
    """Zoos that are built inside take this engine; none of their networks differs.

    Example:
        >>> with using(ThreadEngine(1)):
        ...     current()
        ThreadEngine(workers=1)
        >>> current()
        ThreadEngine(workers=None)
    """
    token = _ENGINE.set(engine)
    try:
        yield
    finally:
        _ENGINE.reset(token)
