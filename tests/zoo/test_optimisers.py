"""The stacked optimisers against torch.optim, network by network."""

from __future__ import annotations

import pytest
import torch

from experiments.zoos import optimisers
from experiments.zoos.optimisers import RULES, StackedOptimiser
from graphnfn.errors import ZooError

REFERENCE = {
    "sgd": lambda p, lr, wd: torch.optim.SGD(p, lr=lr, weight_decay=wd, momentum=0.9),
    "adam": lambda p, lr, wd: torch.optim.Adam(p, lr=lr, weight_decay=wd),
    "rmsprop": lambda p, lr, wd: torch.optim.RMSprop(p, lr=lr, weight_decay=wd),
}


def _gradient(theta: torch.Tensor) -> torch.Tensor:
    """Of a bent bowl."""
    return theta.sin() + 0.3 * theta


def test_every_rule_is_tested() -> None:
    assert set(RULES) == set(REFERENCE)


@pytest.mark.parametrize("compiled", [True, False])
def test_mixed_rules_agree_with_torch(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(optimisers, "can_compile", lambda _: False)
    kinds = ["adam", "sgd", "rmsprop", "adam", "sgd"]
    rates, decays = torch.logspace(-3, -1, 5), torch.tensor([0.0, 1e-2, 1e-3, 0.1, 0.0])
    start = torch.randn(5, 7, dtype=torch.float64)
    theta, stacked = start.clone(), StackedOptimiser(kinds, rates.double(), decays.double())
    singles = [torch.nn.Parameter(row.clone()) for row in start]
    references = [
        REFERENCE[kind]([p], float(lr), float(wd))
        for kind, p, lr, wd in zip(kinds, singles, rates.double(), decays.double(), strict=True)
    ]
    for step in range(30):
        active = 5 if step < 20 else 3  # the last two are done
        stacked.step(theta[:active], _gradient(theta[:active]))
        for single, optimiser in list(zip(singles, references, strict=True))[:active]:
            single.grad = _gradient(single.detach())
            optimiser.step()
    expected = torch.stack([p.detach() for p in singles])
    torch.testing.assert_close(theta, expected, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(theta[1], theta[4])  # the rows do differ in their settings


def test_unknown_kind() -> None:
    with pytest.raises(ZooError, match="lion"):
        StackedOptimiser(["lion"], torch.ones(1), torch.ones(1))
