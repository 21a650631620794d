"""Weights of AllanYangZhou/nfn (commit ce78322) for our NF-layers and models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from baselines.errors import BaselineError
from baselines.foreign import Meta, load_strict, official_spec, refuse_rest, take, take_below
from baselines.nfn.encodings import Encoding
from baselines.nfn.layers import HNPLinear, HNPPool, NPLinear, NPPool, PositionedNPLinear
from baselines.nfn.models import (
    EditingNFN,
    Features,
    Head,
    HNPEditor,
    HNPInvariant,
    InvariantNFN,
    NPEditor,
    NPInvariant,
    PositionedNPInvariant,
    PositionedNPInvariantAsPublished,
)
from baselines.weight_space import ChainForm, chain_form

_INVARIANT: dict[tuple[str, bool], type[InvariantNFN]] = {
    ("HNP", False): HNPInvariant,
    ("NP", False): NPInvariant,
    ("NP-PosEmb", False): PositionedNPInvariant,
    ("NP-PosEmb", True): PositionedNPInvariantAsPublished,
}
_EDITORS: dict[str, type[EditingNFN]] = {"HNP": HNPEditor, "NP": NPEditor}


def from_official(meta: Meta, state: Mapping[str, Tensor]) -> nn.Module:
    """Our layer, pool or model with official weights; layers and pools keep their channels last.

    Args:
        meta: class path, constructor and architecture, see :mod:`baselines.foreign`.
        state: the official state dict.

    Raises:
        BaselineError: weights that do not fit, or settings that no published configuration uses.
    """
    state, settings = dict(state), meta["constructor"]
    form = chain_form(official_spec(meta))
    name = meta["class_path"].rsplit(":", 1)[1]
    if name in ("NPPool", "HNPPool"):
        module: nn.Module = {"NPPool": NPPool, "HNPPool": HNPPool}[name](form)
    elif name in ("NPLinear", "HNPLinear"):
        kind = PositionedNPLinear if settings.get("io_embed") else {"NPLinear": NPLinear, "HNPLinear": HNPLinear}[name]
        module = kind(form, settings["in_channels"], settings["out_channels"])
        _load_layer(module, state)
    elif name == "TransferNet":
        module = _editor(meta, form, state)
    else:
        module = _invariant(meta, form, state)
    refuse_rest(state)
    return module


def _invariant(meta: Meta, form: ChainForm, state: dict[str, Tensor]) -> InvariantNFN:
    settings, head = meta["constructor"], meta["constructor"]["head"]
    _refuse(settings, "lnorm", None)
    _refuse(settings, "append_stats", False)
    _refuse(head, "pool_mode", "HNP")
    chosen = settings["mode"], bool(settings.get("normalize"))
    if chosen not in _INVARIANT:
        raise BaselineError(f"no published model has (mode, normalize) {chosen}; known: {sorted(_INVARIANT)}")
    model = _INVARIANT[chosen](
        [official_spec(meta)],
        head["num_out"],
        channels=settings["hchannels"],
        encoding=_encoding(settings),
        head=Head(width=head["h_size"], sigmoid=bool(head.get("sigmoid"))),
        normalize=chosen[1],
    )
    if chosen[1]:
        load_strict(model.normalize, _entry_statistics(form, state))
    _load_features(model.features, take_below(state, "nfnet_features."))
    parts = by_number(take_below(state, "head.head."))
    linears = [m for m in model.head if isinstance(m, nn.Linear)]
    _same_length(linears, parts)
    for linear, part in zip(linears, parts, strict=True):
        load_strict(linear, part)
    return model


def _editor(meta: Meta, form: ChainForm, state: dict[str, Tensor]) -> EditingNFN:
    settings = meta["constructor"]
    _refuse(settings, "lnorm", False)
    if settings["mode"] not in _EDITORS:
        raise BaselineError(f"no published editor has mode {settings['mode']!r}; known: {sorted(_EDITORS)}")
    channels = [settings["hidden_chan"]] * settings["hidden_layers"]
    model = _EDITORS[settings["mode"]]([official_spec(meta)], channels=channels, encoding=_encoding(settings))
    parts = by_number(take_below(state, "hnet."))
    _load_scale(model.scale, parts.pop(), form.depth)
    _load_layer(model.last, parts.pop())
    _load_features(model.features, {f"{i}.{k}": v for i, part in enumerate(parts) for k, v in part.items()})
    return model


def by_number(state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The parts ``3.weight``, ``3.bias``, ``5.weight`` ... of a sequence, in order of their numbers.

    Example:
        >>> by_number({"10.b": torch.ones(()), "2.a": torch.zeros(())})
        [{'a': tensor(0.)}, {'b': tensor(1.)}]
    """
    numbers = sorted({int(name.split(".", 1)[0]) for name in state})
    return [{k.split(".", 1)[1]: v for k, v in state.items() if int(k.split(".", 1)[0]) == n} for n in numbers]


