"""Every baseline batches mixed architectures or refuses them clearly, when it is built and when it is called."""

from __future__ import annotations

import pytest
import torch

import baselines
from baselines import BaselineError
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NetSpec
from graphnfn.testing import random_graph

NAMES = [name for name in baselines.names() if name not in baselines.adapter_names()]
FIRST = mlp_spec([2, 6, 5, 1], "tanh")
OTHERS = {
    "widths": mlp_spec([2, 4, 7, 1], "tanh"),
    "depth": mlp_spec([2, 4, 1], "tanh"),
    "kernels": small_cnn_spec([2, 4, 5], 1, "tanh", stride=2, input_shape=(2, 20, 20)),
    "ends": mlp_spec([3, 6, 5, 2], "tanh"),
}
BATCHED = {
    "widths": set(NAMES) - {"flat_mlp", "flat_mlp_augmented"},
    "depth": {
        "statnn", "statnet", "gmn", "gmn_lim", "dng_like", "nft_like", "scalegmn", "scalegmn_as_published",
        "scalegmn_permutation", "ng_gnn", "ng_t", "probegen",
    },
}  # fmt: skip
BATCHED["kernels"] = BATCHED["depth"] - {"probegen"}
BATCHED["ends"] = {"statnn", "statnet", "gmn", "gmn_lim"}
"""What differs -> baselines that read it; all others must refuse."""


def build(name: str, specs: list[NetSpec]) -> torch.nn.Module:
    settings = {"channels": (8, 8)} if name.startswith("monomial_siren") else {}
    torch.manual_seed(0)
    return baselines.build(name, out=2, specs=specs, **settings).double().eval()


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("name", NAMES)
def test_mixed_architectures(name: str, what: str) -> None:
    specs = [FIRST, OTHERS[what]]
    if name not in BATCHED[what]:
        with pytest.raises(BaselineError):
            build(name, specs)
        return
    model = build(name, specs)
    one, two = (random_graph(spec, seed=i) for i, spec in enumerate(specs))
    together = model(NeuralGraph.batch([two, one]))
    torch.testing.assert_close(together, torch.cat([model(two), model(one)]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_networks_that_a_model_was_not_built_for(name: str) -> None:
    """Read, or refused: no other error."""
    model, refused = build(name, [FIRST]), []
    for what, spec in OTHERS.items():
        try:
            assert model(random_graph(spec)).shape == (1, 2)
        except BaselineError as error:
            refused.append(what)
            assert len(str(error)) > 40
    if name not in ("statnn", "statnet", "gmn_lim"):
        assert {"kernels", "ends"} <= set(refused)
