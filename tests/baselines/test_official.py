"""Official weights: strict loading, clear errors, StatNN of the NFN paper's code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from baselines.errors import BaselineError
from baselines.foreign import official_spec
from baselines.official import load_official, official_classes
from baselines.statnet import PublishedStatNet, StatNet
from baselines.weight_space import chain_form
from experiments.tasks import FractionTask
from graphnfn.chain import mlp_spec
from graphnfn.testing import assert_batch_independent, assert_equivariant, equivariance_error, random_graph

STATNET = "AllanYangZhou/nfn/experiments/models.py:StatNet"
SPEC = mlp_spec([2, 6, 5, 3], "relu")
SETTINGS = {"h_size": 4, "dropout": 0.0, "sigmoid": True, "normalize": False}


def statnet_weights() -> dict[str, torch.Tensor]:
    sizes = {2: (4, 42), 5: (4, 4), 8: (1, 4)}
    out = {f"hypernetwork.{i}.weight": torch.randn(shape) for i, shape in sizes.items()}
    return out | {f"hypernetwork.{i}.bias": torch.randn(shape[0]) for i, shape in sizes.items()}


@pytest.mark.shared
@pytest.mark.parametrize("data", "BC")
def test_official_statnet(peer: Callable, data: str) -> None:
    file = peer(f"nfn_statnn_{data}")
    model = file.load()
    assert sum(p.numel() for p in model.parameters()) == file.meta["parameters"]
    for given in ("input", "input_g"):
        assert file.error(model(file.graph(given)), given.replace("input", "output")) <= 1


@pytest.mark.shared
def test_a_changed_weight_is_noticed(peer: Callable) -> None:
    file = peer("nfn_statnn_B")
    file.tensors["param/hypernetwork.2.weight"][0, 1] += 1e-3
    assert file.error(file.load()(file.graph())) > 1


def test_statnet_claims_permutations_only() -> None:
    graph = random_graph(SPEC, networks=3)
    model = StatNet([SPEC], 2, hidden=8).double().eval()
    assert_equivariant(model, graph, symmetry="permutation", tol=1e-12)
    assert_batch_independent(model, graph.to_data_list(), tol=1e-12)
    assert equivariance_error(model, graph, decades=2.0) > 1e-3
    assert StatNet.symmetry == {"permutation"}


@torch.no_grad()
def test_a_sigmoid_is_behind_the_published_statnet_only() -> None:
    """A loss of fractions has its own: behind two of them all predictions are above 1/2."""
    graph = random_graph(SPEC, networks=64, seed=2)
    torch.manual_seed(0)
    model, published = StatNet([SPEC], 1, hidden=8).double(), PublishedStatNet([SPEC], 1, hidden=8).double()
    published.load_state_dict(model.state_dict())
    out = model(graph) - model(graph).mean()
    torch.testing.assert_close(published(graph), torch.sigmoid(model(graph)))
    task = FractionTask("score")
    assert float(task.predict(out).min()) < 0.5 < float(task.predict(out).max())
    assert float(task.predict(published(graph)).min()) > 0.5


def test_unknown_classes_are_refused() -> None:
    assert STATNET in official_classes()
    with pytest.raises(BaselineError, match="no loader for 'a/b/c.py:D'; known: .*StatNet"):
        load_official("a/b/c.py:D", {}, {}, specs=[SPEC])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("hypernetwork.2.bias"), "missing .'bias'."),
        (lambda s: s.update({"other.weight": torch.ones(1)}), "unknown entries .'other.weight'."),
        (lambda s: s.update({"hypernetwork.5.scale": torch.ones(1)}), "unknown .'scale'."),
        (lambda s: s.update({"hypernetwork.5.weight": torch.ones(4, 3)}), r"\(4, 3\), \(4, 4\)"),
        (lambda s: s.update({"hypernetwork.2.weight": torch.ones(4, 7)}), "expected 42 statistics; got weights for 7"),
    ],
)
def test_weights_that_do_not_fit(change: Callable, words: str) -> None:
    state = statnet_weights()
    assert isinstance(load_official(STATNET, SETTINGS, state, specs=[SPEC]), StatNet)
    change(state)
    with pytest.raises(BaselineError, match=words):
        load_official(STATNET, SETTINGS, state, specs=[SPEC])


def test_settings_that_were_not_published() -> None:
    with pytest.raises(BaselineError, match="expected sigmoid=True"):
        load_official(STATNET, SETTINGS | {"normalize": True}, statnet_weights(), specs=[SPEC])


def test_the_architecture_is_read_from_shapes() -> None:
    facts = {"weight_shapes": [[4, 1, 3, 3], [5, 4, 3, 3], [2, 5]], "activation": "sin(30 x)"}
    spec = official_spec({"input_architecture": facts})
    assert chain_form(spec).widths == (1, 4, 5, 2) and chain_form(spec).taps == ((3, 3), (3, 3), ())
    assert (spec.groups[1].activations[0].name, spec.groups[1].activations[0].param) == ("sin", 30.0)
    with pytest.raises(BaselineError, match="give specs="):
        official_spec({})
