"""The training loop: one Lightning module for every model and task."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from experiments.data import Batch, loader
from experiments.ensemble import members_of
from experiments.errors import DivergedError, ExperimentError
from experiments.metrics import goodness
from experiments.prefetch import Prefetched
from experiments.shares import EpochOrder, Shares, epoch_seed, share_loader
from experiments.tasks import Task
from graphnfn.zoo import Zoo

LAST, BEST = "last.ckpt", "best.ckpt"
RECIPE = "recipe"
"""The key of a checkpoint behind which its :class:`TrainerConfig` is."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How to train.

    Args:
        epochs: passes over the training networks.
        batch_size: networks per step.
        learning_rate: its peak; it rises linearly and falls as a cosine.
        weight_decay: of AdamW.
        warmup: share of the steps in which the learning rate rises.
        clip: largest norm of the gradient.
        devices: processes that share every batch, each on a device of its own (on a CPU: each a process).
        members: models that are trained side by side from starts of their own; their mean output predicts.
        cpu_seconds: only so many epochs as fit in it on this machine's processor, one at least, and with what is
            left only so many members; None trains them all. The numbers follow from timed steps, so they are not the
            same in every run.
        share: of the batches of an epoch that are trained on, others in every epoch; a budget sets it.

    Raises:
        ExperimentError: a value is out of range.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: float
    clip: float
    devices: int = 1
    members: int = 1
    cpu_seconds: float | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.devices < 1 or self.members < 1:
            raise ExperimentError(
                f"got trainer.devices={self.devices} and trainer.members={self.members}; expected 1 or more of each"
            )
        if self.cpu_seconds is not None and self.cpu_seconds <= 0:
            raise ExperimentError(f"got trainer.cpu_seconds={self.cpu_seconds:g}; expected more than 0, or null")
        if not 0 < self.share <= 1:
            raise ExperimentError(f"got share={self.share:g}; expected more than 0, and 1 at most")
        if self.epochs < 1 or self.batch_size < 1 or not 0 <= self.warmup < 1 or self.learning_rate < 0:
            raise ExperimentError(
                f"got {self}; expected at least one epoch and one network per batch, warmup in [0, 1), no negative rate"
            )


@dataclass(frozen=True)
class Fitted:
    """What training found.

    Args:
        best_epoch: the epoch whose weights the model has now.
        best_score: the first measure of the task on the validation networks there.
        epochs: passes over the training networks; not a whole number where epochs were cut short.
    """

    best_epoch: int
    best_score: float
    epochs: float


