"""One cell of a comparison: train one model on one zoo with one seed, and measure it."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.budget import History, within_budget
from experiments.config import make
from experiments.data import for_learning, open_zoo, predict
from experiments.editing import Edited, EditTask
from experiments.ensemble import members_of, with_members
from experiments.errors import ExperimentError
from experiments.metrics import finite
from experiments.models import count_parameters, prepared, take_statistics
from experiments.tasks import Task
from experiments.training import Fitted, begun_with, fit
from graphnfn.graph import NeuralGraph
from graphnfn.testing import random_transform
from graphnfn.zoo import Zoo

CHUNK = 64
"""Networks per batch in evaluation; also the unit in which random group elements are drawn."""

MOST_FOR_STATISTICS = 4096
"""Networks that statistics taken once before the training come from."""


@dataclass(frozen=True)
class Cell:
    """What a cell found: one row of the results table, and the predictions behind it."""

    row: dict[str, Any]
    predictions: pd.DataFrame


def prepare(config: DictConfig, zoo: Zoo | None = None) -> tuple[Zoo, Task, nn.Module]:
    """Zoo, task and fresh model of a configuration; seeds everything.

    Raises:
        GraphNFNError: a part of the configuration does not fit the zoo.
    """
    lightning.seed_everything(config.seed, verbose=False)
    zoo = open_zoo(config.zoo) if zoo is None else zoo
    task = prepare_task(config, zoo)
    return zoo, task, build_model(config, task, zoo)


def prepare_task(config: DictConfig, zoo: Zoo) -> Task:
    """The task of a configuration, with what it has to know of a zoo and its training networks."""
    task = make(config.task).on(zoo)
    return task.prepare(task.labels(zoo, zoo.split("train")))


def build_model(config: DictConfig, task: Task, zoo: Zoo) -> nn.Module:
    """A fresh model whose outputs are those that the task expects.

    Raises:
        ExperimentError: a model that predicts numbers for a task that edits networks, or the reverse.
    """
    if config.model.get("edits", False) != isinstance(task, EditTask):
        wanted = "edit networks: give model=edit/NAME" if isinstance(task, EditTask) else "predict numbers"
        raise ExperimentError(f"model={config.model.name} does not fit task {task.column!r}: expected one to {wanted}")
    if not isinstance(task, EditTask):
        return make(config.model.build, out=task.out, specs=zoo.specs)
    return Edited(lambda: make(config.model.build, specs=zoo.specs), task.grid, outputs=config.model.outputs)


def train(
    config: DictConfig, folder: Path, zoo: Zoo | None = None, **options: Any
) -> tuple[Zoo, Task, nn.Module, Fitted]:
    """Train the model of a configuration.

    Args:
        config: see ``experiments/conf``.
        folder: for checkpoints.
        zoo: None opens that of the configuration.
        options: ``resume``, ``callbacks`` and ``progress`` of :func:`experiments.training.fit`.
    """
    zoo, task, first = prepare(config, zoo)
    if config.trainer.members > 1 and isinstance(task, EditTask):
        raise ExperimentError(
            f"got trainer.members={config.trainer.members} for task {task.column!r}; expected 1: only numbers are "
            "averaged so, model.outputs averages edited functions"
        )
    resumed = begun_with(folder) if options.get("resume") else None
    start = time.process_time()
    first = _with_parameters(first, zoo)
    ready = prepared(first, for_learning(zoo))
    spent = time.process_time() - start
    recipe = resumed or within_budget(make(config.trainer), first, task, ready, spent=spent)
    model = with_members(first, lambda: _with_parameters(build_model(config, task, zoo), zoo), recipe.members)
    return zoo, task, model, fit(model, task, ready, recipe, folder, **options)


def _with_parameters(model: nn.Module, zoo: Zoo) -> nn.Module:
    """A fresh model, after making what it makes from the first networks that it meets."""
    count_parameters(model, zoo.batch(zoo.split("train")[:2]))
    take_statistics(model, lambda: zoo.batch(zoo.split("train")[:MOST_FOR_STATISTICS]))
    return model


def run(config: DictConfig, folder: Path) -> Cell:
    """Train and measure; ``folder`` holds checkpoints meanwhile and is removed in the end."""
    wall, cpu = time.perf_counter(), time.process_time()
    history = History()
    zoo, task, model, fitted = train(config, folder, callbacks=(history,))
    spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    row = {
        "model": config.model.name, "ours": config.model.ours, "reads": config.model.reads,
        "ablates": config.model.get("ablates"),
        "zoo": config.zoo.name, "task": task.column,
        "seed": config.seed, "setting": config.setting, "measure": task.measures[0], "best_epoch": fitted.best_epoch,
        "epochs": fitted.epochs, "members": len(members_of(model)), "batch_size": config.trainer.batch_size,
        "learning_rate": config.trainer.learning_rate, "weight_decay": config.trainer.weight_decay,
        "val": fitted.best_score, "history": history.points, "budget_s": config.trainer.cpu_seconds,
        "parameters": count_parameters(model, zoo.batch(zoo.split("train")[:2])),
        "train_networks": len(zoo.split("train")), "test_networks": len(zoo.split("test")), **spent,
    }  # fmt: skip
    measured, predictions = evaluate(model, task, zoo, list(config.decades), config.repeats)
    shutil.rmtree(folder, ignore_errors=True)
    return Cell({**row, **measured}, predictions.assign(model=config.model.name, seed=config.seed))


def evaluate(
    model: nn.Module, task: Task, zoo: Zoo, decades: list[float], repeats: int
) -> tuple[dict[str, float], pd.DataFrame]:
    """Measures on the test networks, as they are and under random group elements.

    Args:
        model: trained.
        task: prepared.
        zoo: with a split test.
        decades: sizes of the group elements.
        repeats: draws per size; measures are averaged.

    Returns:
        ``test_tau`` and so on, ``test_tau_2dec`` under elements of 2 decades, ``moved_2dec`` the largest change of a
        prediction relative to the spread of predictions; and the predictions on the untouched test networks.
    """
    rows = zoo.split("test")
    labels = task.labels(zoo, rows)
    model.eval()
    outputs = predict(model, zoo, rows, batch_size=CHUNK)
    plain = finite(task.predict(outputs))
    found = {f"test_{name}": value for name, value in task.measure(plain, labels).items()}
    spread = float(finite(outputs).std()) or 1.0
    for size in decades:
        draws, shifts = [], []
        for draw in range(repeats):
            moved = predict(model, zoo, rows, change=_Mover(size, draw), batch_size=CHUNK)
            draws.append(task.measure(finite(task.predict(moved)), labels))
            shifts.append(_largest(moved - outputs) / spread)
        for name in task.measures:
            found[f"test_{name}_{size:g}dec"] = sum(d[name] for d in draws) / repeats
        found[f"moved_{size:g}dec"] = max(shifts)
    label, prediction = task.pairs(plain, labels)
    table = pd.DataFrame({"row": rows.numpy(), "label": label.numpy(), "prediction": prediction.numpy()})
    return found, table.assign(spec=zoo.spec_index[rows].numpy())


def _largest(difference: Tensor) -> float:
    """The largest absolute value; infinite where something is not finite."""
    return float(difference.abs().max()) if difference.isfinite().all() else math.inf


@dataclass(frozen=True)
class _Mover:
    """Random group elements, the same ones for every model."""

    decades: float
    draw: int

    def __call__(self, graph: NeuralGraph, number: int) -> NeuralGraph:
        return random_transform(graph, decades=self.decades, seed=1_000_003 * self.draw + number)
