"""The zoo builders: what they train, what they write down, and that every network is reproducible on its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.zoos import BUILDERS, DigitsCNNRanges, DigitsSirenFit, build_digits_cnn, build_digits_siren
from experiments.zoos.digits import digits
from experiments.zoos.digits_cnn import draw_plan
from experiments.zoos.digits_siren import pixel_grid
from graphnfn.errors import ZooError
from graphnfn.functional import run
from graphnfn.graph import NeuralGraph
from graphnfn.zoo import Zoo

SHORT = DigitsCNNRanges(steps=(2, 12), batch=8)


def _weights(zoo: Zoo, row: int) -> dict[str, Tensor]:
    return zoo.batch([row]).state_dict()


def _assert_same(first: Zoo, second: Zoo, rows: range) -> None:
    for row in rows:
        ours, theirs = _weights(first, row), _weights(second, row)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), f"network {row} differs"
    columns = [c for c in first.table if c != "spec"]
    pd.testing.assert_frame_equal(
        first.table[columns].iloc[list(rows)], second.table[columns].iloc[list(rows)], check_exact=True
    )


def _module(activation: str) -> nn.Module:
    act = nn.ReLU if activation == "relu" else nn.Tanh
    layers = [nn.Conv2d(1, 16, 3), act(), nn.Conv2d(16, 16, 3), act(), nn.Conv2d(16, 16, 3), act()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def test_the_table_tells_what_the_weights_do(tmp_path: Path) -> None:
    zoo = build_digits_cnn(tmp_path / "zoo", 6, ranges=SHORT, chunk=4, progress=False)
    assert zoo.table["network"].tolist() == list(range(6))
    assert {s.num_params for s in zoo.specs} == {4970}
    data = digits()
    zoo.validate()
    for row in range(6):
        told = zoo.table["activation"].tolist()[row]
        module, kind = _module(told), zoo.batch([row]).spec.groups[1].activations[0].name
        assert kind == told
        names = {"conv0": "0", "conv1": "2", "conv2": "4", "dense": "8"}
        state = {f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in _weights(zoo, row).items()}
        module.load_state_dict(state)
        with torch.no_grad():
            logits = module(data.standardised[data.test])
        right = (logits.argmax(1) == data.labels[data.test]).double().mean().item()
        assert right == pytest.approx(zoo.table["test_accuracy"][row], abs=1e-9)
        loss = F.cross_entropy(logits, data.labels[data.test]).item()
        assert loss == pytest.approx(zoo.table["test_loss"][row], rel=1e-5)


def test_training_learns_and_a_zero_learning_rate_does_not(tmp_path: Path) -> None:
    longer = replace(
        SHORT, optimiser=("adam",), steps=(40, 40), learning_rate=(5e-3, 5e-3), dropout=(0.0, 0.1), batch=32
    )
    still = replace(longer, learning_rate=(0.0, 0.0))
    learned = build_digits_cnn(tmp_path / "learned", 4, ranges=longer, progress=False).labels("train_loss")
    stayed = build_digits_cnn(tmp_path / "still", 4, ranges=still, progress=False).labels("train_loss")
    assert (learned < stayed - 0.3).all()
    initial = build_digits_cnn(
        tmp_path / "initial", 4, ranges=replace(still, optimiser=("sgd",), steps=(1, 1)), progress=False
    ).labels("train_loss")
    assert torch.equal(stayed, initial)


def test_a_network_is_the_same_in_any_zoo(tmp_path: Path) -> None:
    alone = build_digits_cnn(tmp_path / "alone", 1, ranges=SHORT, progress=False)
    small = build_digits_cnn(tmp_path / "small", 5, ranges=SHORT, chunk=2, progress=False)
    large = build_digits_cnn(tmp_path / "large", 9, ranges=SHORT, chunk=9, progress=False)
    other = build_digits_cnn(tmp_path / "other", 1, seed=1, ranges=SHORT, progress=False)
    _assert_same(alone, large, range(1))
    _assert_same(small, large, range(5))
    with pytest.raises(AssertionError, match="network 0 differs"):
        _assert_same(other, large, range(1))


def test_hyper_parameters_vary_within_their_ranges() -> None:
    ranges = DigitsCNNRanges()
    plans = pd.DataFrame([vars(draw_plan(i, 0, ranges)) for i in range(400)])
    for column in ("learning_rate", "weight_decay", "init_scale", "dropout", "steps"):
        low, high = getattr(ranges, column)
        values = plans[column].tolist()
        assert low <= min(values) <= max(values) <= high
        assert len(set(values)) > 100
    for column in ("activation", "optimiser", "init", "bias_std", "train_fraction"):
        assert set(plans[column]) == set(getattr(ranges, column))
    split = plans["split"].tolist()
    assert split.count("train") / 400 == pytest.approx(0.6, abs=0.08)
    assert split.count("test") / 400 == pytest.approx(0.25, abs=0.08)


def test_sirens_show_their_digits(tmp_path: Path) -> None:
    zoo = build_digits_siren(tmp_path / "zoo", 5, fit=DigitsSirenFit(steps=60), chunk=2, progress=False)
    data = digits()
    images = zoo.labels("image")
    assert torch.equal(zoo.labels("label"), data.labels[images])
    shown = run(zoo.batch(slice(None)), pixel_grid())[..., 0]
    errors = (shown - (data.images[images].flatten(1) * 2 - 1)).square().mean(1)
    assert torch.allclose(10 * torch.log10(4 / errors), zoo.labels("psnr"), atol=1e-2)
    assert (zoo.labels("psnr") > 35).all()
    worse = build_digits_siren(tmp_path / "worse", 5, fit=DigitsSirenFit(steps=1), progress=False)
    assert (worse.labels("psnr") < 15).all()
    whole = build_digits_siren(tmp_path / "whole", 6, fit=DigitsSirenFit(steps=60), progress=False)
    _assert_same(zoo, whole, range(5))


def test_a_finished_build_is_left_alone_and_other_settings_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "zoo"
    build_digits_siren(folder, 3, fit=DigitsSirenFit(steps=1), progress=False)
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    build_digits_siren(folder, 3, fit=DigitsSirenFit(steps=1), progress=False)
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ZooError, match="another zoo"):
        build_digits_siren(folder, 3, seed=1, fit=DigitsSirenFit(steps=1), progress=False)
    (tmp_path / "new.build").mkdir()
    (tmp_path / "new.build" / "mine.txt").write_text("keep me")
    with pytest.raises(ZooError, match="in the way"):
        build_digits_siren(tmp_path / "new", 3, progress=False)
    assert (tmp_path / "new.build" / "mine.txt").is_file()
    with pytest.raises(ZooError, match="size of 0"):
        build_digits_siren(tmp_path / "new", 0, progress=False)


def test_dropout_reaches_the_hidden_activations() -> None:
    from graphnfn.chain import small_cnn_spec

    spec = small_cnn_spec([1, 3, 2], 4, "relu")
    graph = NeuralGraph.build(spec, {k: torch.randn(s) for k, s in spec.params.items()})
    seen: dict[int, torch.Size] = {}

    def erase(group: int, state: Tensor) -> Tensor:
        seen[group] = state.shape
        return state * 0

    logits = run(graph, torch.randn(5, 1, 8, 8), hidden=erase)
    assert seen == {1: (5, 1, 3, 6, 6), 2: (5, 1, 2, 4, 4)}
    assert torch.equal(logits[0], graph.state_dict()["dense.bias"].expand(5, -1))


def test_the_registry() -> None:
    assert dict(BUILDERS) == {"digits-cnn": build_digits_cnn, "digits-siren": build_digits_siren}
