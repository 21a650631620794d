"""Graphs as files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

import graphnfn as gn
from graphnfn import testing
from graphnfn.chain import mlp_spec, small_cnn_spec


def batch():
    specs = [mlp_spec([2, 4, 1], "sin", omega=30.0), small_cnn_spec([1, 3, 3], 2, "prelu"), mlp_spec([2, 4, 1], "relu")]
    return gn.NeuralGraph.batch([testing.random_graph(s, seed=i, dtype=torch.float32) for i, s in enumerate(specs * 2)])


def test_round_trip(tmp_path):
    graph = batch()
    gn.save(graph, tmp_path / "graph.safetensors")
    back = gn.load(tmp_path / "graph.safetensors")
    assert back.specs == graph.specs
    assert torch.equal(back.x, graph.x) and torch.equal(back.edge_attr, graph.edge_attr)
    assert [p.name for p in tmp_path.iterdir()] == ["graph.safetensors"]


def test_errors(tmp_path):
    with pytest.raises(gn.GraphNFNError, match="no such file"):
        gn.load(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(gn.GraphNFNError, match="no graphnfn graph"):
        gn.load(tmp_path / "other.safetensors")
    gn.save(batch(), tmp_path / "graph.safetensors")
    data = (tmp_path / "graph.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(gn.GraphNFNError, match="damaged"):
        gn.load(tmp_path / "cut.safetensors")
    with pytest.raises(gn.GraphNFNError, match="folder"):
        gn.save(batch(), tmp_path / "missing" / "graph.safetensors")


def test_nothing_half_written(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("graphnfn.io.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        gn.save(batch(), tmp_path / "graph.safetensors")
    assert not list(tmp_path.iterdir())
