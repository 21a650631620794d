"""Editing in function space: targets, exactness, the identity, learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from experiments.cell import prepare, run, train
from experiments.config import load
from experiments.data import open_zoo, predict
from experiments.editing import Edited, EditTask, baseline_editor, graph_editor
from experiments.errors import ExperimentError
from experiments.pictures import contrasted, dilated, pixel_grid, render
from graphnfn.chain import mlp_spec
from graphnfn.functional import run as run_network
from graphnfn.graph import NeuralGraph
from graphnfn.models import GraphMetaNet
from graphnfn.testing import random_graph, random_transform, separating_transforms

SPEC = mlp_spec([2, 6, 6, 1], "sin", omega=4.0)
OURS = ("native", "gated", "combined", "synchronous", "descent")


def ours(name: str, **settings) -> nn.Module:
    """A small editor of ours."""
    parts = {"head": "descent", "layer": "native", "points": 8} if name == "descent" else {"layer": name}
    return graph_editor(specs=[SPEC], width=8, rounds=1, **parts, **settings)


def lively(editor: nn.Module, scale: float = 0.3) -> nn.Module:
    """The editor with parameters that make it change networks a lot."""
    with torch.no_grad():
        for part in editor.modules():
            if isinstance(part, GraphMetaNet):
                for parameter in part.head.parameters():
                    parameter += scale * torch.randn_like(parameter)
    return editor


def test_a_picture_is_the_function_on_the_grid_in_the_order_of_the_batch() -> None:
    graphs = [random_graph(mlp_spec([2, n, 1], "sin"), seed=n) for n in (4, 5, 4)]
    grid = pixel_grid(3).double()
    pictures = render(NeuralGraph.batch(graphs), grid)
    for graph, picture in zip(graphs, pictures, strict=True):
        value = run_network(graph, torch.tensor([[1.0, -1.0]], dtype=torch.float64))[0, 0, 0]
        torch.testing.assert_close(picture[0, 2, 0], (value + 1) / 2)


def test_dilation_is_the_largest_neighbour() -> None:
    picture = np.random.default_rng(0).random((2, 1, 5, 5))
    padded = np.pad(picture, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    np.testing.assert_array_equal(dilated(picture), windows.max((-1, -2)))


def test_contrast_keeps_the_mean_and_stays_within_black_and_white() -> None:
    picture = np.random.default_rng(0).random((2, 1, 5, 5)) / 4 + 0.4
    twice = contrasted(picture)
    np.testing.assert_allclose(twice.mean((-1, -2)), picture.mean((-1, -2)))
    np.testing.assert_allclose(twice.std((-1, -2)), 2 * picture.std((-1, -2)))
    assert contrasted(picture * 9 - 4).min() == 0 and contrasted(picture * 9 - 4).max() == 1


def test_measures_are_those_of_leaving_the_network_alone_and_of_perfection(sirens: list[str]) -> None:
    zoo, task, _ = prepare(load([*sirens, "task=dilate", "model=edit/native"]))
    labels = task.labels(zoo, zoo.split("val"))
    still, wanted = labels.unbind(1)
    assert task.measure(wanted, labels) == {"mse": 0.0, "gain": 1.0}
    assert task.measure(still, labels)["gain"] == 0.0 < task.measure(still, labels)["mse"]
    assert task.measure((still + wanted) / 2, labels)["gain"] == pytest.approx(0.75)
    assert task.measure(torch.zeros_like(still), labels)["mse"] == pytest.approx(float(wanted.square().mean()))


@pytest.mark.parametrize("layer", OURS)
@pytest.mark.parametrize("decades", [1, 2, 4, 6])
def test_pictures_do_not_move_under_group_elements(layer, decades) -> None:
    graph = random_graph(SPEC, networks=4)
    editor = lively(ours(layer, steps=2)).double()
    model = Edited(lambda: editor, pixel_grid(5).double())
    plain = model(graph)
    assert (plain - render(graph, model.grid)).abs().max() > 1e-2, "it must edit, or nothing is tested"
    moved = model(random_transform(graph, decades=decades, half_turns=2))
    torch.testing.assert_close(moved, plain, rtol=1e-9, atol=1e-9)
    other = separating_transforms(graph)["shuffled signs"](graph)
    assert (model(other) - plain).abs().max() > 1e-2


def test_a_blind_editor_is_seen_to_move_pictures() -> None:
    """Negative control: permutations are not all that can be done to sines."""
    graph = random_graph(SPEC, networks=4, dtype=torch.float32)
    make = lambda: baseline_editor(specs=[SPEC], name="nfn_hnp", channels=[8], scale=1.0)  # noqa: E731
    model = Edited(make, pixel_grid(5))
    assert (model(random_transform(graph)) - model(graph)).abs().max() > 1e-3


class _Shuffled(nn.Module):
    """An editor with the fault that ScaleGMN's first issue was about: parts of the result land elsewhere."""

    def __init__(self, editor: nn.Module) -> None:
        super().__init__()
        self.editor = editor

    def forward(self, graph: NeuralGraph) -> NeuralGraph:
        return separating_transforms(graph)["uncoupled rows"](self.editor(graph))


