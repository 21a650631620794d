"""The image-supervised reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments import render_then_classify as module
from experiments.cell import prepare, run, train
from experiments.config import load
from experiments.data import predict
from experiments.errors import ExperimentError
from experiments.pictures import rendered
from experiments.render_then_classify import RenderThenClassify
from graphnfn.chain import mlp_spec
from graphnfn.graph import NeuralGraph
from graphnfn.testing import random_graph, random_transform, separating_transforms

SPEC = mlp_spec([2, 6, 1], "sin", omega=4.0)


def test_it_sees_the_function_and_nothing_else() -> None:
    graph = random_graph(SPEC, networks=4, dtype=torch.float32)
    model = RenderThenClassify(specs=[SPEC], out=3, side=8).eval()
    plain = model(graph)
    torch.testing.assert_close(model(random_transform(graph, half_turns=2)), plain, rtol=1e-3, atol=1e-4)
    assert (model(separating_transforms(graph)["uncoupled rows"](graph)) - plain).abs().max() > 1e-2


def test_pictures_move_in_training_only() -> None:
    graph = random_graph(SPEC, networks=4, dtype=torch.float32)
    model = RenderThenClassify(specs=[SPEC], out=3, side=8, dropout=0.0)
    assert len({model(graph).sum().item() for _ in range(8)}) > 1
    assert len({model.eval()(graph).sum().item() for _ in range(3)}) == 1


def test_pictures_are_made_once_and_train_the_same(
    sirens: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*sirens, "task=label", "model=render_then_classify", "trainer.epochs=2", "trainer.batch_size=8"]
    calls = []
    monkeypatch.setattr(module, "rendered", lambda *a: calls.append(a) or rendered(*a))
    zoo, _, ready, _ = train(load(words), tmp_path / "ready")
    assert len(calls) == 2  # the sample for which parameters are made, and all networks
    monkeypatch.setattr("experiments.models.MOST_PREPARED", 0)
    _, _, afresh, _ = train(load(words), tmp_path / "afresh")
    assert len(calls) > 10
    rows = zoo.split("test")
    assert torch.equal(predict(ready, zoo, rows), predict(afresh, zoo, rows))


def test_prepared_networks_of_two_architectures_keep_their_order() -> None:
    other = mlp_spec([2, 4, 1], "sin", omega=4.0)
    graph = NeuralGraph.batch([random_graph(s, seed=k, dtype=torch.float32) for k, s in enumerate([SPEC, other, SPEC])])
    model = RenderThenClassify(specs=[SPEC, other], out=3, side=8).eval()
    torch.testing.assert_close(model(model.prepare(graph)), model(graph))
    alone = torch.cat([model(part) for part in graph.to_data_list()])
    torch.testing.assert_close(model(graph), alone)


def test_it_learns_what_is_in_the_pictures(sirens: list[str], tmp_path: Path) -> None:
    """The label is whether the middle is bright; without training it is guessed at best."""
    words = [*sirens, "task=label", "model=render_then_classify", "trainer.epochs=25", "trainer.batch_size=8"]
    row = run(load(words), tmp_path / "a").row
    assert row["reads"] == "images" and row["moved_2dec"] < 1e-3
    still = run(load([*words, "trainer.learning_rate=0"]), tmp_path / "b").row
    assert row["val"] > 0.8 and row["val"] > still["val"]


def test_only_networks_of_images(sirens: list[str], tiny: list[str]) -> None:
    with pytest.raises(ExperimentError, match="give zoo.side, e.g. 28"):
        prepare(load([*sirens, "zoo.side=null", "task=label", "model=render_then_classify"]))
    with pytest.raises(ExperimentError, match=r"networks of images.*these have \[\(3, 1\)\]"):
        prepare(load([*tiny, "zoo.side=8", "model=render_then_classify"]))
