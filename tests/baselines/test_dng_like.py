"""DNG-like scan: permutations, what it does not claim, mixed batches, a layer by hand, parameters, clear errors."""

from __future__ import annotations

import pytest
import torch

from baselines import build
from baselines.dng_like import LayerScan
from graphnfn.chain import mlp_spec, small_cnn_spec
from graphnfn.spec import NetSpec

MLP, CNN = mlp_spec([3, 8, 7, 2], "tanh"), small_cnn_spec([3, 4, 5, 6], 2, "relu")


def test_one_layer_by_hand() -> None:
    """One output neuron with two inputs, message and cell written out."""
    torch.manual_seed(1)
    scan = LayerScan(4, 1).double()
    h, w, b = torch.randn(1, 2, 4).double(), torch.randn(1, 1, 2, 1).double(), torch.randn(1, 1, 1).double()
    message = sum(scan.of_weight(w[0, 0, i]) * scan.of_state(h[0, i]) for i in range(2)) / 2
    assert isinstance(message, torch.Tensor)
    want = scan.cell(torch.cat([message, scan.of_bias(b[0, 0])]), (h[0, 0] + h[0, 1]) / 2)
    torch.testing.assert_close(scan(h, w, b)[0, 0], want)


@pytest.mark.parametrize(("spec", "taps"), [(MLP, 1), (CNN, 9)])
def test_parameters(spec: NetSpec, taps: int) -> None:
    """Inputs, phi, psi, beta, GRU (three gates on 2d + d numbers with two biases each), head."""
    d, inputs, outputs, out = 16, 3, 2, 5
    phi, psi, beta = (taps + 1) * d + (d + 1) * d, (d + 1) * d, 2 * d + (d + 1) * d
    gru, head = 3 * (3 * d * d + 2 * d), (outputs * d + 1) * d + (d + 1) * out
    model = build("dng_like", out=out, specs=[spec], width=d)
    assert sum(p.numel() for p in model.parameters()) == inputs * d + phi + psi + beta + gru + head