def _load_features(features: Features, state: dict[str, Tensor]) -> None:
    parts = by_number(state)
    if parts and "_B" in parts[0]:
        load_strict(features.encode, {"0.frequencies": parts.pop(0)["_B"].flatten()})
    _same_length(features.layers, parts)
    for layer, part in zip(features.layers, parts, strict=True):
        _load_layer(layer, part)


def _load_layer(layer: nn.Module, state: dict[str, Tensor]) -> None:
    load_strict(layer, (_hnp_layer if isinstance(layer, HNPLinear) else _np_layer)(layer, state))
    refuse_rest(state)


def _np_layer(layer: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    assert isinstance(layer, NPLinear)
    out: dict[str, Tensor] = {}
    for end in ("weight", "bias"):
        every = []
        for i in range(len(layer.entries)):
            out[f"entries.{i}.{end}"] = _matrix(take(state, f"layer_{i}.{end}"))
            out[f"sources.{i}.{end}"] = _matrix(take(state, f"layer_{i}_r.{end}"))
            targets = [take(state, f"layer_{i}_c.{end}"), take(state, f"bias_{i}.{end}")]
            out[f"targets.{i}.{end}"] = _matrix(torch.cat(targets))
            every += [take(state, f"layer_{i}_rc.{end}"), take(state, f"bias_{i}_rc.{end}")]
        out[f"every.{end}"] = torch.cat(every)
    if isinstance(layer, PositionedNPLinear):
        out["inputs"] = take(state, "in_embed")[0, :, 0].T
        out["outputs"] = take(state, "out_embed")[0, :, :, 0].T
        out["output_biases"] = take(state, "out_bias_embed")[0].T
    return out


def _hnp_layer(layer: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    assert isinstance(layer, HNPLinear)
    out: dict[str, Tensor] = {}
    last = len(layer.targets)
    for end in ("weight", "bias"):
        first = [take(state, f"w0_rpt.{end}"), take(state, f"bias_0.{end}")]
        out[f"targets.0.{end}"] = _matrix(torch.cat(first))
        every = [take(state, f"w0_rbdcst.{end}"), take(state, f"bias_0_rc.{end}")]
        for i in range(1, last):
            out[f"entries.{i - 1}.{end}"] = _matrix(take(state, f"layer_{i}.{end}"))
            out[f"sources.{i - 1}.{end}"] = _matrix(take(state, f"layer_{i}_r.{end}"))
            targets = [take(state, f"layer_{i}_c.{end}"), take(state, f"bias_{i}.{end}")]
            out[f"targets.{i}.{end}"] = _matrix(torch.cat(targets))
            every += [take(state, f"layer_{i}_rc.{end}"), take(state, f"bias_{i}_rc.{end}")]
        out[f"sources.{last - 1}.{end}"] = _matrix(take(state, f"wfin_cpt.{end}"))
        every += [take(state, f"wfin_cbdcst.{end}"), take(state, f"bias_fin_rc.{end}")]
        out[f"every.{end}"] = torch.cat(every)
    return out


def _load_scale(scale: nn.Module, state: dict[str, Tensor], depth: int) -> None:
    names = {"weights": "weight_scales", "biases": "bias_scales"}
    load_strict(scale, {k: torch.stack([take(state, f"{v}.{i}") for i in range(depth)]) for k, v in names.items()})
    refuse_rest(state)


def _entry_statistics(form: ChainForm, state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for i in range(form.depth):
        for name in ("mean", "std"):
            weights = take(state, f"{name}_weights_{i}")[0]
            out[f"weight_{name}_{i}"] = weights.reshape(form.widths[i + 1], form.widths[i], -1)
            out[f"bias_{name}_{i}"] = take(state, f"{name}_bias_{i}")[0][:, None]
    return out


def _encoding(settings: Mapping[str, Any]) -> Encoding:
    values, places = settings.get("inp_enc"), settings.get("pos_enc")
    out: dict[str, Any] = {}
    if values:
        out = {"fourier": values["mapping_size"], "fourier_scale": values["scale"]}
    if places:
        out |= {"bands": places["num_bands"], "max_freq": places["max_freq"], "layers": places["enc_layers"]}
    return Encoding(**out)


def _matrix(values: Tensor) -> Tensor:
    """A convolution of kernel 1 as a matrix; biases stay as they are."""
    return values.flatten(1) if values.ndim > 1 else values


def _refuse(settings: Mapping[str, Any], name: str, only: Any) -> None:
    if settings.get(name, only) != only:
        raise BaselineError(f"official setting {name}={settings[name]!r} is not supported: only {only!r} was published")


def _same_length(modules: Any, parts: list[dict[str, Tensor]]) -> None:
    if len(modules) != len(parts):
        raise BaselineError(f"expected weights of {len(modules)} layers; got {len(parts)}: check the constructor")