class MetaNetModule(lightning.LightningModule):
    """A metanetwork with a task and a zoo, as Lightning trains it.

    An epoch depends on the weights, the seed and its number only: training that was killed and resumed ends at the
    same weights. With several processes every gradient is that of the whole batch; all of them validate on everything.
    """

    def __init__(self, model: nn.Module, task: Task, zoo: Zoo, config: TrainerConfig) -> None:
        super().__init__()
        self.model, self.task, self.zoo, self.config = model, task, zoo, config
        self._seed = torch.initial_seed()
        self._seen: list[tuple[Tensor, Tensor]] = []

    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1:
            torch.set_num_threads(1)  # the pools of threads of the process that was forked are not in its copies

    def train_dataloader(self) -> Prefetched:
        rows = self.zoo.split("train")
        order = EpochOrder(len(rows), self._seed)
        world, rank = self.trainer.world_size, self.trainer.global_rank
        self._shares = Shares(order, self.config.batch_size, rank=rank, world=world)
        return Prefetched(share_loader(self.zoo, rows, self.task, self._shares))

    def val_dataloader(self) -> Prefetched:
        size = 2 * self.config.batch_size
        return Prefetched(loader(self.zoo, self.zoo.split("val"), self.task, batch_size=size, shuffle=False))

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(epoch_seed(self._seed, self.current_epoch, 1 + self.global_rank))  # for dropout

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        graph, labels = batch
        members = members_of(self.model)
        losses = torch.stack([self.task.loss(member(graph), labels) for member in members])
        loss = losses.sum() * self._shares.weight(batch_idx)
        self.log(
            "loss", loss / len(members), batch_size=len(labels), prog_bar=True, sync_dist=self.trainer.world_size > 1
        )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        graph, labels = batch
        self._seen.append((self.task.predict(self.model(graph)), labels))

    def on_validation_epoch_end(self) -> None:
        prediction, labels = (torch.cat(part).cpu() for part in zip(*self._seen, strict=True))
        self._seen.clear()
        if not prediction.isfinite().all():
            raise DivergedError("training diverged, predictions are not finite: lower trainer.learning_rate")
        self.log_dict(self.task.measure(prediction, labels), prog_bar=True, sync_dist=self.trainer.world_size > 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[RECIPE] = asdict(self.config)

    def configure_optimizers(self) -> Any:
        c = self.config
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay, fused=True
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        rising = max(1, round(c.warmup * steps))

        def rate(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(1, steps - rising))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(
    model: nn.Module,
    task: Task,
    zoo: Zoo,
    config: TrainerConfig,
    folder: Path,
    *,
    resume: bool = False,
    callbacks: tuple[Callback, ...] = (),
    progress: bool = False,
) -> Fitted:
    """Train a model; afterwards it has the weights of its best epoch on the validation networks.

    Args:
        model: the metanetwork, with all its parameters made.
        task: prepared with the training labels.
        zoo: with splits train and val.
        config: how.
        folder: for the checkpoints ``last.ckpt`` and ``best.ckpt``.
        resume: go on from ``last.ckpt`` where there is one.
        callbacks: of Lightning.
        progress: show a progress bar.

    Raises:
        DivergedError: predictions are not finite any more.
    """
    module = MetaNetModule(model, task, zoo, config)
    best = ModelCheckpoint(
        folder, filename=BEST.removesuffix(".ckpt"), monitor=task.measures[0], save_weights_only=True,
        mode="max" if goodness(task.measures[0]) > 0 else "min", auto_insert_metric_name=False,
        enable_version_counter=False,
    )  # fmt: skip
    last = ModelCheckpoint(folder, filename=LAST.removesuffix(".ckpt"), enable_version_counter=False)
    batches = -(-len(zoo.split("train")) // config.batch_size)
    taken = max(1, round(config.share * batches))
    clip = config.clip * config.members**0.5  # of all members' gradients together
    with _quiet(), _one_line():
        trainer = lightning.Trainer(
            max_epochs=config.epochs, gradient_clip_val=clip, callbacks=[*callbacks, best, last], logger=False,
            enable_progress_bar=progress, enable_model_summary=False, num_sanity_val_steps=0, accelerator="auto",
            devices=config.devices, strategy="ddp_fork_find_unused_parameters_true" if config.devices > 1 else "auto",
            use_distributed_sampler=False, limit_train_batches=taken,
        )  # fmt: skip
        path = str(folder / LAST) if resume and (folder / LAST).is_file() else None
        trainer.fit(module, ckpt_path=path, weights_only=True)
    state = torch.load(folder / BEST, weights_only=True)
    module.load_state_dict(state["state_dict"])
    model.eval().cpu()
    # From the disk: processes of their own leave no more than that.
    score = torch.load(folder / LAST, weights_only=True)["callbacks"][best.state_key]["best_model_score"]
    return Fitted(int(state["epoch"]), float(score), config.epochs * taken / batches)


def begun_with(folder: Path) -> TrainerConfig | None:
    """How the training in a folder was begun; None where there is no checkpoint, or one of before it was kept."""
    path = folder / LAST
    recipe = torch.load(path, weights_only=True).get(RECIPE) if path.is_file() else None
    return None if recipe is None else TrainerConfig(**recipe)


@contextmanager
def _one_line() -> Iterator[None]:
    """What goes wrong in another process arrives as its traceback, or as its death."""
    try:
        yield
    except ProcessRaisedException as error:
        reason = str(error).strip().splitlines()[-1]
        raise ExperimentError(f"one of the training processes failed: {reason}") from error
    except ProcessExitedException as error:
        raise ExperimentError("one of the training processes was killed: go on with resume") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice on worker processes and its list of hardware."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.* is deprecated")  # inside Lightning 2.6
        for log in loggers:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(loggers, levels, strict=True):
                log.setLevel(level)
