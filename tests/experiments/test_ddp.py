"""Training on two processes: the losses of one process, and after a kill the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from experiments.cell import train
from experiments.config import load
from experiments.errors import ExperimentError
from experiments.shares import EpochOrder, Shares

RECIPE = ["model=native", "trainer.epochs=3", "trainer.batch_size=7"]  # 32 networks: the last batch is smaller


class _Losses(Callback):
    """Writes the loss of every step, as seen by all processes together."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.is_global_zero:
            with self.path.open("a") as file:
                file.write(f"{float(trainer.callback_metrics['loss'])!r}\n")

    def losses(self) -> Tensor:
        return torch.tensor([float(line) for line in self.path.read_text().split()])


def _weights(folder: Path) -> dict[str, Tensor]:
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}  # specs are in it as well


def test_shares_cover_every_batch_once_with_their_weights() -> None:
    order = EpochOrder(11, seed=3)
    whole = list(Shares(order, 5, rank=0, world=1))
    parts = [Shares(order, 5, rank=rank, world=2) for rank in (0, 1)]
    values = torch.randn(11)
    for number, (batch, *shares) in enumerate(zip(whole, *parts, strict=True)):
        mean = sum(p.weight(number) * values[s].mean() for p, s in zip(parts, shares, strict=True)) / 2
        torch.testing.assert_close(mean, values[batch].mean())
        if len(batch) > 1:
            assert sorted(shares[0] + shares[1]) == sorted(batch)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first


def test_two_processes_have_the_losses_of_one(tiny: list[str], tmp_path: Path) -> None:
    seen = {}
    for devices in (1, 2):
        callback = _Losses(tmp_path / f"losses{devices}.txt")
        config = load([*tiny, *RECIPE, f"trainer.devices={devices}"])
        fitted = train(config, tmp_path / str(devices), callbacks=(callback,))[3]
        seen[devices] = (callback.losses(), fitted)
    assert len(seen[1][0]) == 3 * 5
    # The gradient is the same sum in another order; Adam carries the rounding on.
    torch.testing.assert_close(seen[2][0], seen[1][0], rtol=1e-4, atol=1e-5)
    assert seen[2][1].best_epoch == seen[1][1].best_epoch
    ours, theirs = _weights(tmp_path / "2"), _weights(tmp_path / "1")
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
    other = _Losses(tmp_path / "other.txt")  # negative control: another global batch is another curve
    train(load([*tiny, *RECIPE, "trainer.batch_size=8"]), tmp_path / "other", callbacks=(other,))
    assert not torch.allclose(other.losses()[:10], seen[1][0][:10], rtol=1e-4, atol=1e-5)


SCRIPT = """
import sys, time
from pathlib import Path
from lightning.pytorch.callbacks import Callback
from experiments.cell import train
from experiments.config import load

class Slow(Callback):
    def on_train_batch_end(self, trainer, *rest):
        if trainer.current_epoch >= 2:
            time.sleep(60)  # so that the kill comes within an epoch

train(load(sys.argv[2:]), Path(sys.argv[1]), callbacks=(Slow(),))
"""


def _kill_within_third_epoch(folder: Path, words: list[str]) -> None:
    """Kill all processes of a training run at once, as a power cut would."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), *words], start_new_session=True)
    deadline = time.monotonic() + 120
    try:
        while not ((folder / "last.ckpt").is_file() and _epoch(folder) == 1):
            assert process.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < deadline, "the training did not get going"
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _epoch(folder: Path) -> int:
    try:
        return torch.load(folder / "last.ckpt", weights_only=True)["epoch"]
    except (RuntimeError, EOFError, OSError):  # being written
        return -1


def test_training_on_two_processes_ends_the_same_after_kill_9(tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, *RECIPE, "trainer.epochs=4", "trainer.devices=2"]
    train(load(words), tmp_path / "straight")
    _kill_within_third_epoch(tmp_path / "killed", words)
    before = _weights(tmp_path / "killed")
    fitted = train(load(words), tmp_path / "killed", resume=True)[3]
    assert fitted.best_epoch < 4
    resumed, straight = _weights(tmp_path / "killed"), _weights(tmp_path / "straight")
    for name in straight:
        assert torch.equal(resumed[name], straight[name]), name
    assert any(not torch.equal(before[name], straight[name]) for name in straight)  # there was something left to do


def test_no_process_is_one_clear_error(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="devices=0"):
        train(load([*tiny, "trainer.devices=0"]), tmp_path)
