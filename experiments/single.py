"""Training one model, with checkpoints to go on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import RichProgressBar
from omegaconf import DictConfig

from experiments.cell import evaluate, train
from experiments.config import plain
from experiments.data import open_zoo
from experiments.errors import ExperimentError
from experiments.provenance import commit
from experiments.results import write_text
from experiments.training import LAST

METRICS, CONFIG = "metrics.json", "config.json"


def train_one(config: DictConfig, folder: Path, *, resume: bool, progress: bool) -> dict[str, Any]:
    """Train the model of a configuration and measure it on the test networks.

    Args:
        config: see ``experiments/conf``.
        folder: gets ``best.ckpt``, ``last.ckpt``, ``config.json`` and ``metrics.json``.
        resume: go on from ``last.ckpt``.
        progress: show a progress bar.

    Raises:
        ExperimentError: the folder holds another run, or nothing to resume.
    """
    content = plain(config)
    open_zoo(config.zoo).validate()
    if resume:
        _check_same(folder, content)
    elif (folder / LAST).exists():
        raise ExperimentError(f"{folder} holds a run already: give --resume to go on with it, or another --output")
    else:
        write_text(folder / CONFIG, json.dumps(content, indent=1) + "\n")
    callbacks = (RichProgressBar(),) if progress else ()
    zoo, task, model, fitted = train(config, folder, resume=resume, callbacks=callbacks, progress=progress)
    measured, _ = evaluate(model, task, zoo, list(config.decades), config.repeats)
    row = {"model": config.model.name, "seed": config.seed, "best_epoch": fitted.best_epoch, "val": fitted.best_score}
    row = {**row, **measured, "commit": commit()}
    write_text(folder / METRICS, json.dumps(row, indent=1) + "\n")
    return row


def _check_same(folder: Path, content: dict[str, Any]) -> None:
    path = folder / CONFIG
    if not path.is_file() or not (folder / LAST).is_file():
        raise ExperimentError(f"{folder} holds no {LAST} to resume: run without --resume first")
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in content if content[key] != before.get(key) and key not in ("compare", "search")]
    if changed:
        raise ExperimentError(f"{folder} was begun with another {', '.join(changed)}: give the same overrides again")
