"""The benchmark: its clocks and its memory tell what is there, and its page shows all parts."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import baselines
from baselines.errors import BaselineError
from experiments.bench import (
    compiling,
    curves,
    generation,
    large,
    loading,
    mixed,
    roofline,
    scaling,
    subjects,
    suite,
    timing,
)
from experiments.bench.page import html, markdown, write
from experiments.bench.subjects import SHAPES, ours
from experiments.bench.timing import Spread, Times, interleaved, peak_bytes
from experiments.cli import app
from experiments.errors import ExperimentError
from experiments.zoos.fleet import unflatten
from experiments.zoos.siren import siren_spec
from graphnfn.functional import run
from graphnfn.graph import NeuralGraph
from graphnfn.models import LAYERS, GraphMetaNet, MetaNetConfig
from graphnfn.symmetry.canonical import canonical_scales
from graphnfn.testing import random_graph


def test_rounds_are_interleaved() -> None:
    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4 and len(times["a"].cpu) == 3  # the first is a warm-up


def test_no_round_starts_after_the_time_is_over() -> None:
    times = interleaved({"slow": lambda: time.sleep(0.02)}, rounds=50, seconds=0.03)
    assert 1 <= len(times["slow"].cpu) < 5


def test_cpu_time_is_not_wall_time() -> None:
    (times,) = interleaved({"sleep": lambda: time.sleep(0.02)}, rounds=3).values()
    assert min(times.wall) >= 20 and max(times.cpu) < 10


def test_ratios_are_taken_round_by_round() -> None:
    slow, fast = Times((2.0, 40.0, 6.0), (2.0, 40.0, 6.0)), Times((1.0, 10.0, 2.0), (1.0, 10.0, 2.0))
    assert slow.ratio(fast)[0] == Spread.of([2.0, 4.0, 3.0]) and slow.ratio(fast)[0].middle == 3


def test_memory_counts_what_is_held_at_one_time() -> None:
    def one_after_the_other() -> None:
        for _ in range(5):
            torch.ones(100_000)

    def together() -> Tensor:
        return torch.stack([torch.ones(100_000) for _ in range(5)])

    assert 400_000 <= peak_bytes(one_after_the_other) < 500_000
    assert 4_000_000 <= peak_bytes(together) < 4_100_000


def test_memory_of_the_backward_pass_counts() -> None:
    layer, x = nn.Linear(300, 300), torch.randn(2, 300)

    def both() -> None:
        layer.zero_grad()
        layer(x).sum().backward()

    assert peak_bytes(both) - peak_bytes(lambda: layer(x)) > 300_000  # the gradient of the weights


@pytest.mark.parametrize("name", list(SHAPES))
def test_the_roofline_runs_the_networks(name: str) -> None:
    """At one position the bare chain computes what the networks compute."""
    stack = canonical_scales(SHAPES[name].stack(3))[1]
    step = roofline.running(stack, 5)
    out = step()
    assert out.shape == (3, stack.spec.groups[-1].size, 5)
    if name == "siren":
        start = next(c.cell_contents for c in step.__closure__ or () if _is_batch(c.cell_contents))
        want = run(stack, start.transpose(1, 2), per_network=True)
        torch.testing.assert_close(out.transpose(1, 2), want, rtol=1e-4, atol=1e-4)


def _is_batch(value: object) -> bool:
    return isinstance(value, Tensor)


def test_slopes_of_powers() -> None:
    found = scaling.slopes([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 5.0, 7.0])
    assert found["line"] == pytest.approx(2) and found["steepest"] == pytest.approx(2)


def test_models_that_do_not_read_a_shape_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "names", lambda: ("statnn", "dws"))
    found, refused = subjects.readable(SHAPES["small_cnn"])
    assert set(found) >= {*LAYERS, "statnn", "PyPI nfn (HNP)"} and refused == ["dws"]
    assert not subjects.readable(SHAPES["siren"])[1]


def test_models_as_configured_are_those_of_the_command_line() -> None:
    found = subjects.models(SHAPES["small_cnn"])
    gated, plain = found["gated, as configured"](), found["gated"]()
    assert isinstance(gated, GraphMetaNet) and isinstance(plain, GraphMetaNet)
    assert gated.config.statistics and gated.config.balanced and not plain.config.statistics
    assert not [name for name in subjects.models(SHAPES["siren"]) if "configured" in name]


def test_settings_for_sirens_are_not_built_for_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "models", lambda _: {"monomial_siren": lambda: nn.Linear(1, 1)})
    assert subjects.readable(SHAPES["small_cnn"]) == ({}, ["monomial_siren"])
    assert list(subjects.readable(SHAPES["siren"])[0]) == ["monomial_siren"]


def test_models_that_would_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(shape: subjects.Shape) -> tuple[dict[str, nn.Module], list[str]]:
        return {name: subjects.models(shape)[name]() for name in ("statnn", "synchronous")}, ["dws"]

    monkeypatch.setattr(curves, "readable", two)
    rows = curves.by_model(networks=2, rounds=1)
    assert [r["name"] for r in rows if "cpu_ms" in r] == ["statnn", "synchronous"] * 2
    assert all(r["cpu_ms"]["middle"] > 0 and r["parameters"] > 0 for r in rows if "cpu_ms" in r)
    assert [r["name"] for r in rows if r.get("refused")] == ["dws"] * 2
    monkeypatch.setattr(curves, "LARGEST_GIB", 1e-3)  # 1 MiB, between statistics and message passing
    rows = curves.by_model(networks=2, rounds=1)
    assert [r["name"] for r in rows if "cpu_ms" in r] == ["statnn"] * 2
    assert {r["name"] for r in rows if r.get("too_large", 0) > 1e-3} == {"synchronous"}


def test_other_failures_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> nn.Module:
        raise RuntimeError("broken")

    def refusing() -> nn.Module:
        raise BaselineError("another shape")

    monkeypatch.setattr(subjects, "models", lambda _: {"refusing": refusing})
    assert subjects.readable(SHAPES["siren"]) == ({}, ["refusing"])
    monkeypatch.setattr(subjects, "models", lambda _: {"broken": broken})
    with pytest.raises(RuntimeError, match="broken"):
        subjects.readable(SHAPES["siren"])


def test_every_published_figure_has_its_counterpart() -> None:
    rows = curves.against_published(networks=2, rounds=1, only=["statnet", "dws_deepsets"])
    assert {r["baseline"] for r in rows} == {"statnet", "dws_deepsets"}
    assert all(r["cheaper_time"] > 0 for r in rows)


def compiled_rows() -> list[dict]:
    """Of a model with dropout, traced only; and of a compiler that fails."""
    siren, few = {"siren": SHAPES["siren"]}, {"networks": 4, "rounds": 1}

    def broken(*_: object) -> None:
        raise RuntimeError("no compiler here")

    good = compiling.compiling(["statnn"], shapes=siren, backend="eager", **few)
    return [*good, *compiling.compiling(["statnn"], shapes=siren, backend=broken, **few)]


@pytest.fixture(scope="module")
def result() -> dict:
    small = {
        "roofline": roofline.roofline(widths=(4,), networks=2, rounds=2),
        "layers": curves.layers(width=4, networks=2, rounds=1),
        "models": [
            *curves.by_batch((2,), rounds=1),
            {"shape": "small CNN", "name": "dws", "refused": True},
            {"shape": "SIREN", "name": "huge", "too_large": 30.2},
        ],
        "batches": curves.by_batch((1, 2), rounds=1),
        "widths": curves.by_width((4, 8), networks=2, rounds=1),
        "mixed": mixed.mixed((1, 8), ["native", "gated"], networks=8, rounds=1),
        "published": curves.against_published(networks=2, rounds=1, only=["statnet", "dws_deepsets"]),
        "scaling": scaling.scaling((4, 8), width=4, rounds=1),
        "loading": loading.loading(networks=4, zoo_size=16, rounds=2),
        "compile": compiled_rows(),
        "zoo": generation.generation(steps=2, alone=1, rounds=1, scale=0.02, setting=("fused", 1)),
        "large": [
            *large.large(["encoder"], ["checkpoint, bfloat16"]),
            {"name": "other", "run": "plain", "error": "exit code 1: no memory"},
        ],
    }
    for row in small["models"]:
        row["parameters"] = 1234
    facts = {"load": [1.0, 1.5], "pace_ms": vars(Spread(3.0, 3.1, 3.25)), "tries": 2}
    parts = {name: {**facts, "found": found} for name, found in small.items()}
    return {"origin": {"commit": "abc", "processor": "some"}, **parts}


def test_every_part_is_in_the_page(result: dict, tmp_path: Path) -> None:
    assert set(result) == {"origin", *suite.PARTS}
    page, text = html(result), markdown(result)
    assert page.count("<h2>") == len(suite.PARTS) + 2 and page.count("<svg") == 3
    assert text.count("\n## ") == len(suite.PARTS) and "Load average before and after: 1.0, 1.5." in text
    assert "The yardstick took 3.1 (3 to 3.25) ms, the calmest of 2 tries." in text
    assert "huge (SIREN): 30 GiB" in text and "dws (small CNN)" in text and "exit code 1: no memory" in text
    usual = {name: part for name, part in result.items() if name not in suite.BY_NAME}
    assert "`graphnfn bench -o docs/speed.md`" in markdown(usual) and "docs/speed.md`" not in text
    some = {name: result[name] for name in ("origin", "loading")}
    assert "`graphnfn bench -o docs/speed.md loading`" in markdown(some)
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    write(result, tmp_path / "speed.md")
    assert {p.suffix for p in tmp_path.iterdir()} == {".md", ".json", ".html"}
    assert json.loads((tmp_path / "speed.json").read_text())["origin"] == result["origin"]


def test_compiled_models_are_compared(result: dict) -> None:
    good, bad = result["compile"]["found"]
    assert good["graphs"] > 0 and good["first_s"] > 0 and good["cpu"]["middle"] > 0
    assert good["output_error"] < 1e-5 and good["gradient_error"] < 1e-5  # dropout would make them large
    assert "no compiler here" in bad["error"] and "cpu" not in bad


def test_architectures_are_read_in_three_ways(result: dict) -> None:
    rows = result["mixed"]["found"]
    assert [(r["name"], r["architectures"]) for r in rows] == [(n, k) for n in ("native", "gated") for k in (1, 8)]
    assert all(r["one by one"]["middle"] > 0 and r["at once"]["middle"] > 0 for r in rows)
    specs = [spec for spec, _ in zip(mixed.architectures(), range(9), strict=False)]
    assert len(set(specs)) == 9
    parts = [random_graph(spec, dtype=torch.float32) for spec in specs]
    made = {}
    for kind in (GraphMetaNet, mixed.OneByOne):
        torch.manual_seed(0)
        made[kind] = kind(MetaNetConfig(layer="gated", width=4), specs=specs)
    stacks = NeuralGraph.batch(parts).stacks()
    assert made[mixed.OneByOne]._routes(stacks) == [[i] for i in range(9)]
    assert len(made[GraphMetaNet]._routes(stacks)) < 9
    torch.testing.assert_close(*(model(NeuralGraph.batch(parts)) for model in made.values()))


def test_tables_are_rectangular(result: dict) -> None:
    widths: set[int] = set()
    for line in [*markdown(result).splitlines(), "## end"]:
        if line.startswith("## "):
            assert len(widths) <= 1
            widths = set()
        elif line.startswith("|"):
            widths.add(line.count("|"))


def test_a_large_network_leaves_its_time_and_memory(result: dict) -> None:
    row = result["large"]["found"][0]
    assert row["both"]["cpu_s"] > 0 and 0.1 < row["load"]["peak_gb"] <= row["both"]["peak_gb"] < 24
    assert row["parameters"] > 20 and row["without_gradient"] == 0


def test_a_large_network_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    (row,) = large.large(["encoder"], ["plain"])
    assert row == {"name": "encoder", "run": "plain", "error": "exit code 1: no message"}


def test_both_ways_of_making_a_zoo_train_the_same_networks(result: dict) -> None:
    """The same operations are counted by hand, and both ways learn."""
    siren, _, cnn, _ = result["zoo"]["found"]
    forward, first = 64 + 1024 + 32, 64  # no gradient for the inputs
    assert siren["mflop"] == pytest.approx(2 * 64 * (3 * forward - first) / 1e6)
    forward, first = 32 * (36 * 144 + 16 * 2304 + 4 * 2304 + 160), 32 * 36 * 144
    assert cnn["mflop"] == pytest.approx(2 * (3 * forward - first) / 1e6)
    assert all(row["bound"] > row["speedup"]["best"]["middle"] > 0 for row in (siren, cnn))
    torch.manual_seed(0)
    job = generation.siren_job(150, 8)
    start, alone = (generation.train_alone(job, steps, {}) for steps in (1, 150))
    theta = job.train(range(4))
    _, loss = job.step()
    assert alone < 0.2 * start and theta.shape == (4, 1185) and loss().item() > alone
    for row in theta:
        module, loss = job.step()
        named = dict(zip(siren_spec().params, unflatten(siren_spec(), row[None]).unpack().values(), strict=True))
        module.load_state_dict({f"{2 * int(k[7])}.{k[9:]}": v[0] for k, v in named.items()})
        assert loss().item() < 0.2 * start


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(ExperimentError, match="unknown parts speed"):
        next(suite.bench(["speed"]))


def test_parts_are_given_out_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "PARTS", {"a": lambda: 1, "compile": lambda: 3, "b": lambda: 2})
    first, second = suite.bench()  # what takes minutes and has its own page only by name
    assert [set(found) for found in suite.bench(["compile"])] == [{"origin", "compile"}]
    assert set(first) == {"origin", "a"} and set(second) == {"origin", "a", "b"} and second["b"]["found"] == 2


class Machine:
    """In place of the yardstick: paces of the tries of a part, one after another; the first is of before all parts."""

    def __init__(self, paces: list[float]) -> None:
        self.paces, self.notes = paces, 0

    def note(self) -> None:
        self.notes += 1

    def take(self) -> Spread:
        assert self.notes > 1
        self.notes = 0
        return Spread.of([self.paces.pop(0)])


@pytest.mark.parametrize(
    ("paces", "kept", "tries"),
    [
        ([1.0, 1.4], "1", 1),  # calm
        ([1.0, 7.0, 1.1, 1.0], "2", 2),  # disturbed, then calm
        ([1.0, 7.0, 3.0, 4.0], "2", 3),  # never calm: the calmest
        ([7.0, 7.1], "1", 1),  # slow all the time: nothing tells
        ([7.0, 2.0], "1", 1),  # slow before
    ],
)
def test_disturbed_parts_are_measured_again(
    monkeypatch: pytest.MonkeyPatch, paces: list[float], kept: str, tries: int
) -> None:
    found = iter("123")
    monkeypatch.setattr(suite, "PARTS", {"a": lambda: next(found)})
    monkeypatch.setattr(suite, "PACE", Machine(paces))
    (result,) = suite.bench()
    assert (result["a"]["found"], result["a"]["tries"]) == (kept, tries)


def test_a_number_of_tries_is_needed() -> None:
    with pytest.raises(ExperimentError, match="got 0 tries"):
        next(suite.bench(tries=0))


def test_the_yardstick_shows_what_slows_its_work_down(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = timing.Pace()
    pace.note()
    assert len(pace.noted) == 1 and pace.take().middle > 0 and not pace.noted
    monkeypatch.setattr(torch, "bmm", lambda *_: time.sleep(0.02))
    pace.note()
    assert pace.take().low >= 4 * 20  # four products; what was noted before does not count


def test_every_round_notes_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PACE", timing.Pace())
    interleaved({"a": lambda: None}, rounds=3)
    assert len(timing.PACE.noted) == 3


@pytest.mark.parametrize("layer", list(LAYERS))
@pytest.mark.parametrize("name", list(SHAPES))
def test_models_run_in_bfloat16(layer: str, name: str) -> None:
    """Under autocast predictions stay within its precision, and all gradients are finite."""
    shape = SHAPES[name]
    graph, model = NeuralGraph.from_stacks([shape.stack(4)]), ours(layer, shape, width=16)
    want = model(graph)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(graph)
        loss = got.float().square().mean()
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(bool(g.isfinite().all()) for g in grads)
    error = ((got.float() - want).abs().max() / want.abs().max()).detach()
    assert 0 < float(error) < 0.1  # zero would mean that nothing was cast


def test_the_command_writes_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = roofline.roofline(widths=(4,), networks=2, rounds=1)
    monkeypatch.setattr(suite, "PARTS", {"roofline": lambda: rows})
    done = CliRunner().invoke(app, ["bench", "-o", str(tmp_path / "speed.md")])
    assert done.exit_code == 0 and "measuring roofline" in done.output
    assert "SIREN 2-32-32-1" in (tmp_path / "speed.html").read_text()
