"""Chunks of a zoo on the workers of a Ray cluster, or of this machine."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.errors import ExperimentError
from experiments.zoos.engines import Chunk, Make, on_one_thread


@dataclass(frozen=True)
class RayEngine:
    """Every chunk is a Ray task on one core; this process writes the results.

    Connects to the cluster of ``RAY_ADDRESS``, which must run this version of graphnfn on equal processors where zoos
    are to be equal to the bit, or starts Ray on this machine and stops it in the end.

    Args:
        workers: cores, where Ray is started here; None takes all.
        retries: how often a chunk is made again when its worker dies.

    Raises:
        ExperimentError: Ray is missing, or the workers of one chunk died too often.
    """

    workers: int | None = None
    retries: int = 3

    def each(self, make: Make, ranges: Sequence[range]) -> Iterator[tuple[range, Chunk]]:
        """Every range with its chunk; two tasks per core are under way at most, so that results do not pile up."""
        ray = _ray()
        if not ranges:
            return
        started = not ray.is_initialized()
        if started:
            ray.init(num_cpus=self.workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            yield from self._each(ray, make, ranges)
        finally:
            if started:
                ray.shutdown()

    def _each(self, ray: Any, make: Make, ranges: Sequence[range]) -> Iterator[tuple[range, Chunk]]:
        task = ray.remote(num_cpus=1, max_retries=self.retries)(on_one_thread)
        shared, left = ray.put(make), iter(ranges)
        most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        running: dict[Any, range] = {}
        while True:
            while len(running) < most and (numbers := next(left, None)) is not None:
                running[task.remote(shared, numbers)] = numbers
            if not running:
                return
            (done,), _ = ray.wait(list(running))
            numbers = running.pop(done)
            try:
                yield numbers, ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error  # what making the networks raised, as on threads
            except ray.exceptions.WorkerCrashedError as error:
                raise ExperimentError(
                    f"the workers of networks {numbers.start} to {numbers.stop - 1} died {self.retries + 1} times: "
                    "give them more memory or a smaller chunk, then call again; finished chunks are kept"
                ) from error


def _ray() -> Any:
    try:
        return importlib.import_module("ray")  # not an import statement: the package is optional
    except ImportError as error:
        raise ExperimentError("the engine 'ray' needs the package ray: pip install 'graphnfn[ray]'") from error
