"""Batches that are read ahead: the same ones, in their order, and no thread is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from experiments.cell import train
from experiments.config import load
from experiments.data import loader, open_zoo
from experiments.prefetch import Prefetched
from experiments.shares import EpochOrder, Shares, share_loader
from experiments.tasks import FractionTask
from graphnfn.zoo import Zoo


def _readers() -> int:
    return sum(t.name.startswith("prefetch") for t in threading.enumerate())


def _numbers(read: Callable[[int], int] = int, count: int = 5) -> DataLoader[Any]:
    return DataLoader(range(count), batch_size=1, collate_fn=lambda places: read(places[0]))  # type: ignore[arg-type]


def _same(ours: Any, theirs: Any) -> bool:
    pairs = [(o, t) for (a, b), (c, d) in zip(ours, theirs, strict=True) for o, t in ((a.x, c.x), (b, d))]
    return all(o.shape == t.shape and bool(torch.equal(o, t)) for o, t in pairs)


def test_batches_are_those_of_the_loader_in_its_order(tiny: list[str]) -> None:
    zoo, task = open_zoo(load(tiny).zoo), FractionTask("score")
    rows = zoo.split("train")
    order = EpochOrder(len(rows), seed=3)
    plain = share_loader(zoo, rows, task, Shares(order, 7, rank=0, world=1))
    first = list(plain)
    assert len(Prefetched(plain)) == len(first) == 5
    for source in (plain, loader(zoo, rows, task, batch_size=5, shuffle=False)):
        ahead = Prefetched(source)
        assert _same(ahead, source) and _same(ahead, source)
    batches = iter(Prefetched(plain))
    order.set_epoch(1)  # Lightning tells it after that
    second = list(batches)
    assert _same(second, plain) and not _same(second, first)  # negative control: another order is seen


def test_the_next_batch_is_read_while_one_is_worked_on() -> None:
    read = [threading.Event() for _ in range(5)]

    def reading(place: int) -> int:
        read[place].set()
        return place

    batches = iter(_numbers(reading))  # negative control: the loader waits until it is asked
    assert next(batches) == 0 and not read[1].wait(0.05)
    batches = iter(Prefetched(_numbers(reading)))
    assert next(batches) == 0 and read[1].wait(10)
    assert not read[2].wait(0.05)  # one ahead, not more


def test_what_goes_wrong_arrives_with_its_batch() -> None:
    def reading(place: int) -> int:
        if place == 2:
            raise OSError("the disk is gone")
        return place

    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in Prefetched(_numbers(reading)):
            seen.append(batch)
    assert seen == [0, 1] and not _readers()


def test_threads_live_within_iterations_only() -> None:
    loader = Prefetched(_numbers())
    batches = iter(loader)
    assert not _readers()
    assert next(batches) == 0 and _readers() == 1  # negative control: a thread is seen where there is one
    assert list(batches) == [1, 2, 3, 4] and not _readers()
    for batch in loader:
        assert _readers() == 1
        if batch == 1:
            break
    assert not _readers()
    kept = iter(loader)
    assert next(kept) == 0 and _readers() == 1
    kept.close()  # type: ignore[attr-defined]
    assert not _readers()


class _AtSecondBatch(Callback):
    """Does something within an epoch, and counts the threads that read then."""

    def __init__(self, action: Callable[[Trainer], None]) -> None:
        self.action, self.readers = action, -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if batch_idx == 1:
            self.readers = _readers()
            self.action(trainer)


def _stop(trainer: Trainer) -> None:
    trainer.should_stop = True


def _fail(trainer: Trainer) -> None:
    raise ArithmeticError("within a step")


def test_a_training_that_ends_early_leaves_no_thread(tiny: list[str], tmp_path: Path) -> None:
    config = load([*tiny, "model=statnn", "trainer.batch_size=4"])
    train(config, tmp_path / "stop", callbacks=(stop := _AtSecondBatch(_stop),))
    assert stop.readers == 1 and not _readers()
    with pytest.raises(ArithmeticError, match="within a step"):
        train(config, tmp_path / "fail", callbacks=(_AtSecondBatch(_fail),))
    assert not _readers()


def test_unreadable_networks_end_the_training(tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, main = Zoo.batch, threading.current_thread()

    def reading(zoo: Zoo, rows: Any) -> Any:
        if threading.current_thread() is not main:
            raise OSError("the disk is gone")
        return batch(zoo, rows)

    monkeypatch.setattr(Zoo, "batch", reading)
    with pytest.raises(OSError, match="the disk is gone"):
        train(load([*tiny, "model=statnn"]), tmp_path)
    assert not _readers()
