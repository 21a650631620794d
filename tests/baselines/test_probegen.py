"""ProbeGen: only the function of a network is seen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines import BaselineError, build, probegen
from baselines.official import load_official
from baselines.probegen import ProbeGen
from converters import convert
from graphnfn import NeuralGraph
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.functional import run
from graphnfn.spec import NetSpec
from graphnfn.testing import assert_equivariant, assert_separates, random_graph

CNN = small_cnn_spec([1, 8, 8, 8], 3, "relu", input_shape=(1, 12, 12))


def _parameters(model: ProbeGen, probes: int, outputs: int, out: int) -> int:
    """Codes, two generators by hand, and the MLP of six layers and width 256."""
    if model.codes.dim() == 2:
        made = probes * 32 + (32 * 32 + 32) + (32 + 1) * model.ends[0][0]
    else:
        w, c = 16, model.ends[0][0]
        steps = ((32, 8 * w, 4), (8 * w, 4 * w, 4), (4 * w, 2 * w, 4), (2 * w, 2 * w, 3), (2 * w, w, 4), (w, c, 3))
        made = probes * 32 + sum(a * b * k * k + b for a, b, k in steps)
    return made + probes * outputs * 256 + 256 + 4 * (256 * 256 + 256) + 256 * out + out


@pytest.mark.parametrize("spec", [mlp_spec([2, 6, 6, 1], "sin"), CNN])
def test_parameters(spec) -> None:
    model = ProbeGen([spec], out=10)
    assert sum(p.numel() for p in model.parameters()) == _parameters(model, 128, spec.groups[-1].size, 10)


@pytest.mark.parametrize("spec", [mlp_spec([2, 6, 6, 1], "sin"), mlp_spec([2, 6, 6, 1], "relu"), CNN])
def test_every_symmetry_holds_and_other_functions_differ(spec) -> None:
    torch.manual_seed(0)
    model = ProbeGen([spec], out=3, probes=16).double()
    graph = random_graph(spec, networks=4)
    assert_equivariant(model, graph)
    assert_separates(model, graph)


def test_it_sees_outputs_on_its_probes_only() -> None:
    model = ProbeGen([CNN], out=3, probes=7).double()
    assert model.probes().shape == (7, 1, 12, 12)
    graph = random_graph(CNN, networks=2)
    seen = run(graph, model.probes())
    torch.testing.assert_close(model(graph), model.predict(seen.flatten(1)))
    model(graph).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and (p.grad != 0).any() for p in model.parameters())


def test_networks_run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, graph = ProbeGen([CNN], out=3, probes=7).double(), random_graph(CNN, networks=5)
    whole = model(graph)
    sizes: list[int] = []

    def counted(stack, inputs):
        sizes.append(stack.size)
        return run(stack, inputs)

    monkeypatch.setattr(probegen, "run", counted)
    monkeypatch.setattr(probegen, "_PIECE", 2 * 7 * 144 * 8)
    torch.testing.assert_close(model(graph), whole)
    assert sizes == [2, 2, 1]


def test_hidden_layers_may_differ() -> None:
    specs = [mlp_spec([2, 6, 6, 1], "sin"), mlp_spec([2, 9, 1], "tanh")]
    model = build("probegen", out=3, specs=specs, probes=8)
    a, b = (random_graph(s, networks=1, dtype=torch.float32) for s in specs)
    both = model(NeuralGraph.batch([a, b]))
    torch.testing.assert_close(both, torch.cat([model(a), model(b)]))


def test_what_it_cannot_run() -> None:
    with pytest.raises(BaselineError, match=r"got inputs and outputs \(\(3,\), 1\), expected \(\(2,\), 1\)"):
        ProbeGen([mlp_spec([2, 4, 1], "relu"), mlp_spec([3, 4, 1], "relu")], out=1)
    block = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    with pytest.raises(BaselineError, match="traced network"):
        ProbeGen([convert(block, example_input=torch.randn(1, 3, 8)).spec], out=1)
    bare = convert({"0.weight": torch.randn(4, 1, 3, 3), "2.weight": torch.randn(2, 4, 3, 3)}, activation="relu")
    with pytest.raises(BaselineError, match="stride and padding of"):
        ProbeGen([bare.spec], out=1)


OFFICIAL = "jonkahana/ProbeGen/ProbeGen.py:ProbeGen"


def _official(spec: NetSpec, kind: str) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Arguments and a state dict in the official names, of random weights."""
    settings = {"n_tokens": 4, "d_hidden": 8, "d_out": 3, "gen_type": kind, "gen_latent_z": 5, "gen_width": 2}
    own = ProbeGen([spec], out=3, probes=4, latent=5, generator=2, hidden=8).double().state_dict()
    place = "tokens_generator.main." if kind == "deep_linear_6" else "tokens_generator."
    names = {"codes": "input", "generate.": place, "predict.": "points_mixer."}
    state = {}
    for name, value in own.items():
        start = next(s for s in names if name.startswith(s))
        state[names[start] + name.removeprefix(start)] = torch.randn_like(value)
    return settings, state


def test_official_weights_of_a_picture_generator() -> None:
    """The published forward pass, written out: transposed convolutions, tanh, the network, an MLP."""
    spec = small_cnn_spec([1, 8, 8], 3, "relu", input_shape=(1, 32, 32))
    settings, state = _official(spec, "deep_linear_6")
    model = load_official(OFFICIAL, settings, state, specs=[spec]).double()
    x = state["input"]
    for i, (_, stride, padding) in enumerate(((4, 1, 0), (4, 2, 1), (4, 2, 1), (3, 1, 1), (4, 2, 1), (3, 1, 1))):
        weights = (state[f"tokens_generator.main.{i}.{end}"] for end in ("weight", "bias"))
        x = F.conv_transpose2d(x, *weights, stride=stride, padding=padding)
    graph = random_graph(spec, networks=2)
    y = run(graph, x.tanh()).flatten(1)
    for i in range(0, 11, 2):
        y = F.linear(y if i == 0 else y.relu(), state[f"points_mixer.{i}.weight"], state[f"points_mixer.{i}.bias"])
    torch.testing.assert_close(model(graph), y, rtol=1e-9, atol=1e-9)


def test_official_weights_of_vectors_and_those_that_do_not_fit() -> None:
    spec = mlp_spec([2, 6, 1], "sin")
    settings, state = _official(spec, "linear_2_no_acts")
    model = load_official(OFFICIAL, settings, state, specs=[spec])
    assert isinstance(model, ProbeGen) and torch.equal(model.codes, state["input"])
    want = state["input"]
    for i in (0, 1):
        want = F.linear(want, state[f"tokens_generator.{i}.weight"], state[f"tokens_generator.{i}.bias"])
    torch.testing.assert_close(model.probes(), want)
    with pytest.raises(BaselineError, match="unknown entries .'other'."):
        load_official(OFFICIAL, settings, state | {"other": torch.ones(1)}, specs=[spec])
    with pytest.raises(BaselineError, match="expected gen_type deep_linear_6 or linear_2_no_acts; got 'deep_linear_5'"):
        load_official(OFFICIAL, settings | {"gen_type": "deep_linear_5"}, state, specs=[spec])
