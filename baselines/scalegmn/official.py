"""Weights trained with the official ScaleGMN code (jkalogero/scalegmn) in our modules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from baselines.errors import BaselineError
from baselines.foreign import Meta, load_strict, official_spec
from baselines.scalegmn.encoder import Design
from baselines.scalegmn.models import (
    PermutationScaleGMNAsPublished,
    PermutationScaleGMNEditor,
    ScaleGMNAsPublished,
    ScaleGMNEditorAsPublished,
)
from graphnfn.spec import NetSpec

_FIXED: Mapping[str, Any] = {
    "update_edge_attr": True, "message_fn_layers": 1, "update_node_feats_fn_layers": 1, "update_as_act": False,
    "message_fn_skip_connections": False, "update_node_feats_fn_skip_connections": False, "aggregator": "add",
    "msg_equiv_on_hidden": True, "upd_equiv_on_hidden": True, "layer_msg_equiv_on_hidden": False,
    "layer_upd_equiv_on_hidden": False,
}  # fmt: skip
"""Settings that every published configuration shares; others are not rebuilt."""

_DEAD = re.compile(r"gnn\.readout\.(phi|aggr)\.")
"""Parameters that the official code never uses (phi), or keeps twice (aggr)."""

_NAMES = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^construct_graph\.proj_bias\.", "encoder.lift_nodes."),
        (r"^construct_graph\.proj_weight\.", "encoder.lift_edges."),
        (r"^positional_embeddings\.pos_embed$", "encoder.node_positions"),
        (r"^positional_embeddings_edge\.pos_embed$", "encoder.edge_positions"),
        (r"^gnn\.fw_layers\.(\d+)\.update_node_feats_fn\.", r"encoder.layers.\1.update."),
        (r"^gnn\.update_node_feats_fn\.(\d+)\.", r"encoder.layers.\1.update."),
        (r"^gnn\.fw_layers\.(\d+)\.update_edge_attr_fn\.", r"encoder.layers.\1.edges."),
        (r"^gnn\.fw_update_edge_attr_fn\.(\d+)\.", r"encoder.layers.\1.edges."),
        (r"^gnn\.bw_update_edge_attr_fn\.(\d+)\.", r"encoder.layers.\1.back."),
        (r"^gnn\.fw_layers\.(\d+)\.message_fn\.rho\.", r"encoder.layers.\1.hear.mlp."),
        (r"^gnn\.bw_layers\.(\d+)\.message_fn\.rho\.", r"encoder.layers.\1.answer.mlp."),
        (r"^gnn\.fw_layers\.(\d+)\.(message_fn\.)?", r"encoder.layers.\1.hear.\2"),
        (r"^gnn\.bw_layers\.(\d+)\.(message_fn\.)?", r"encoder.layers.\1.answer.\2"),
        (r"^gnn\.skip_layers\.(\d+)\.", r"encoder.layers.\1.skip."),
        (r"^gnn\.project_(first|last)\.", r"readout.\1."),
        (r"^gnn\.readout\.(rho|global_mlp)\.", "readout.mlp."),
        (r"^gnn\.readout\.local_mlp\.", "readout.local."),
        (r"^gnn\.readout\.(?=g)", "readout.g."),
        (r"\.message_fn\.", ".net."),
        (r"\.eq_layers\.0\.(?=g\.|W\.)", "."),
        (r"\.eq_layers_in\.0\.rho\.|\.g\.phi_in\.", ".ends.0."),
        (r"\.eq_layers_last\.0\.rho\.|\.g\.phi_last\.", ".ends.1."),
        (r"\.update\.rho\.", ".update.mlp."),
        (r"\.(edges|back)\.(g1|g_sign)\.rho\.", r".\1.form.sign.rho."),
        (r"\.g\.(g1|g_sign)\.rho\.", ".gate.sign.form.rho."),
        (r"\.g\.g_(sign|scale)\.phi\.", r".gate.\1.phi."),
        (r"\.w_v\.", ".send."),
        (r"\.w_e\.", ".lift."),
        (r"\.W\.", ".linear."),
        (r"\.fc\.0\.", ".first."),
        (r"\.fc\.1\.", ".last."),
        (r"\.ln\.0\.", ".norm."),
    )
)


def from_official(meta: Meta, state: Mapping[str, Tensor]) -> nn.Module:
    """Our model with official weights, with the faults of the official code.

    Args:
        meta: ``class_path``, ``constructor`` (the official ``scalegmn_args``, possibly under the key ``full``) and
            ``specs``; for the symmetry "hetero" those of both kinds of activations.
        state: the official state dict.

    Raises:
        BaselineError: a setting that no published configuration has, or keys that do not fit.
    """
    settings = meta["constructor"].get("full", meta["constructor"])
    specs = meta.get("specs") or [official_spec(meta)]
    model = _build(specs, settings, editor=meta["class_path"].endswith("_equiv"))
    model.to(next(iter(state.values()), torch.empty(0)).dtype)
    load_strict(model, rename(state, "scale" if settings["symmetry"] == "scale" else "sign"))
    return model


def rename(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Official keys as ours; ``kind`` is the one kind of symmetry of a model that has only one."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not _DEAD.match(name) and not re.match(r"(weight|bias)_scale\.", name):
            for pattern, ours in _NAMES:
                name = pattern.sub(ours, name)
            out[name.replace(".g.g1.phi.", f".gate.{kind}.phi.")] = tensor
    for which in ("weight_scale", "bias_scale"):
        rows = [state[name] for name in (f"{which}.{i}" for i in range(len(state))) if name in state]
        if rows:
            out[which] = torch.stack(rows)
    return out


def _build(specs: Sequence[NetSpec], settings: Mapping[str, Any], editor: bool) -> nn.Module:
    nets = settings["gnn_args"]
    other = [k for k, v in _FIXED.items() if nets[k] != v]
    if other or nets["msg_num_mlps"] != nets["upd_num_mlps"] or nets["pos_embed_msg"] != nets["pos_embed_upd"]:
        raise BaselineError(
            f"no published ScaleGMN configuration has these settings: {other or 'unequal msg and upd nets'}; "
            "load weights of a published configuration"
        )
    design = Design(
        sign_sum=nets["sign_symmetrization"],
        free_ends=nets["mlp_on_io"],
        separate_ends=nets["msg_num_mlps"] == 3,
        add_at_ends=settings["positional_encodings"]["sum_on_io"],
        edge_positions=settings["edge_pos_embed"],
        position_features=nets["pos_embed_msg"],
        layer_norm=settings["mlp_args"]["layer_norm"],
        skips=settings["gnn_skip_connections"],
        whole_graph=settings.get("readout_range") == "full_graph",
        dropout_inside=settings["mlp_args"]["dropout"] > 0,
    )
    choices = {
        "width": settings["d_hid"],
        "layers": settings["num_layers"],
        "bidirectional": settings["direction"] == "bidirectional",
        "dropout": nets["dropout"],
        "design": design,
    }
    plain = settings["symmetry"] == "permutation"
    if editor:
        made = PermutationScaleGMNEditor if plain else ScaleGMNEditorAsPublished
        return made(specs, **choices)
    made = PermutationScaleGMNAsPublished if plain else ScaleGMNAsPublished
    return made(specs, settings["readout_args"]["d_out"], **choices)
