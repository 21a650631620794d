"""Weights of mkofinas/neural-graphs (commit 1f2b671) for our models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from baselines.errors import BaselineError
from baselines.foreign import Meta, load_strict, official_spec
from baselines.neural_graphs.features import GraphFeatures, Inputs
from baselines.neural_graphs.models import (
    NGGNNAsPublished,
    NGGNNEditorAsPublished,
    NGTransformer,
    NGTransformerEditor,
)
from baselines.neural_graphs.transformer import Sizes

_UNUSED = re.compile(r"construct_graph\.(act_emb|proj_mlp_edge_in)\.|\.avg_deg_lin$")
"""Official tensors without any effect on chains of a zoo that names no activations."""
_RENAMED = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^construct_graph\.pos_embed$", "body.features.positions"),
        (r"^construct_graph\.proj_node_in\.", "body.features.mix_nodes."),
        (r"^construct_graph\.proj_edge_in\.", "body.features.mix_edges."),
        (r"^construct_graph\.proj_bias\.(.*)", r"body.features.node.\1"),
        (r"^construct_graph\.proj_weight\.(.*)", r"body.features.edge.\1"),
        (r"^construct_graph\.proj_mlp_weight\.(.*)", r"body.features.dense.\1"),
        (r"(features\.(?:node|edge|dense))\.0\.b$", r"\1.waves"),
        (r"(features\.(?:node|edge|dense))\.[01]\.(weight|bias)$", r"\1.linear.\2"),
        (r"^gnn\.convs\.(\d+)\.aggr_module\.avg_deg_log$", r"body.gnn.layers.\1.mean_log_degree"),
        (r"^gnn\.convs\.(\d+)\.edge_encoder\.", r"body.gnn.layers.\1.modulate."),
        (r"^gnn\.convs\.(\d+)\.pre_nns\.0\.0\.", r"body.gnn.layers.\1.message."),
        (r"^gnn\.convs\.(\d+)\.post_nns\.0\.0\.", r"body.gnn.layers.\1.combine."),
        (r"^gnn\.convs\.(\d+)\.lin\.", r"body.gnn.layers.\1.out."),
        (r"^gnn\.norms\.", "body.gnn.norms."),
        (r"^gnn\.edge_update\.(\d+)\.lin_e\.", r"body.gnn.updates.\1.own."),
        (r"^gnn\.edge_update\.(\d+)\.lin_s\.", r"body.gnn.updates.\1.source."),
        (r"^gnn\.edge_update\.(\d+)\.lin_t\.", r"body.gnn.updates.\1.target."),
        (r"^gnn\.edge_update\.(\d+)\.lin1\.", r"body.gnn.updates.\1.out."),
        (r"^layers\.", "body.layers."),
        (r"\.self_attn\.qkv_", ".attention.of_"),
        (r"\.self_attn\.proj_out\.", ".attention.out."),
        (r"^(body\.layers\.\d+)\.lin0\.", r"\1.mix."),
        (r"\.(?:node_|e)ln0\.", ".first_norm."),
        (r"\.(?:node_|e)ln1\.", ".second_norm."),
        (r"\.node_mlp\.", ".mlp."),
        (r"\.edge_updates\.", ".edges."),
        (r"\.edge_mlp1\.", ".mlp."),
        (r"\.edge_mlp0\.lin0_e\.", ".own."),
        (r"\.edge_mlp0\.lin0_s\.", ".source."),
        (r"\.edge_mlp0\.lin0_t\.", ".target."),
        (r"\.edge_mlp0\.lin1\.", ".out."),
        (r"^proj_out\.", "head."),
        (r"^proj_(node|edge)\.", r"of_\1."),
    )
)
_ONLY = {
    "pooling_method": "cat", "pooling_layer_idx": "last", "node_update_type": "rt", "disable_edge_updates": False,
    "use_ln": True, "modulate_v": True, "use_cls_token": False, "normalize": False,
    "zero_out_bias": False, "zero_out_weights": False, "use_pos_embed": True, "input_layers": 1,
    "num_probe_features": 0, "flattening_method": None,
    "aggregators": ["mean", "min", "max", "std"], "scalers": ["identity", "amplification"], "norm": "layernorm",
    "act": "silu", "update_edge_attr": True, "modulate_edges": True, "gating_edges": False, "final_edge_update": False,
}  # fmt: skip


def from_official(meta: Meta, state: Mapping[str, Tensor]) -> nn.Module:
    """Our model, as published, with official weights.

    Args:
        meta: class path, constructor and architecture, see :mod:`baselines.foreign`.
        state: the official state dict.

    Raises:
        BaselineError: weights that do not fit, or settings without a counterpart.
    """
    given = meta["constructor"]
    graph, backbone = given["graph_constructor"], given.get("gnn_backbone", {})
    for part in (given, graph, backbone):
        other = {k: part[k] for k, only in _ONLY.items() if k in part and part[k] != only}
        if other:
            raise BaselineError(f"official settings {other} are not supported: give { ({k: _ONLY[k] for k in other}) }")
    stats = graph.get("stats") or given.get("stats") or {}
    inputs = Inputs(
        frequencies=graph["sin_emb_dim"] if graph["sin_emb"] else 0,
        sigma=graph["inp_factor"],
        reverse=given["rev_edge_features"],
        dense_apart=not graph.get("linear_as_conv", True),
        normalize=stats.get("weights_mean") is not None,
    )
    net = _build(meta, {"inputs": inputs, **_sizes(given, backbone)})
    scales = {
        kind: torch.stack([state[f"{kind[:-1]}.{i}"] for i in range(len(net.weight_scales))])
        for kind in ("weight_scales", "bias_scales")
        if isinstance(net, (NGGNNEditorAsPublished, NGTransformerEditor)) and f"{kind[:-1]}.0" in state
    }
    renamed = {}
    for name, tensor in state.items():
        if not _UNUSED.search(name) and not name.startswith(("weight_scale.", "bias_scale.")):
            for pattern, ours in _RENAMED:
                name = pattern.sub(ours, name)
            renamed[name] = tensor
    features = net.body.features
    assert isinstance(features, GraphFeatures)
    net.to(next(iter(state.values()), torch.empty(0)).dtype)
    if inputs.normalize:
        _set_statistics(features, stats)
    kept = {
        k: v for k, v in net.state_dict().items() if k.startswith(("body.features.weight_s", "body.features.bias_s"))
    }
    load_strict(net, {**renamed, **scales, **kept})
    return net


def _sizes(given: Mapping[str, Any], backbone: Mapping[str, Any]) -> dict[str, Any]:
    if backbone:
        return {"width": given["d_hid"], "layers": backbone["num_layers"]}
    hidden = given["d_attn_hid"], given["d_node_hid"], given["d_edge_hid"]
    sizes = Sizes(given["d_node"], given["d_edge"], *hidden, given["n_heads"])
    return {"sizes": sizes, "layers": given["n_layers"], "dropout": given["dropout"]}


def _build(meta: Meta, settings: dict[str, Any]) -> Any:
    specs, name, given = [official_spec(meta)], meta["class_path"].rpartition(":")[2], meta["constructor"]
    if name == "GNNParams":
        return NGGNNEditorAsPublished(specs, **settings)
    if name == "RelationalTransformerParams":
        return NGTransformerEditor(specs, **settings)
    if name in ("GNNForClassification", "GNNForGeneralization"):
        return NGGNNAsPublished(specs, given["d_out"], **settings)
    layers = 3 if name == "DynamicRelationalTransformer" else 2
    return NGTransformer(specs, given["d_out"], head_width=given["d_out_hid"], head_layers=layers, **settings)


def _set_statistics(features: GraphFeatures, stats: Mapping[str, Any]) -> None:
    for kind, scales in (("weights", features.weight_scales), ("biases", features.bias_scales)):
        for scale, mean, std in zip(scales, stats[f"{kind}_mean"], stats[f"{kind}_std"], strict=True):
            scale.load_state_dict(
                {"count": torch.tensor(1.0), "mean": torch.tensor([mean]), "squares": torch.tensor([std]).double() ** 2}
            )
