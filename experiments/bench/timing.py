"""Times and memory of several steps side by side: interleaved in one process, medians with quartiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Step = Callable[[], object]

YARDSTICK = "four batched products of 64 pairs of 96 x 96 matrices, tanh of a million numbers and 100 small sums"
"""Work that is the same in every round of every part, and shows how fast the machine was meanwhile."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of one quantity; all three are equal where there is one value."""

    low: float
    middle: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """The spread of some values.

        Example:
            >>> Spread.of([1.0, 2.0, 3.0]).middle
            2.0
        """
        return Spread(*(statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3))


@dataclass(frozen=True)
class Times:
    """Milliseconds of one step, round by round."""

    cpu: tuple[float, ...]
    wall: tuple[float, ...]

    def ratio(self, other: Times) -> tuple[Spread, Spread]:
        """CPU and wall time relative to another step's in the same rounds."""
        pairs = ((self.cpu, other.cpu), (self.wall, other.wall))
        cpu, wall = (Spread.of([a / b for a, b in zip(mine, theirs, strict=True)]) for mine, theirs in pairs)
        return cpu, wall


class Pace:
    """How long the yardstick took, time after time; wall milliseconds."""

    def __init__(self) -> None:
        self._matrices, self._few = torch.full((64, 96, 96), 0.1), torch.ones(8)  # no random numbers on import
        self._numbers = torch.linspace(-2, 2, 1 << 20)
        self.noted: list[float] = []

    def note(self) -> None:
        """Run the yardstick once."""
        start = time.perf_counter()
        for _ in range(4):
            torch.bmm(self._matrices, self._matrices)
        torch.tanh(self._numbers)
        for _ in range(100):
            torch.add(self._few, 1)
        self.noted.append(1e3 * (time.perf_counter() - start))

    def take(self) -> Spread:
        """The spread of what was noted since the last time."""
        found, self.noted = Spread.of(self.noted), []
        return found


PACE = Pace()
"""Of this process; :func:`interleaved` notes it once a round."""


def interleaved(steps: Mapping[str, Step], *, rounds: int, seconds: float = 60.0) -> dict[str, Times]:
    """Run every step once a round, so that whatever slows the machine down slows all of them; notes the pace.

    Args:
        steps: by name; each is called once before the clock starts.
        rounds: how many at most.
        seconds: no further round starts after so many; one always runs.

    Example:
        >>> sorted(interleaved({"a": lambda: sum(range(10)), "b": lambda: None}, rounds=2))
        ['a', 'b']
    """
    for step in steps.values():
        step()
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    wall: dict[str, list[float]] = {name: [] for name in steps}
    begin = time.perf_counter()
    for done in range(rounds):
        if done and time.perf_counter() - begin > seconds:
            break
        PACE.note()
        for name, step in steps.items():
            start = time.process_time(), time.perf_counter()
            step()
            cpu[name].append(1e3 * (time.process_time() - start[0]))
            wall[name].append(1e3 * (time.perf_counter() - start[1]))
    return {name: Times(tuple(cpu[name]), tuple(wall[name])) for name in steps}


def peak_bytes(step: Step) -> int:
    """The most memory that tensors made in a step take at one time.

    Allocations and releases of torch's CPU allocator are added up in the order of time, temporaries inside
    operators included; what was there before the step does not count.

    Example:
        >>> 8000 <= peak_bytes(lambda: torch.ones(1000) + 1) < 9000
        True
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    results: Any = found.profiler and found.profiler.kineto_results
    assert results is not None
    events = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    held = most = 0
    for _, size in events:
        held += size
        most = max(most, held)
    return most


def one_thread() -> None:
    """All figures are for one thread."""
    torch.set_num_threads(1)
