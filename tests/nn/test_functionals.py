"""Linear functionals of fields: exact under the whole group, right numbers, and of coordinate networks only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import graphnfn as gn
from graphnfn import testing
from graphnfn.chain import mlp_spec
from graphnfn.errors import SpecError
from graphnfn.nn.field_reader import CELLS, FLOOR, middles
from graphnfn.nn.functionals import PACE, TERMS, FieldFunctionals
from graphnfn.nn.taps import Sizes
from graphnfn.spec import NetSpec
from graphnfn.stack import Stack

LINE = mlp_spec([1, 6, 5, 2], "tanh")
PLANE = mlp_spec([2, 6, 5, 1], "sin", omega=30.0)
SPACE = mlp_spec([3, 6, 1], "relu")
CLASSIFIER = mlp_spec([7, 6, 2], "relu")
COORDINATES = pytest.mark.parametrize("spec", [LINE, PLANE, SPACE], ids=["line", "plane", "space"])


def fitted(*specs: NetSpec, layer: str = "probes") -> gn.GraphMetaNet:
    torch.manual_seed(0)
    config = gn.MetaNetConfig(width=6, layer=layer, out=3, functionals=True)  # type: ignore[arg-type]
    model = gn.GraphMetaNet(config, specs=specs).double()
    model.fit([testing.random_graph(spec, networks=20, seed=9) for spec in specs])
    for linear in functionals_of(model).predict.values():
        torch.nn.init.normal_(linear.weight)
    return model.eval()


def functionals_of(model: gn.GraphMetaNet) -> FieldFunctionals:
    assert model.functionals is not None
    return model.functionals


class OfWeights(FieldFunctionals):
    """Reads weights in place of the field: it must fail where there is a symmetry."""

    def seen(self, stack: Stack) -> Tensor:
        rows = super().seen(stack)
        return rows + stack.blocks[0].flatten(1)[:, :1]


@COORDINATES
@pytest.mark.parametrize("layer", ["probes", "complete", "native"])
def test_exact_under_the_group(spec: NetSpec, layer: str) -> None:
    graph, model = testing.random_graph(spec, networks=3), fitted(spec, layer=layer)
    testing.assert_equivariant(model, graph)
    torch.testing.assert_close(model.forward_on_edges(graph), model(graph), rtol=1e-9, atol=1e-9)


@COORDINATES
def test_weights_are_caught(spec: NetSpec) -> None:
    model = fitted(spec)
    wrong = OfWeights(3, Sizes.of([spec])).double()
    wrong.fit(testing.random_graph(spec, networks=20, seed=9).stacks())  # type: ignore[arg-type]
    torch.nn.init.normal_(next(iter(wrong.predict.values())).weight)
    model.functionals = wrong
    with pytest.raises(AssertionError):
        testing.assert_equivariant(model, testing.random_graph(spec, networks=2))


@COORDINATES
def test_numbers_are_those_of_numpy(spec: NetSpec) -> None:
    graph = testing.random_graph(spec, networks=12)
    (stack,) = graph.stacks()
    module = FieldFunctionals(4, Sizes.of([spec])).double()
    module.fit([stack])
    inputs = middles(spec.groups[0].size).double()
    rows = np.stack([_run(stack, k, inputs).T.ravel() for k in range(12)])
    centred = rows - rows.mean(0)
    _, sizes, parts = np.linalg.svd(centred / 12**0.5, full_matrices=False)
    want = PACE * centred @ parts.T / np.sqrt(sizes**2 + (FLOOR * sizes[0]) ** 2)
    rank = spec.groups[0].size
    got = (module.seen(stack) - module.get_buffer(f"mean{rank}")) @ module.get_buffer(f"basis{rank}")
    assert got.shape == (12, min(TERMS, CELLS[rank] ** rank * spec.groups[-1].size))
    np.testing.assert_allclose(got[:, :11].abs(), abs(want[:, :11]), atol=1e-4)  # a component's sign is free
    assert not got[:, 12:].any()


def _run(stack: Stack, network: int, inputs: Tensor) -> np.ndarray:
    state, spec, x = stack.unpack(), stack.spec, inputs.numpy()
    known = {"sin": lambda z: np.sin(30 * z), "tanh": np.tanh, "relu": lambda z: z.clip(0), "identity": lambda z: z}
    for block, bias, group in zip(spec.blocks, spec.node_params, spec.groups[1:], strict=True):
        x = x @ state[block.param][network].numpy().T + state[bias.param][network].numpy()
        x = known[group.activations[0].name](x)
    return x


def test_a_mean_is_a_linear_functional() -> None:
    """Of networks that were not fitted to; a map of as many numbers of raw weights has no chance."""
    train, test = (testing.random_graph(SPACE, networks=n, seed=s) for n, s in ((600, 0), (200, 1)))
    module = FieldFunctionals(1, Sizes.of([SPACE])).double()
    module.fit(train.stacks())  # type: ignore[arg-type]

    def left(features: list[Tensor]) -> float:
        labels = [module.seen(g.stacks()[0]).mean(1) for g in (train, test)]  # type: ignore[arg-type]
        found = torch.linalg.lstsq(torch.cat([features[0], torch.ones(600, 1)], 1), labels[0][:, None]).solution
        error = torch.cat([features[1], torch.ones(200, 1)], 1) @ found - labels[1][:, None]
        return float(error.square().mean() / labels[1].var())

    fields = [(module.seen(g.stacks()[0]) - module.mean3) @ module.basis3[:, :60] for g in (train, test)]  # type: ignore
    weights = [torch.cat([t.flatten(1) for t in g.stacks()[0].blocks], 1) for g in (train, test)]
    assert left(fields) < 1e-2 < 0.3 < left(weights)


def test_silent_at_first_and_without_a_fit() -> None:
    graph = testing.random_graph(PLANE, networks=3, dtype=torch.float32)
    torch.manual_seed(0)
    with_it = gn.GraphMetaNet(gn.MetaNetConfig(width=6, layer="probes", functionals=True), specs=[PLANE])
    torch.manual_seed(0)
    without = gn.GraphMetaNet(gn.MetaNetConfig(width=6, layer="probes"), specs=[PLANE])
    assert torch.equal(with_it(graph), without(graph))
    for model in (with_it, without):
        model.fit([graph])
    assert torch.equal(with_it(graph), without(graph))
    torch.nn.init.ones_(functionals_of(with_it).predict["2"].weight)
    assert not torch.allclose(with_it(graph), without(graph))


def test_other_networks_of_a_mixed_batch_have_none() -> None:
    model = fitted(PLANE, LINE, CLASSIFIER)
    parts = [testing.random_graph(s, networks=2, seed=k) for k, s in enumerate((CLASSIFIER, PLANE, LINE))]
    found = functionals_of(model)(gn.NeuralGraph.batch(parts).stacks())  # type: ignore[arg-type]
    assert not found[:2].any() and bool(found[2:].any(1).all())
    alone = torch.cat([model(part) for part in parts])
    torch.testing.assert_close(model(gn.NeuralGraph.batch(parts)), alone)
    torch.testing.assert_close(model.forward_on_edges(gn.NeuralGraph.batch(parts)), alone, rtol=1e-9, atol=1e-9)
    fresh = gn.GraphMetaNet(model.config, specs=[PLANE, LINE, CLASSIFIER]).double().eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(parts[1]), model(parts[1]))


def test_models_of_other_networks_have_none() -> None:
    model = gn.GraphMetaNet(gn.MetaNetConfig(functionals=True), specs=[CLASSIFIER])
    assert model.functionals is None and not model.fits


def test_editors_read_none() -> None:
    with pytest.raises(SpecError, match="functionals=True with head='edit'"):
        gn.MetaNetConfig(head="edit", functionals=True)
