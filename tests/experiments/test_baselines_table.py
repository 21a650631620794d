"""The table of baselines: blind spots are found and not invented, golden files are compared, costs are measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import baselines
from baselines.foreign import official_spec
from baselines.weight_space import weight_space
from experiments import adapters
from experiments.baselines_page import page
from experiments.baselines_table import merged, survey
from experiments.bench.subjects import SHAPES
from experiments.blindness import NETWORKS, SEEDS, SPECS, sights
from experiments.claims import symmetry_error
from experiments.cli import main
from experiments.disturbances import DISTURBANCES
from experiments.errors import ExperimentError
from experiments.golden import parities, parity
from experiments.published import published_figures
from experiments.step_time import step_times
from experiments.subjects import Subject, subjects
from graphnfn.graph import NeuralGraph
from graphnfn.testing import random_graph

STATNET = "AllanYangZhou/nfn/experiments/models.py:StatNet"


class Constant(nn.Module):
    """Invariant to everything."""

    def forward(self, graph: NeuralGraph) -> Tensor:
        return torch.ones(graph.num_graphs, 1, dtype=torch.float64)


class Norms(nn.Module):
    """Blind to what leaves the norms of all tensors alone."""

    def forward(self, graph: NeuralGraph) -> Tensor:
        space = weight_space(graph)
        return torch.stack([t.flatten(1).norm(dim=1) for t in (*space.weights, *space.biases)], 1)


class Faint(nn.Module):
    """Sees the first weight, if only a little."""

    def forward(self, graph: NeuralGraph) -> Tensor:
        return 1 + 1e-9 * weight_space(graph).weights[0].flatten(1)[:, :1]


def test_a_constant_is_blind_to_everything() -> None:
    found = sights(lambda _: Constant(), seeds=1)
    assert {s.word for s in found.values()} == {"blind"} and set(found) == {d.name for d in DISTURBANCES}


def test_norms_see_what_changes_norms() -> None:
    words = {name: s.word for name, s in sights(lambda _: Norms(), seeds=1).items()}
    assert words["all entries of each tensor shuffled"] == words["signs of ReLU neurons flipped"] == "blind"
    assert words["two layers of equal size exchanged"] == words["one layer's weights doubled"] == "sees"


def test_faint_changes_are_told_from_none() -> None:
    words = {name: s.word for name, s in sights(lambda _: Faint(), seeds=1).items()}
    assert words["inputs negated"] == "faintly" and words["last layer doubled"] == "blind"


def test_only_changes_of_the_function_count() -> None:
    found = sights(lambda _: Constant(), seeds=1, networks=2)
    relu = sum(any(a.name == "relu" for g in spec.groups for a in g.activations) for spec in SPECS)
    assert found["signs of ReLU neurons flipped"].of == 2 * relu  # on tanh neurons it changes nothing
    assert found["neurons scaled that are no ReLUs"].of == 2 * (len(SPECS) - relu)
    assert all(s.of > 0 for s in found.values())


def test_models_that_refuse_everything() -> None:
    def refuse(specs: object) -> nn.Module:
        raise baselines.BaselineError("no")

    with pytest.raises(ExperimentError, match="reads none"):
        sights(refuse)
    assert symmetry_error(refuse, "scale") is None


def golden_file(folder: Path, change: float = 0.0) -> Path:
    """A file as an official StatNet would give it."""
    facts = {"weight_shapes": [[8, 2], [8, 8], [3, 8]], "activation": "relu"}
    constructor = {"h_size": 4, "dropout": 0.0, "sigmoid": True, "normalize": False}
    sizes = {2: (4, 42), 5: (4, 4), 8: (1, 4)}
    state = {f"hypernetwork.{i}.weight": torch.randn(shape) for i, shape in sizes.items()}
    state |= {f"hypernetwork.{i}.bias": torch.randn(shape[0]) for i, shape in sizes.items()}
    meta = {
        "repository": STATNET.split("/nfn/")[0] + "/nfn", "class_path": STATNET.split("/nfn/")[1],
        "constructor": constructor, "input_architecture": facts, "input_channels": None,
    }  # fmt: skip
    path = folder / "one.json"
    path.write_text(json.dumps(meta))
    spec = official_spec(meta)
    exact = {name: value.double() for name, value in state.items()}
    model = baselines.load_official(STATNET, constructor, exact, specs=[spec]).double()
    graph = random_graph(spec, networks=2, dtype=torch.float32)
    inputs = {f"input/{name}": value.contiguous() for name, value in graph.stacks()[0].unpack().items()}
    wide = graph.map_stacks(lambda s: s.apply(lambda t: t.double()))
    tensors = {f"param/{k}": v for k, v in state.items()} | inputs
    save_file(tensors | {"output_f64": model.eval()(wide).detach() * (1 + change)}, path.with_suffix(".safetensors"))
    return path


def test_golden_files_are_compared(tmp_path: Path) -> None:
    assert (good := parity(golden_file(tmp_path)).error) is not None and good < 1e-12
    assert (bad := parity(golden_file(tmp_path, change=1e-6)).error) is not None and bad > 1e-7


def test_golden_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="holds no golden files"):
        parities(tmp_path)
    path = golden_file(tmp_path)
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {"class_path": "models.py:Other"}))
    assert parity(path).error is None
    path.write_text("{}")
    with pytest.raises(ExperimentError, match="is no golden file"):
        parity(path)
    path.write_text(json.dumps(meta))
    path.with_suffix(".safetensors").write_bytes(b"no")
    with pytest.raises(ExperimentError, match="is no golden file"):
        parity(path)


def test_results_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = golden_file(tmp_path)
    tensors = load_file(path.with_suffix(".safetensors"))
    save_file(tensors | {"output_f64": torch.ones(2, 7, dtype=torch.float64)}, path.with_suffix(".safetensors"))
    with pytest.raises(ExperimentError, match=r"shapes \[\(2, 1\)\], the file \[\(2, 7\)\]"):
        parity(path)


@pytest.mark.shared
def test_the_projects_golden_files(shared: Path) -> None:
    found = [p for p in parities(shared / "peers") if p.error is not None]
    assert len(found) >= 53
    assert all(p.error < (1e-9 if p.exact else 1e-7) for p in found if p.error is not None)


def test_published_figures_have_counterparts() -> None:
    known = {s.name: s for s in subjects()}
    for figure in published_figures():
        assert figure.preset in known[figure.baseline].presets and figure.shape in SHAPES


def test_steps_are_timed_with_the_published_settings() -> None:
    rows = step_times(subjects(["statnet"])[0], networks=4, seconds=0.0)
    assert [r.preset for r in rows] == ["", "small_cnn_zoo"] and all(r.ms > 0 and r.repeats == 1 for r in rows)
    assert rows[1].published is not None and rows[1].parameters == rows[1].published.parameters
    assert [r.shape for r in step_times(subjects(["dws"])[0], networks=2, seconds=0.0)] == [SHAPES["siren"].title]


def test_the_page(tmp_path: Path) -> None:
    golden_file(tmp_path)
    lines: list[str] = []
    found = survey(["statnet"], tmp_path, lines.append, seconds=0.0, networks=2)
    assert json.loads(json.dumps(found))["models"][0]["parity"]["files"] == 1
    text = page(found)
    assert lines == ["[1/1] statnet"]
    assert "| `statnet` | [2302.14040](https://arxiv.org/abs/2302.14040) | permutation |" in text
    assert "| `statnet` | rows of one matrix permuted" in text and "| `one` | PublishedStatNet |" in text
    with pytest.raises(ExperimentError, match="unknown models other; known: native"):
        survey(["other"], None, lines.append)


def test_rows_of_earlier_surveys_are_kept_with_their_commit() -> None:
    def found(commit: str, models: list[str], peers: list[str], **about: object) -> dict[str, Any]:
        rows = [{"name": m, "from": commit} for m in models]
        beside = [{"model": m, "preset": "", "shape": "s", "from": commit} for m in peers]
        return {"models": rows, "peers": beside, "golden": [], "about": {"commit": commit, **about}}

    once = merged(found("1", ["a", "b"], ["a"], machine={"x": 1}), found("2", ["b", "c"], []) | {"golden": None})
    assert [(r["name"], r["from"]) for r in once["models"]] == [("a", "1"), ("b", "2"), ("c", "2")]
    assert once["about"] == {"commit": "2", "kept": {"1": ["a", "a (peers)"]}, "machines": {"1": {"x": 1}}}
    assert once["golden"] == []
    twice = merged(once, found("3", ["c"], ["a"]))
    assert twice["about"] == {"commit": "3", "kept": {"1": ["a"], "2": ["b"]}, "machines": {"1": {"x": 1}, "2": {}}}
    assert [r["from"] for r in twice["peers"]] == ["3"]


def test_models_of_adapters_have_tables_of_their_own() -> None:
    lines: list[str] = []
    found = survey(["lol_flat", "lol_singular_values"], None, lines.append, seconds=0.0, networks=2)
    assert lines == ["[1/2] lol_flat", "[2/2] lol_singular_values"] and not found["models"]
    flat, values = json.loads(json.dumps(found))["adapters"]
    assert flat["claimed"] == [] and flat["blind"] == [] and values["claimed"] == ["GL"]
    seen = {"the update doubled", "A rotated without B", "one rank dropped", "two layers of equal size exchanged"}
    assert set(values["blind"]) == set(adapters.CHANGES) - seen  # what leaves the singular values as they are
    text = page(found)
    assert "| `lol_singular_values` | [2410.04207](https://arxiv.org/abs/2410.04207) | GL |" in text
    assert "| `lol_flat` | nothing | nothing | nothing |" in text and "| `lol_flat` | LoRA of 4 layers" in text


def test_changes_of_adapters_change_the_update() -> None:
    """A constant is blind to all of them, in all networks."""
    subject = Subject("constant", frozenset(), "", "", {}, lambda **_: Constant())
    found = adapters.sights(subject)
    assert set(found) == set(adapters.CHANGES)
    assert {(s.word, s.of) for s in found.values()} == {("blind", NETWORKS * SEEDS)}


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page_file = tmp_path / "table.md"
    words = ["graphnfn", "baselines", "flat_mlp", "-o", str(page_file), "--seconds", "0"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and "[1/1] flat_mlp" in capsys.readouterr().out
    assert "not measured" in page_file.read_text() and json.loads(page_file.with_suffix(".json").read_text())["models"]
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("sys.argv", [*words, "--golden", str(tmp_path / "empty")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "holds no golden files" in capsys.readouterr().err
