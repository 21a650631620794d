"""The training loop and one cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from experiments.cell import evaluate, prepare, run, train
from experiments.config import load
from experiments.data import loader, open_zoo, predict
from experiments.errors import ExperimentError
from experiments.models import prepared
from experiments.single import train_one
from experiments.tasks import FractionTask
from graphnfn.graph import NeuralGraph
from graphnfn.prepared import Prepared
from graphnfn.symmetry.canonical import canonical_scales


def test_batches_pair_networks_with_their_labels(tiny: list[str]) -> None:
    zoo = open_zoo(load(tiny).zoo)
    rows = zoo.split("val")
    graph, labels = next(iter(loader(zoo, rows, FractionTask("score"), batch_size=5, shuffle=False)))
    torch.testing.assert_close(labels, zoo.labels("score", rows[:5]))
    torch.testing.assert_close(graph.x, zoo.batch(rows[:5]).x)


def test_predictions_follow_the_rows(tiny: list[str]) -> None:
    zoo = open_zoo(load(tiny).zoo)
    rows = torch.tensor([7, 3, 11, 0])

    def first_bias(graph: NeuralGraph) -> torch.Tensor:
        return torch.stack([g.x[5] for g in graph.to_data_list()])

    torch.testing.assert_close(predict(first_bias, zoo, rows, batch_size=3), first_bias(zoo.batch(rows)))


@pytest.mark.parametrize("model", ["gated", "native"])
def test_networks_are_prepared_once_and_train_the_same(
    tiny: list[str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights in the end, and in between no network is made canonical again."""
    words = [*tiny, f"model={model}", "trainer.epochs=2", "trainer.members=2"]
    zoo, _, ready, _ = train(load(words), tmp_path / "ready")
    calls = []
    monkeypatch.setattr("experiments.models.MOST_PREPARED", 0)
    monkeypatch.setattr("graphnfn.models.canonical_scales", lambda s: calls.append(s) or canonical_scales(s))
    _, _, afresh, _ = train(load(words), tmp_path / "afresh")
    assert len(calls) > 4
    rows = zoo.split("test")
    assert torch.equal(predict(ready, zoo, rows), predict(afresh, zoo, rows))
    monkeypatch.undo()
    monkeypatch.setattr("graphnfn.models.canonical_scales", lambda s: calls.append(s) or canonical_scales(s))
    calls.clear()
    train(load(words), tmp_path / "again")
    assert len(calls) <= 6  # parameters and statistics of each member, and all networks once


def test_predictions_that_are_not_finite_cost_no_trained_cell(tiny: list[str], tmp_path: Path) -> None:
    zoo, task, model, _ = train(load([*tiny, "model=statnn", "trainer.epochs=1"]), tmp_path)
    first = zoo.batch(zoo.split("test")[:1]).x

    class Failing(torch.nn.Module):
        def forward(self, graph: NeuralGraph) -> torch.Tensor:
            out = model(graph).clone()
            out[0] = float("nan") if torch.equal(graph.x[: len(first)], first) else out[0]
            return out

    (_, whole), (broken, table) = (evaluate(m, task, zoo, [], 1) for m in (model, Failing()))
    assert table["prediction"].tolist() == [0.0, *whole["prediction"][1:]] and whole["prediction"][0] > 0
    assert -1 <= broken["test_tau"] <= 1 and broken["test_r2"] <= 1


