"""The same CPU time for every model: how many epochs fit, and the score after each of them."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from experiments.tasks import Task
from experiments.training import MetaNetModule, TrainerConfig
from graphnfn.zoo import Zoo

STEPS = 5
"""Training steps that are timed."""
FEW = 10
"""Where fewer epochs fit, their number is rounded up and each is made shorter; of more, less than a tenth is lost."""


def within_budget(
    config: TrainerConfig, model: nn.Module, task: Task, zoo: Zoo, *, spent: float = 0.0
) -> TrainerConfig:
    """The same training with as many epochs as ``config.cpu_seconds`` affords, and then members; one at least of each.

    Of whole epochs up to all but one would not fit: where 1.9 do, there are two with 95 % of the batches.

    The model is as before afterwards, and so is the state of the random numbers.

    Args:
        config: ``epochs`` and ``members`` are the most that is trained.
        model: a single one, with all its parameters made.
        task: prepared.
        zoo: with splits train and val.
        spent: CPU seconds of the budget that are gone.
    """
    if config.cpu_seconds is None:
        return config
    left = max(0.0, config.cpu_seconds - spent)
    train, val = zoo.split("train"), zoo.split("val")
    step_s, look_s = _seconds(config, model, task, zoo)
    learn_s, validate_s = len(train) / config.batch_size * step_s, len(val) / config.batch_size * look_s
    afforded = left / (learn_s + validate_s)
    if 1 < afforded < min(FEW, config.epochs):
        epochs = math.ceil(afforded)
        share = (left / epochs - validate_s) / learn_s
        return replace(config, epochs=epochs, members=1, share=min(1.0, max(1e-3, share)))  # at least a batch is taken
    epochs = max(1, min(config.epochs, int(afforded)))
    return replace(config, epochs=epochs, members=max(1, min(config.members, int(afforded / epochs))))


def _seconds(config: TrainerConfig, model: nn.Module, task: Task, zoo: Zoo) -> tuple[float, float]:
    """CPU time of a training step and of predictions for as many networks."""
    train = zoo.split("train")
    mixed = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))  # neighbours share architectures
    rows = train[mixed[: (STEPS + 1) * config.batch_size]]
    labels = task.labels(zoo, rows)
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)

    def step(number: int) -> float:
        start = time.process_time()
        places = (torch.arange(config.batch_size) + number * config.batch_size) % len(rows)
        loss = task.loss(model(zoo.batch(rows[places])), labels[places])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.process_time() - start

    with torch.random.fork_rng():
        step(0)
        step_s = sorted(step(k) for k in range(1, STEPS + 1))[STEPS // 2]
        model.eval()
        start = time.process_time()
        with torch.no_grad():
            model(zoo.batch(rows[: config.batch_size]))
        look_s = time.process_time() - start
        model.train()
    model.zero_grad(set_to_none=True)
    model.load_state_dict(before, strict=False)
    return step_s, look_s


class History(Callback):
    """Keeps, after every epoch, the CPU seconds since it was made and the task's first measure on validation."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self._start = time.process_time()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, MetaNetModule)
        score = float(trainer.callback_metrics[pl_module.task.measures[0]])
        self.points.append((time.process_time() - self._start, score))
