"""Nothing is claimed that does not hold: wrong rules are caught, unknown operators fix what is around them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from converters.gauge import calls, rules_linear
from converters.gauge.rules_pointwise import homogeneous

ROWS = (torch.randn(3, 6, generator=torch.Generator().manual_seed(0)),)
IMAGE = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def test_a_scale_through_gelu_is_caught(monkeypatch, find_law):
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 2))
    assert max(find_law(net, *ROWS).errors().values()) < 1e-12
    monkeypatch.setitem(calls.RULES, "gelu", homogeneous)
    found = find_law(net, *ROWS)
    assert found.summary() == ["8 permutation positive"]
    assert min(found.errors().values()) > 1e-3


def test_a_permutation_across_groups_is_caught(monkeypatch, find_law):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 1, groups=2), nn.ReLU(), nn.Conv2d(12, 2, 1))
    assert max(find_law(net, *IMAGE).errors().values()) < 1e-12

    def no_groups(c, x, weight, groups):
        return weight.factor(0).on(1)

    monkeypatch.setattr(rules_linear, "_grouped", no_groups)
    found = find_law(net, *IMAGE)
    assert "12 permutation positive" in found.summary()
    assert min(found.errors().values()) > 1e-3


def test_heads_without_bundles_are_caught(monkeypatch, find_law):
    """Contractions that forget which channels belong to one head."""
    net = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    x = torch.randn(2, 5, 8)
    assert max(find_law(net, x).errors().values()) < 1e-12
    monkeypatch.setattr("converters.gauge.system.System.bundles", lambda self, atoms: self.atoms(*atoms.shape[:-1]))
    assert max(find_law(net, x).errors().values()) > 1e-3


class Unknown(nn.Module):
    """A function without a rule in the middle."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.d(torch.tanh(self.c(torch.special.bessel_j0(self.b(F.relu(self.a(x)))))))


def test_unknown_operators_fix_their_neighbours_only(assert_law):
    found = assert_law(Unknown(), ROWS, ["8 permutation positive", "5 permutation sign"], unknown=1)
    assert "bessel_j0" in found.law.notes[0]
    fixed = next(g for g in found.law.groups if g.size == 7)
    assert not fixed.permutable and "bessel_j0 is not supported" in fixed.reason


class Written(nn.Module):
    def __init__(self, write):
        super().__init__()
        self.a, self.b, self.write = nn.Linear(6, 8), nn.Linear(8, 2), write

    def forward(self, x):
        return self.b(self.write(self.a(x)))


def write_to_alias(z):
    y = z
    z.relu_()
    return y * 2 + z


def write_to_view(z):
    z[:, :4].tanh_()
    return z


def write_number(z):
    z[:, 3] = 1.0
    return torch.relu(z)


def write_over(z):
    y = torch.zeros_like(z)
    y[:, :4] = torch.relu(z[:, :4])
    y[:, 4:] += torch.tanh(z[:, 4:])
    return y


def read_before(z):
    y = z[:, :4]
    z.mul_(z)
    return torch.cat([y, z[:, 4:]], 1)


@pytest.mark.parametrize("write", [write_to_alias, write_to_view, write_number, write_over, read_before])
def test_writing_in_place(write, find_law):
    errors = find_law(Written(write), *ROWS).errors()
    assert max(errors.values()) <= 1e-9


def test_reasons_say_what_is_in_the_way(find_law):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.GELU(), nn.Conv2d(5, 6, 1), nn.Tanh(),
        nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    law = find_law(net, *IMAGE).law
    before, after = law.gauges_of["0"]
    assert (before.kind, after.kind) == ("nonzero", "positive")
    assert before.reason == "not linear: the running variance; the weight of a norm"
    assert after.reason.startswith("no sign: ") and "relu allows positive scales only" in after.reason
    assert law.by_id["3"].reason == "no scale, no sign: gelu allows no scale"
    assert law.gauges_of["5"][0].reason == "no scale: tanh allows signs only"