def test_what_is_prepared(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    zoo, _, ours = prepare(load([*tiny, "model=gated"]))
    _, _, theirs = prepare(load([*tiny, "model=statnn"]))
    assert prepared(theirs, zoo) is zoo
    ready = prepared(ours, zoo)
    assert all(isinstance(stack, Prepared) for stack in ready.batch(slice(0, 5)).stacks())
    assert ready.split("val").tolist() == zoo.split("val").tolist()
    monkeypatch.setattr("experiments.models.MOST_PREPARED", 100)
    assert prepared(ours, zoo) is zoo


def test_where_keeps_matching_networks(tiny: list[str]) -> None:
    whole, half = (open_zoo(load([*tiny, *words]).zoo) for words in ([], ["+zoo.where.label=1"]))
    assert len(half) == whole.table["label"].tolist().count(1) < len(whole)
    with pytest.raises(ExperimentError, match="no network"):
        open_zoo(load([*tiny, "+zoo.where.label=9"]).zoo)
    with pytest.raises(ExperimentError, match="names column 'colour'"):
        open_zoo(load([*tiny, "+zoo.where.colour=1"]).zoo)


def test_a_fresh_split_replaces_the_one_of_the_table(tiny: list[str]) -> None:
    fresh = open_zoo(load([*tiny, "zoo.split_seed=3", "zoo.fractions=[0.5,0.25,0.25]"]).zoo)
    assert [len(fresh.split(name)) for name in ("train", "val", "test")] == [24, 12, 12]
    assert fresh.table["split"].tolist() != open_zoo(load(tiny).zoo).table["split"].tolist()


def test_training_learns_and_keeps_the_best_epoch(tiny: list[str], tmp_path: Path) -> None:
    own = ["trainer.learning_rate=1e-2", "trainer.weight_decay=1e-2"]  # not those tuned for larger zoos
    config = load([*tiny, "model=native", "trainer.epochs=25", "trainer.batch_size=8", *own])
    zoo, task, model, fitted = train(config, tmp_path)
    rows = zoo.split("val")
    found = task.measure(task.predict(predict(model, zoo, rows)), zoo.labels("score", rows))
    assert found["tau"] == pytest.approx(fitted.best_score, abs=1e-5)
    rows = zoo.split("train")
    assert task.measure(task.predict(predict(model, zoo, rows)), zoo.labels("score", rows))["tau"] > 0.7
    _, predictions = evaluate(model, task, zoo, [2], 1)
    assert predictions["row"].tolist() == zoo.split("test").tolist()


def test_without_a_learning_rate_nothing_is_learned(tiny: list[str], tmp_path: Path) -> None:
    """Negative control of the test above."""
    config = load([*tiny, "model=native", "trainer.learning_rate=0", "trainer.weight_decay=0"])
    zoo, _, fresh = prepare(config)
    trained = train(config, tmp_path)[2]
    rows = zoo.split("test")
    torch.testing.assert_close(predict(trained, zoo, rows), predict(fresh.eval(), zoo, rows))


def test_ours_ignores_group_elements_and_a_baseline_does_not(tiny: list[str], tmp_path: Path) -> None:
    shifts = {}
    for name in ("native", "statnn"):
        cell = run(load([*tiny, f"model={name}", "decades=[4]"]), tmp_path / name)
        shifts[name] = cell.row["moved_4dec"]
        assert not (tmp_path / name).exists()
    assert shifts["native"] < 1e-3 < 0.1 < shifts["statnn"]


class _Kill(Callback):
    """Ends a training in the middle, as a crash would."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt


def test_a_resumed_run_goes_on_where_it_stopped(tiny: list[str], tmp_path: Path) -> None:
    config = load([*tiny, "model=native", "trainer.epochs=5", "trainer.batch_size=32"])  # one batch: no order to lose
    zoo, _, straight, _ = train(config, tmp_path / "a")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(config, tmp_path / "b", callbacks=(_Kill(),))
    assert torch.load(tmp_path / "b" / "last.ckpt", weights_only=True)["epoch"] == 1
    resumed = train(config, tmp_path / "b", resume=True)[2]
    rows = zoo.split("test")
    torch.testing.assert_close(predict(resumed, zoo, rows), predict(straight, zoo, rows))


@pytest.mark.parametrize("model", ["native", "flat_mlp_augmented"])
def test_a_resumed_run_ends_at_the_same_weights(tiny: list[str], tmp_path: Path, model: str) -> None:
    """Also that of a model that draws random numbers in every step."""
    config = load([*tiny, f"model={model}", "trainer.epochs=4", "trainer.batch_size=7"])
    train(config, tmp_path / "a")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(config, tmp_path / "b", callbacks=(_Kill(),))
    train(config, tmp_path / "b", resume=True)
    straight, resumed = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"] for name in ("a", "b")
    )
    for name, value in straight.items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, resumed[name]), name


def test_train_one_writes_measures_and_refuses_to_mix_runs(tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ExperimentError, match="holds no last.ckpt"):
        train_one(load(tiny), folder, resume=True, progress=False)
    row = train_one(load([*tiny, "model=statnn"]), folder, resume=False, progress=False)
    assert json.loads((folder / "metrics.json").read_text())["test_tau"] == row["test_tau"]
    with pytest.raises(ExperimentError, match="holds a run already"):
        train_one(load([*tiny, "model=statnn"]), folder, resume=False, progress=False)
    with pytest.raises(ExperimentError, match="begun with another trainer"):
        train_one(load([*tiny, "model=statnn", "trainer.epochs=9"]), folder, resume=True, progress=False)


@pytest.mark.parametrize(("task", "column", "measure"), [("value", "value", "r2"), ("label", "label", "accuracy")])
def test_other_tasks_run(tiny: list[str], tmp_path: Path, task: str, column: str, measure: str) -> None:
    words = [w for w in tiny if not w.startswith("task")]
    cell = run(load([*words, f"task={task}", f"task.column={column}", "model=native"]), tmp_path / "work")
    assert cell.row["measure"] == measure
    assert f"test_{measure}_2dec" in cell.row
