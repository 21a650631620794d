"""The zoo builders: what they train, what they write down, and that every network is reproducible on its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.errors import ExperimentError
from experiments.zoos import BUILDERS, DIGITS_CNN, DIGITS_SIREN, DIGITS_WILD, CNNRanges, CNNZoo, SirenFit, builder_named
from experiments.zoos.images import load_images
from experiments.zoos.plans import SMALL_CNN_ZOO, draw_plan
from experiments.zoos.siren import pixel_grid
from graphnfn.errors import ZooError
from graphnfn.functional import run
from graphnfn.graph import NeuralGraph
from graphnfn.zoo import Zoo

SHORT = CNNRanges(steps=(2, 12), batch=8)


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
    zoo = replace(DIGITS_CNN, ranges=SHORT)(tmp_path / "zoo", 6, chunk=4, progress=False)
    assert zoo.table["network"].tolist() == list(range(6))
    assert {s.num_params for s in zoo.specs} == {4970}
    data = load_images("digits")
    zoo.validate()
    for row in range(6):
        told = zoo.table["activation"].tolist()[row]
        module, kind = _module(told), zoo.batch([row]).spec.groups[1].activations[0].name
        assert kind == told
        names = {"conv0": "0", "conv1": "2", "conv2": "4", "dense": "8"}
        state = {f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in _weights(zoo, row).items()}
        module.load_state_dict(state)
        with torch.no_grad():
            logits = module(data.inputs(data.test))
        right = (logits.argmax(1) == data.labels[data.test]).double().mean().item()
        assert right == pytest.approx(zoo.table["test_accuracy"][row], abs=1e-9)
        loss = F.cross_entropy(logits, data.labels[data.test]).item()
        assert loss == pytest.approx(zoo.table["test_loss"][row], rel=1e-5)


def test_training_learns_and_a_zero_learning_rate_does_not(tmp_path: Path) -> None:
    longer = replace(
        SHORT, optimiser=("adam",), steps=(40, 40), learning_rate=(5e-3, 5e-3), dropout=(0.0, 0.1), batch=32
    )
    still = replace(longer, learning_rate=(0.0, 0.0))
    learned = replace(DIGITS_CNN, ranges=longer)(tmp_path / "learned", 4, progress=False).labels("train_loss")
    stayed = replace(DIGITS_CNN, ranges=still)(tmp_path / "still", 4, progress=False).labels("train_loss")
    assert (learned < stayed - 0.3).all()
    initial = replace(DIGITS_CNN, ranges=replace(still, optimiser=("sgd",), steps=(1, 1)))(
        tmp_path / "initial", 4, progress=False
    ).labels("train_loss")
    assert torch.equal(stayed, initial)


def test_a_network_is_the_same_in_any_zoo(tmp_path: Path) -> None:
    alone = replace(DIGITS_CNN, ranges=SHORT)(tmp_path / "alone", 1, progress=False)
    small = replace(DIGITS_CNN, ranges=SHORT)(tmp_path / "small", 5, chunk=2, progress=False)
    large = replace(DIGITS_CNN, ranges=SHORT)(tmp_path / "large", 9, chunk=9, progress=False)
    other = replace(DIGITS_CNN, ranges=SHORT)(tmp_path / "other", 1, seed=1, progress=False)
    _assert_same(alone, large, range(1))
    _assert_same(small, large, range(5))
    with pytest.raises(AssertionError, match="network 0 differs"):
        _assert_same(other, large, range(1))


def test_hyper_parameters_vary_within_their_ranges() -> None:
    ranges = CNNRanges()
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
    zoo = replace(DIGITS_SIREN, fit=SirenFit(steps=60))(tmp_path / "zoo", 5, chunk=2, progress=False)
    data = load_images("digits")
    images = zoo.labels("image")
    assert torch.equal(zoo.labels("label"), data.labels[images])
    shown = run(zoo.batch(slice(None)), pixel_grid(8))[..., 0]
    errors = (shown - (data.images[images].flatten(1) * 2 - 1)).square().mean(1)
    assert torch.allclose(10 * torch.log10(4 / errors), zoo.labels("psnr"), atol=1e-2)
    assert (zoo.labels("psnr") > 35).all()
    worse = replace(DIGITS_SIREN, fit=SirenFit(steps=1))(tmp_path / "worse", 5, progress=False)
    assert (worse.labels("psnr") < 15).all()
    whole = replace(DIGITS_SIREN, fit=SirenFit(steps=60))(tmp_path / "whole", 6, progress=False)
    _assert_same(zoo, whole, range(5))


def test_a_finished_build_is_left_alone_and_other_settings_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "zoo"
    replace(DIGITS_SIREN, fit=SirenFit(steps=1))(folder, 3, progress=False)
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    replace(DIGITS_SIREN, fit=SirenFit(steps=1))(folder, 3, progress=False)
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ZooError, match="another zoo"):
        replace(DIGITS_SIREN, fit=SirenFit(steps=1))(folder, 3, seed=1, progress=False)
    (tmp_path / "new.build").mkdir()
    (tmp_path / "new.build" / "mine.txt").write_text("keep me")
    with pytest.raises(ZooError, match="in the way"):
        DIGITS_SIREN(tmp_path / "new", 3, progress=False)
    assert (tmp_path / "new.build" / "mine.txt").is_file()
    with pytest.raises(ZooError, match="size of 0"):
        DIGITS_SIREN(tmp_path / "new", 0, progress=False)


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
    assert set(BUILDERS) == {f"{d}-{kind}" for d in ("digits", "mnist", "fmnist") for kind in ("cnn", "siren")} | {
        "digits-wild"
    }
    for name, builder in BUILDERS.items():
        assert vars(builder)["data"] == name.split("-")[0]


def test_builders_of_other_widths(tmp_path: Path) -> None:
    assert builder_named("digits-cnn") is DIGITS_CNN
    narrow, usual = builder_named("digits-siren-w5"), builder_named("digits-siren-w32")
    assert usual == DIGITS_SIREN
    zoo, plain = (b(tmp_path / str(b.width), 3, progress=False) for b in (narrow, usual))
    assert [g.size for g in zoo.specs[0].groups] == [2, 5, 5, 1] and zoo.about["width"] == 5
    assert "width" not in plain.about, "zoos that were built before there were widths would be refused"
    assert zoo.table["image"].tolist() == plain.table["image"].tolist()
    assert zoo.table["split"].tolist() == plain.table["split"].tolist()
    cnn = builder_named("mnist-cnn-w7")
    assert isinstance(cnn, CNNZoo) and [g.size for g in cnn.spec("relu", 28).groups] == [1, 7, 7, 7, 10]


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "digits-siren-w0",
        "digits-siren-w",
        "digits-wild-w8",
        "digits-siren-w8-w8",
        "digits-siren-f0",
        "digits-siren-f2-w8",
        "digits-cnn-f2",
        "digits-wild-f2",
    ],
)
def test_builders_that_are_none(name: str) -> None:
    with pytest.raises(ExperimentError):
        builder_named(name)


def test_the_small_cnn_zoos_ranges() -> None:
    """Appendix A of Unterthiner et al. 2020: inits, deviations of those that take one, dropout to .7."""
    plans = pd.DataFrame([vars(draw_plan(i, 0, SMALL_CNN_ZOO)) for i in range(300)])
    assert set(plans["init"]) == {"he_normal", "glorot_normal", "unit_orthogonal", "random_normal", "truncated_normal"}
    takes = plans["init"].isin(["random_normal", "truncated_normal"])
    assert (plans["init_scale"][~takes] == 1).all() and plans["init_scale"][takes].between(1e-3, 0.5).all()
    assert set(plans["bias_std"]) == {0.0} and plans["dropout"].max() > 0.5


def test_several_fits_of_an_image(tmp_path: Path) -> None:
    builder = builder_named("digits-siren-w8-f3")
    assert builder == replace(DIGITS_SIREN, width=8, fits=3) and builder_named("digits-siren-f1") == DIGITS_SIREN
    zoo = builder(tmp_path / "zoo", 6, progress=False)
    assert zoo.about["fit"]["fits"] == 3
    assert zoo.table["fit"].tolist() == [0, 1, 2, 0, 1, 2]
    images = zoo.labels("image").tolist()
    assert images[0] == images[1] == images[2] != images[3] == images[4] == images[5]
    assert zoo.table["split"].nunique() <= 2
    assert not torch.equal(_weights(zoo, 0)["layers.0.weight"], _weights(zoo, 1)["layers.0.weight"])


def test_a_wild_zoo_computes_what_its_table_says(tmp_path: Path) -> None:
    """Every network is rebuilt with its spec's own executor: norms, skips, activations, kernels."""
    wild = replace(DIGITS_WILD, together=3, ranges=replace(DIGITS_WILD.ranges, steps=(3, 9), batch=8))
    zoo = wild(tmp_path / "zoo", 12, chunk=5, progress=False)
    assert len(zoo.specs) > 2 and zoo.table["architecture"].tolist() == [i // 3 for i in range(12)]
    data = load_images("digits")
    seen = set()
    for row in range(12):
        graph, facts = zoo.batch([row]), zoo.table.iloc[row]
        groups = graph.spec.groups
        assert "-".join(str(g.size) for g in groups[1:-1]) == facts["widths"]
        assert groups[1].activations[0].name == facts["activation"]
        assert any(g.norm_eps is not None for g in groups) == facts["norm"]
        assert sum(b.param.startswith("skip") for b in graph.spec.blocks) == facts["skips"]
        logits = run(graph, data.inputs(data.test))[0]
        right = (logits.argmax(1) == data.labels[data.test]).double().mean().item()
        assert right == pytest.approx(facts["test_accuracy"], abs=1e-9)
        seen |= {("norm", bool(facts["norm"])), ("skips", bool(facts["skips"])), ("kernel", int(facts["kernel"]))}
    assert len(seen) >= 5
    again = wild(tmp_path / "again", 7, chunk=12, progress=False)
    _assert_same(again, zoo, range(7))
