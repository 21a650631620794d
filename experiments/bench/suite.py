"""All measurements of ``graphnfn bench``, one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments import provenance
from experiments.bench import compiling, curves, generation, large, loading, roofline, scaling
from experiments.bench.timing import one_thread
from experiments.errors import ExperimentError

PARTS: Mapping[str, Callable[[], Any]] = {
    "roofline": roofline.roofline,
    "layers": curves.layers,
    "models": curves.by_model,
    "batches": curves.by_batch,
    "widths": curves.by_width,
    "published": curves.against_published,
    "scaling": scaling.scaling,
    "loading": loading.loading,
    "compile": compiling.compiling,
    "zoo": generation.generation,
    "large": large.large,
}

BY_NAME = ("compile", "zoo")
"""Parts that run only where they are named."""


def bench(parts: Sequence[str] = (), say: Callable[[str], None] = lambda _: None) -> Iterator[dict[str, Any]]:
    """Measure part by part, so that what is there can be kept when a later part is cut short.

    Args:
        parts: some of :data:`PARTS`; where empty all but those that take minutes and have pages of their own,
            :data:`BY_NAME`.
        say: told what is measured.

    Yields:
        After each part, all parts so far as ``{"load": [before, after], "found": ...}``, and ``origin``: commit and
        machine. Load is the machine's average number of running processes over the last minute: other than about 1
        means that others ran as well.

    Raises:
        ExperimentError: an unknown part.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ExperimentError(f"unknown parts {', '.join(unknown)}; known: {', '.join(PARTS)}")
    one_thread()
    result: dict[str, Any] = {"origin": {"commit": provenance.commit(), **provenance.machine()}}
    for name in parts or [name for name in PARTS if name not in BY_NAME]:
        say(f"measuring {name}")
        before = os.getloadavg()[0]
        found = PARTS[name]()
        result = {**result, name: {"load": [before, os.getloadavg()[0]], "found": found}}
        yield result
