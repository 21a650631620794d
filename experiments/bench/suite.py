"""All measurements of ``graphnfn bench``, one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments import provenance
from experiments.bench import compiling, curves, generation, large, loading, mixed, roofline, scaling
from experiments.bench.timing import PACE, Spread, one_thread
from experiments.errors import ExperimentError

PARTS: Mapping[str, Callable[[], Any]] = {
    "roofline": roofline.roofline,
    "layers": curves.layers,
    "models": curves.by_model,
    "batches": curves.by_batch,
    "widths": curves.by_width,
    "mixed": mixed.mixed,
    "published": curves.against_published,
    "scaling": scaling.scaling,
    "loading": loading.loading,
    "compile": compiling.compiling,
    "zoo": generation.generation,
    "large": large.large,
}

BY_NAME = ("compile", "mixed", "zoo")
"""Parts that run only where they are named."""


DISTURBED = 1.5
"""A part is measured again where the yardstick took so many times as long as in the calmest; caches filled by large
steps make for up to 1.3."""


def bench(
    parts: Sequence[str] = (), say: Callable[[str], None] = lambda _: None, *, tries: int = 3
) -> Iterator[dict[str, Any]]:
    """Measure part by part, so that what is there can be kept when a later part is cut short.

    Args:
        parts: some of :data:`PARTS`; where empty all but those that take minutes and have pages of their own,
            :data:`BY_NAME`.
        say: told what is measured.
        tries: times that a part is measured at most, while others slow the machine down; the calmest try counts, which
            the yardstick tells and not what was found.

    Yields:
        After each part, all parts so far as ``{"load": [before, after], "pace_ms": {low, middle, high}, "tries": n,
        "found": ...}``, and ``origin``: commit and machine. Load is the machine's average number of running processes
        over the last minute: other than about 1 means that others ran as well. Pace is what
        :data:`~experiments.bench.timing.YARDSTICK` took between rounds: what others do to the machine shows there even
        where they run outside of it.

    Raises:
        ExperimentError: an unknown part, or no try.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ExperimentError(f"unknown parts {', '.join(unknown)}; known: {', '.join(PARTS)}")
    if tries < 1:
        raise ExperimentError(f"got {tries} tries; expected 1 or more")
    one_thread()
    result: dict[str, Any] = {"origin": {"commit": provenance.commit(), **provenance.machine()}}
    best = _pace().middle
    for name in parts or [name for name in PARTS if name not in BY_NAME]:
        say(f"measuring {name}")
        calmest: dict[str, Any] | None = None
        for done in range(1, tries + 1):
            found, pace = _measured(name)
            best = min(best, pace.middle)
            if calmest is None or pace.middle < calmest["pace_ms"]["middle"]:
                calmest = {**found, "pace_ms": vars(pace)}
            calmest["tries"] = done
            if calmest["pace_ms"]["middle"] <= DISTURBED * best:
                break
            if done < tries:
                say(f"measuring {name} again: a yardstick took {pace.middle:.1f} ms, at best {best:.1f} ms")
        result = {**result, name: calmest}
        yield result


def _measured(name: str) -> tuple[dict[str, Any], Spread]:
    _note()
    before = os.getloadavg()[0]
    found = PARTS[name]()
    load = [before, os.getloadavg()[0]]
    _note()
    return {"load": load, "found": found}, PACE.take()


def _pace() -> Spread:
    _note()
    return PACE.take()


def _note() -> None:
    for _ in range(10):
        PACE.note()
