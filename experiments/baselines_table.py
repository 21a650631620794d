"""All that is known of every model by measurement: parity, symmetry, blind spots, cost; as data for the docs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from experiments import adapters, provenance
from experiments.blindness import Sight, sights
from experiments.claims import KINDS, symmetry_error
from experiments.disturbances import DISTURBANCES
from experiments.golden import Parity, parities
from experiments.peers.times import pairs
from experiments.step_time import step_times
from experiments.subjects import Subject, adapter_subjects, editors, subjects

Report = Callable[[str], None]
"""Takes one line of progress."""


def survey(
    names: Sequence[str],
    golden: Path | None,
    report: Report,
    *,
    peers: Path | None = None,
    seconds: float = 4.0,
    networks: int = 64,
) -> dict[str, Any]:
    """Measure models one after the other, on one thread.

    Args:
        names: of models; all, and the editors, where empty.
        golden: folder of golden files, or None.
        report: told about every finished model.
        peers: folder of clones of official codes, timed beside ours (:mod:`experiments.peers`), or None.
        seconds: for timing each model on each shape.
        networks: per timed step.

    Returns:
        ``models``, ``adapters``, ``peers``, ``editors``, ``golden``, ``disturbances``, ``changes``, ``about``: what
        :mod:`experiments.baselines_page` shows.

    Raises:
        ExperimentError: an unknown name, or a folder without golden files.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        chosen, of_adapters = subjects(names), adapter_subjects(names)
        agreement = None if golden is None else parities(golden)
        load, commit = os.getloadavg(), provenance.commit()
        models = []
        for subject in chosen:
            models.append(_model(subject, agreement, seconds, networks))
            report(f"[{len(models)}/{len(chosen) + len(of_adapters)}] {subject.name}")
        rows = []
        for subject in of_adapters:
            rows.append(_of_adapters(subject, seconds, networks))
            report(f"[{len(models) + len(rows)}/{len(chosen) + len(of_adapters)}] {subject.name}")
        beside = [] if peers is None else pairs(peers, names, report, networks=networks, seconds=2 * seconds)
        return {
            "models": models,
            "adapters": rows,
            "peers": [asdict(p) for p in beside],
            "editors": [] if names else [_described(s, agreement) for s in editors()],
            "golden": None if agreement is None else [asdict(p) for p in agreement],
            "disturbances": [d.name for d in DISTURBANCES],
            "changes": list(adapters.CHANGES),
            "about": {
                "commit": commit, "machine": provenance.machine(), "networks": networks,
                "load": [load, os.getloadavg()],
            },
        }  # fmt: skip
    finally:
        torch.set_num_threads(threads)


ROWS: Mapping[str, tuple[str, ...]] = {
    "models": ("name",), "adapters": ("name",), "editors": ("name",), "peers": ("model", "preset", "shape"),
}  # fmt: skip
"""The tables of a survey, and what names a row."""


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A new survey of some models, with the rows of an earlier one for all others.

    ``about.kept`` says from which commits rows were kept, and which; ``about.machines`` on which machines. Golden files
    are those of the new survey where it compared some; the order of rows is that of the earlier survey, new ones last.

    Example:
        >>> one = {"models": [{"name": "a"}, {"name": "b", "x": 1}], "golden": None, "about": {"commit": "1"}}
        >>> two = {"models": [{"name": "b", "x": 2}], "golden": None, "about": {"commit": "2"}}
        >>> found = merged(one, two)
        >>> found["models"], found["about"]["kept"]
        ([{'name': 'a'}, {'name': 'b', 'x': 2}], {'1': ['a']})
    """
    earlier = old["about"].get("kept", {})
    commits = {name: commit for commit, names in earlier.items() for name in names}
    kept: dict[str, list[str]] = {}
    out = dict(new)
    for table, keys in ROWS.items():
        before, after = ({tuple(r[k] for k in keys): r for r in d.get(table, [])} for d in (old, new))
        out[table] = [after.get(key, row) for key, row in before.items()]
        out[table] += [row for key, row in after.items() if key not in before]
        for key in before.keys() - after.keys():
            name = key[0] if table == "models" else f"{key[0]} ({table})"
            kept.setdefault(commits.get(name, old["about"]["commit"]), []).append(name)
    out["golden"] = old["golden"] if new["golden"] is None else new["golden"]
    machines = {old["about"]["commit"]: old["about"].get("machine", {})} | old["about"].get("machines", {})
    out["about"] = new["about"] | {
        "kept": {commit: sorted(set(names)) for commit, names in sorted(kept.items())},
        "machines": {commit: machines.get(commit, {}) for commit in sorted(kept)},
    }
    return out


def _model(subject: Subject, agreement: Sequence[Parity] | None, seconds: float, networks: int) -> dict[str, Any]:
    seen = sights(subject.probe)
    return _described(subject, agreement) | {
        "sight": {name: asdict(sight) | {"word": sight.word} for name, sight in seen.items()},
        "blind": _named(seen, "blind"),
        "step_times": [asdict(t) for t in step_times(subject, networks=networks, seconds=seconds)],
    }


def _of_adapters(subject: Subject, seconds: float, networks: int) -> dict[str, Any]:
    seen = adapters.sights(subject)
    return {
        "name": subject.name,
        "paper": subject.paper,
        "claimed": sorted(subject.claimed),
        "presets": sorted(subject.presets),
        "symmetry": {kind: adapters.symmetry_error(subject, kind) for kind in adapters.KINDS},
        "sight": {name: asdict(sight) | {"word": sight.word} for name, sight in seen.items()},
        "blind": _named(seen, "blind"),
        "step_times": [asdict(adapters.step_time(subject, networks=networks, seconds=seconds))],
    }


def _described(subject: Subject, agreement: Sequence[Parity] | None) -> dict[str, Any]:
    errors = [p.error for p in agreement or () if p.package == subject.package and p.exact and p.error is not None]
    return {
        "name": subject.name,
        "paper": subject.paper,
        "claimed": [k for k in KINDS if k in subject.claimed],
        "presets": sorted(subject.presets),
        "probed": {k: str(v) for k, v in subject.probed.items()},
        "parity": {"files": len(errors), "error": max(errors)} if errors else None,
        "symmetry": {kind: symmetry_error(lambda spec: subject.probe([spec]), kind) for kind in KINDS},
    }


def _named(seen: dict[str, Sight], word: str) -> list[str]:
    return [name for name, sight in seen.items() if sight.word == word]