def _learned_identity(sirens: list[str], editor, steps: int = 120) -> tuple[float, float]:
    """The squared error on the identity before and after some training."""
    task = EditTask(operation="identity", side=6)
    zoo = open_zoo(load(sirens).zoo)
    rows = zoo.split("train")
    model, labels = Edited(editor, task.grid), task.labels(zoo, rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        loss = task.loss(model(zoo.batch(rows)), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses[0], losses[-1]


@pytest.mark.parametrize(("layer", "noise"), [("native", 0.1), ("gated", 0.1), ("combined", 0.1), ("descent", 0.03)])
def test_our_editors_learn_the_identity(layer: str, noise: float, sirens: list[str]) -> None:
    torch.manual_seed(0)
    first, last = _learned_identity(sirens, lambda: lively(ours(layer), noise), steps=240)
    assert last < 1e-4 < 1e-3 < first, "it starts far from the identity, or nothing is tested"


def test_an_editor_with_misplaced_results_does_not_learn_the_identity(sirens: list[str]) -> None:
    """Negative control."""
    _, last = _learned_identity(sirens, lambda: _Shuffled(ours("native")))
    assert last > 1e-2


@pytest.mark.parametrize("name", OURS)
def test_our_editors_start_as_the_identity(name, sirens: list[str]) -> None:
    zoo, task, model = prepare(load([*sirens, "task=dilate", f"model=edit/{name}"]))
    rows = zoo.split("val")
    torch.testing.assert_close(predict(model, zoo, rows), task.labels(zoo, rows)[:, 0], atol=1e-5, rtol=0)


def test_outputs_are_averaged_as_functions() -> None:
    graph = random_graph(SPEC, networks=3, dtype=torch.float32)
    grid = pixel_grid(4)
    editors = [lively(ours("gated")) for _ in range(2)]
    left = iter(editors)
    model = Edited(lambda: next(left), grid, outputs=2)
    one, two = (render(e(graph), grid) for e in editors)
    torch.testing.assert_close(model(graph), (one + two) / 2)
    assert (one - two).abs().max() > 1e-2
    with pytest.raises(ExperimentError, match="model.outputs=0"):
        Edited(nn.Identity, grid, outputs=0)


def test_a_cell_learns_to_edit_and_keeps_the_best_epoch(sirens: list[str], tmp_path: Path) -> None:
    words = [*sirens, "task=contrast", "model=edit/descent", "trainer.epochs=60", "trainer.batch_size=8"]
    cell = run(load([*words, "model.build.points=16"]), tmp_path)
    scores = [score for _, score in cell.row["history"]]
    assert cell.row["measure"] == "mse" and cell.row["val"] == pytest.approx(min(scores))
    assert min(scores) < max(scores)
    assert cell.row["test_gain"] > 0.1 and cell.row["moved_2dec"] < 1e-3
    assert cell.row["test_mse"] == pytest.approx(cell.predictions["prediction"].mean(), rel=1e-4)
    assert cell.row["test_gain"] == pytest.approx(1 - cell.row["test_mse"] / cell.predictions["label"].mean())


def test_models_must_fit_the_task(sirens: list[str], tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="expected one to edit networks: give model=edit/NAME"):
        prepare(load([*sirens, "task=dilate", "model=native"]))
    with pytest.raises(ExperimentError, match="expected one to predict numbers"):
        prepare(load([*sirens, "task=label", "model=edit/native"]))
    with pytest.raises(ExperimentError, match="give zoo.side, such as 28"):
        train(load([*sirens, "zoo.side=null", "task=dilate", "model=edit/native"]), tmp_path)
    blind = [w for w in tiny if not w.startswith("task")]
    with pytest.raises(ExperimentError, match="edits networks of images"):
        prepare(load([*blind, "zoo.side=4", "task=dilate", "model=edit/native"]))
    with pytest.raises(ExperimentError, match="unknown operation 'erode'"):
        EditTask(operation="erode", side=4)
