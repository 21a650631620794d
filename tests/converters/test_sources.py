"""The same network from every source."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import graphnfn as gn
from converters import convert, restore
from graphnfn.activations import Activation
from graphnfn.functional import run


class Sine(nn.Module):
    def __init__(self, omega: float) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, x):
        return torch.sin(self.omega * x)


def siren():
    return nn.Sequential(nn.Linear(2, 8), Sine(30.0), nn.Sequential(nn.Linear(8, 8), Sine(15.0)), nn.Linear(8, 1))


def relu_mlp():
    return nn.Sequential(*(layer for i in range(11) for layer in (nn.Linear(3, 3), nn.ReLU())), nn.Linear(3, 2))


def test_sine_modules_tell_their_frequency():
    graph = convert(siren())
    assert [g.activations[0] for g in graph.spec.groups[1:3]] == [Activation("sin", 30.0), Activation("sin", 15.0)]
    assert all(g.half_turns for g in graph.spec.groups[1:3])


def test_state_dict_safetensors_and_pth_agree(tmp_path):
    module = relu_mlp()
    state = module.state_dict()
    save_file(state, tmp_path / "m.safetensors")  # sorts names as text: layer 10 before layer 2
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "m.pth")
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "ddp.pt")
    graph = convert(module)
    x = torch.randn(5, 3)
    for source in (state, tmp_path / "m.safetensors", str(tmp_path / "m.pth"), tmp_path / "ddp.pt"):
        other = convert(source, activation="relu")
        torch.testing.assert_close(run(other, x), run(graph, x))
        back = restore(other, like=source)
        assert all(torch.equal(a, b) for a, b in zip(back.values(), restore(other, like=source).values(), strict=True))
        assert sorted(k.removeprefix("module.") for k in back) == sorted(state)


def test_parts_in_alphabetical_order_are_put_in_chain_order(tmp_path):
    module = nn.Module()
    module.features, module.classifier = nn.Conv2d(1, 4, 3), nn.Linear(16, 5)
    save_file(module.state_dict(), tmp_path / "m.safetensors")
    graph = convert(tmp_path / "m.safetensors", activation="relu")
    assert [g.id for g in graph.spec.groups] == ["input", "features", "classifier"]
    assert graph.spec.blocks[1].taps == (2, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_come_back(dtype):
    module = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)).to(dtype)
    module[1].float()
    back = restore(convert(module), like=module)
    for name, value in module.state_dict().items():
        assert back[name].dtype == value.dtype and torch.equal(back[name], value), name


def test_sources_are_left_alone():
    module = siren()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    graph = convert(module)
    graph.edge_attr.mul_(2.0)
    restore(graph, like=module)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_saved_graphs_are_sources_too(tmp_path):
    graph = convert(siren())
    gn.save(graph, tmp_path / "graph.safetensors")
    assert torch.equal(convert(tmp_path / "graph.safetensors").edge_attr, graph.edge_attr)


def test_prelu_and_norms_from_a_state_dict():
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.PReLU(3), nn.Flatten(), nn.Linear(27, 2)).eval()
    graph = convert(module.state_dict(), activation="relu")
    assert str(graph.spec.groups[1].activations[0]) == "prelu" and graph.spec.groups[1].norm_eps == 1e-5
    assert graph.spec.blocks[1].taps == (3, 3)
