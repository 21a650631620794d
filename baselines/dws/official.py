"""Weights of AvivNavon/DWSNets (commit 2001d52) for our DWSNets."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from baselines.dws.layers import DeepSet, DWSLayer, MatrixMap, SetAttention
from baselines.dws.models import (
    DeepSetsDWSEditorAsPublished,
    DeepSetsDWSNetAsPublished,
    DWSEditor,
    DWSEditorAsPublished,
    DWSNet,
    DWSNetAsPublished,
)
from baselines.errors import BaselineError
from baselines.foreign import Meta, load_strict, official_spec, refuse_rest, take, take_below

_NETS: dict[str, type[DWSNet]] = {"sab": DWSNetAsPublished, "ds": DeepSetsDWSNetAsPublished}
_EDITORS: dict[str, type[DWSEditor]] = {"sab": DWSEditorAsPublished, "ds": DeepSetsDWSEditorAsPublished}
_PUBLISHED = {
    "input_features": 1, "n_fc_layers": 1, "n_out_fc": 1, "dropout_rate": 0.0, "diagonal": False, "add_skip": False,
    "add_layer_skip": False, "bias": True, "input_dim_downsample": None,
}  # fmt: skip
_KINDS = {"w": "weight", "b": "bias"}
_INNER: dict[type[nn.Module], dict[str, str]] = {
    DeepSet: {"own": "set_layer.Gamma.0", "all": "set_layer.Lambda.0"},
    SetAttention: {f: f"set_layer.mab.fc_{f[0]}" for f in ("query", "key", "value", "out")},
    MatrixMap: {"own": "lin_all.0", "over_sources": "lin_n.0", "over_targets": "lin_m.0", "all": "lin_both.0"},
}


def from_official(meta: Meta, state: Mapping[str, Tensor]) -> nn.Module:
    """Our model, as published, with official weights.

    Args:
        meta: class path, constructor and architecture, see :mod:`baselines.foreign`.
        state: the official state dict.

    Raises:
        BaselineError: weights that do not fit, or settings without a counterpart.
    """
    state, given = dict(state), meta["constructor"]
    for name, only in _PUBLISHED.items():
        if given.get(name, only) != only:
            raise BaselineError(f"official setting {name}={given[name]!r} is not supported: give weights with {only!r}")
    settings = {"heads": given["num_heads"]} if given["set_layer"] == "sab" else {}
    settings |= {
        "width": given["hidden_dim"],
        "layers": given["n_hidden"],
        "pool": given["reduction"],
        "batch_norm": given["bn"],
    }
    specs, sets = [official_spec(meta)], given["set_layer"]
    if meta["class_path"].endswith("ForClassification"):
        net = _NETS[sets](specs, given["n_classes"], **settings)
        load_strict(net.predict, take_below(state, "clf.layer.0."))
        _load_trunk(net, take_below(state, "layers.layers."))
    else:
        net = _EDITORS[sets](specs, **settings)
        _load_trunk(net, take_below(state, "layers."))
    refuse_rest(state)
    return net


def _load_trunk(net: DWSNet | DWSEditor, state: dict[str, Tensor]) -> None:
    places = sorted({int(name.split(".", 1)[0]) for name in state})
    parts = [take_below(state, f"{place}.") for place in places]
    norms = [p for p in parts if any("_bn." in name for name in p)]
    layers = [p for p in parts if all("_bn." not in name for name in p)]
    if (len(layers), len(norms)) != (len(net.layers), len(list(net.norms)) if norms else 0):
        raise BaselineError(f"expected weights of {len(net.layers)} layers; got {len(layers)}: check the constructor")
    for norm, part in zip(net.norms, norms, strict=False):
        half = len(net.tensors.slots) // 2
        names = [f"weights_bn.{i}." for i in range(half)] + [f"biases_bn.{i}." for i in range(half)]
        load_strict(norm, {f"norms.{i}.{k}": v for i, n in enumerate(names) for k, v in take_below(part, n).items()})
        refuse_rest(part)
    for layer, part in zip(net.layers, layers, strict=True):
        assert isinstance(layer, DWSLayer)
        _load_layer(layer, part)


def _load_layer(layer: DWSLayer, state: dict[str, Tensor]) -> None:
    for source, target in layer.pairs:
        block = layer.blocks[f"{source.name}_{target.name}"]
        kinds = _KINDS[source.name[0]], _KINDS[target.name[0]]
        prefix = f"{kinds[0]}_to_{kinds[1]}.layers.{source.name[1:]}_{target.name[1:]}."
        if not isinstance(block, MatrixMap):  # what the block is called inside
            prefix += "set_layer." if kinds == ("weight", "weight") and not isinstance(block, nn.Linear) else "layer."
        inner = _INNER.get(type(block), {"": "0"})
        own = {
            name: f"{prefix}{inner[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}" for name in block.state_dict()
        }
        load_strict(block, {name: take(state, official) for name, official in own.items()})
    refuse_rest(state)
