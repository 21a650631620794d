"""Our models beside official codes on this machine: CPU time of the same training step, taken in turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.bench.subjects import SHAPES
from experiments.errors import ExperimentError
from experiments.peers.cases import CASES, Case

NETWORKS, SECONDS = 64, 8.0


@dataclass(frozen=True)
class Pair:
    """One comparison: CPU milliseconds of forward, loss, backward and AdamW, medians on one thread.

    Args:
        model: our name.
        preset: our settings.
        shape: title of the networks.
        networks: per step.
        clone: folder of the official code.
        commit: of the clone, empty where it is no git repository.
        ms: ours.
        official_ms: theirs.
        ratio: median over turns of ours / theirs.
        turns: steps of each.
        parameters: of ours.
        official_parameters: of theirs.
        extra: why the counts differ.
    """

    model: str
    preset: str
    shape: str
    networks: int
    clone: str
    commit: str
    ms: float
    official_ms: float
    ratio: float
    turns: int
    parameters: int
    official_parameters: int
    extra: str


def pairs(
    folder: Path,
    names: Sequence[str],
    report: Callable[[str], None],
    *,
    networks: int = NETWORKS,
    seconds: float = SECONDS,
) -> list[Pair]:
    """Time every official model whose clone is in a folder beside ours.

    Each comparison runs in a process of its own, in which our model and the official one take turns at steps.

    Args:
        folder: holds clones, named as in :data:`experiments.peers.cases.CASES`.
        names: of our models; all where empty.
        report: told about every comparison.
        networks: per step.
        seconds: of CPU time per comparison; three turns are taken in any case.

    Raises:
        ExperimentError: the folder holds none of the clones, or an official code does not run.
    """
    clones = sorted({c.clone for c in CASES})
    if not any((folder / name).is_dir() for name in clones):
        raise ExperimentError(f"{folder} holds none of the clones {', '.join(clones)}: clone some of them there")
    chosen = [c for c in CASES if (not names or c.baseline in names) and (folder / c.clone).is_dir()]
    found = []
    for case in chosen:
        pair = _pair(case, folder / case.clone, networks, seconds)
        report(f"{case.name}: {pair.ms:.0f} ms, {case.clone} {pair.official_ms:.0f} ms")
        found.append(pair)
    return found


def _pair(case: Case, clone: Path, networks: int, seconds: float) -> Pair:
    words = [sys.executable, "-m", "experiments.peers.worker", str(clone), case.name, str(networks), str(seconds)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **one}, check=False)
    if done.returncode:
        raise ExperimentError(f"{case.name}: {clone} does not run here: {done.stderr.strip()[-600:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    return Pair(
        model=case.baseline,
        preset=case.preset,
        shape=SHAPES[case.shape].title,
        networks=networks,
        clone=case.clone,
        commit=_commit(clone),
        ms=statistics.median(told["ours"]),
        official_ms=statistics.median(told["official"]),
        ratio=statistics.median(a / b for a, b in zip(told["ours"], told["official"], strict=True)),
        turns=len(told["ours"]),
        parameters=told["parameters"],
        official_parameters=told["official_parameters"],
        extra=case.extra,
    )


def _commit(clone: Path) -> str:
    """Of the clone itself, not of a repository around it."""
    if not (clone / ".git").exists():
        return ""
    words = ["git", "-C", str(clone), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
