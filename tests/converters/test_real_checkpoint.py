"""A real checkpoint: converted, moved, restored, loaded; same logits."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import graphnfn as gn
from converters import convert, restore
from graphnfn import testing


class Handwriting(nn.Module):
    """The architecture that the checkpoint's keys and shapes describe."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for into, out in ((1, 32), (32, 64), (64, 128)):
            parts += [nn.Conv2d(into, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.conv = nn.Sequential(*parts)
        self.fc = nn.Sequential(nn.Linear(1152, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x):
        x = self.conv(x)
        return self.fc(x.view(x.size(0), -1))


@pytest.fixture
def network(handwriting_checkpoint):
    """The module with the checkpoint's weights, whatever the names of its parts."""
    state = torch.load(handwriting_checkpoint, weights_only=True)
    module = Handwriting()
    own = module.state_dict()
    assert [v.shape for v in own.values()] == [v.shape for v in state.values()]
    module.load_state_dict(dict(zip(own, state.values(), strict=True)))
    return module.eval()


@pytest.fixture(scope="module")
def images():
    """Real digits, enlarged to the size that the network takes."""
    pixels, _ = load_digits(return_X_y=True)
    small = torch.tensor(pixels[:64], dtype=torch.float32).view(-1, 1, 8, 8) / 16
    return (nn.functional.interpolate(small, (28, 28), mode="bilinear") - 0.1307) / 0.3081


def test_module_round_trip(network, images):
    graph = convert(network)
    testing.assert_roundtrip(network, convert, restore)
    moved = gn.act(gn.random_element(graph.spec, decades=2.0, seed=0), graph)
    with torch.no_grad():
        expected = network(images)
        network.load_state_dict(restore(moved, like=network))
        got = network(images)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not torch.equal(moved.edge_attr, graph.edge_attr)


def test_bare_file_round_trip(handwriting_checkpoint, network, images):
    graph = convert(handwriting_checkpoint, activation="relu")
    state = torch.load(handwriting_checkpoint, weights_only=True)
    back = restore(graph, like=handwriting_checkpoint)
    assert list(back) == list(state)
    assert all(torch.equal(back[k], v) for k, v in state.items())
    assert [g.size for g in graph.spec.groups] == [1, 32, 64, 128, 256, 10]
    moved = gn.act(gn.random_element(graph.spec, decades=2.0, seed=1), graph)
    with torch.no_grad():
        expected = network(images)
        restored = restore(moved, like=handwriting_checkpoint)
        network.load_state_dict(dict(zip(network.state_dict(), restored.values(), strict=True)))
        got = network(images)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_it_is_a_trained_network(network, images):
    """On enlarged 8x8 digits it is far above chance, so the test above speaks of a real function."""
    labels = torch.tensor(load_digits(return_X_y=True)[1][:64])
    assert (network(images).argmax(1) == labels).float().mean() > 0.5
