"""Weights of MathematicalAI-NUS/Monomial-NFN (commit 43aa468) for our layers and models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from baselines.chain_form import chain_form
from baselines.errors import BaselineError
from baselines.foreign import Meta, load_strict, official_spec, refuse_rest, take, take_below
from baselines.monomial.layers import MonomialLinear, MonomialPool, MonomialStack, SignLinear
from baselines.monomial.models import (
    HNPMonomialSiren,
    MonomialEditorAsPublished,
    MonomialNFN,
    NPMonomialSiren,
    SignMonomialNFN,
    UnitMonomialSiren,
)
from baselines.nfn import Head
from baselines.nfn import from_official as nfn_from_official
from baselines.nfn.official import by_number

_LAYERS: dict[str, type[MonomialLinear]] = {"HNPSLinear": MonomialLinear, "HNPS_SirenLinear": SignLinear}
_ZOO: dict[tuple[str, str | None], type[MonomialNFN]] = {
    ("InvariantNFN", None): MonomialNFN,
    ("InvariantNFN_HNPS", "S_tanh_abs_gen"): SignMonomialNFN,
}
_TANH_CHANNELS = (16, 16, 5)
"""What the published tanh model has, whatever its settings say."""
_SIRENS: dict[tuple[str, str], type[HNPMonomialSiren]] = {
    ("HNP", "HNP"): HNPMonomialSiren,
    ("HNP", "HNPS_param_mul_L2"): UnitMonomialSiren,
    ("NP", "HNP"): NPMonomialSiren,
}


def from_official(meta: Meta, state: Mapping[str, Tensor]) -> nn.Module:
    """Our layer, pool or model with official weights; layers and pools keep their channels last.

    Args:
        meta: class path, constructor and architecture, see :mod:`baselines.foreign`.
        state: the official state dict.

    Raises:
        BaselineError: weights that do not fit, or settings that no published configuration uses.
    """
    state, settings = dict(state), meta["constructor"]
    spec = official_spec(meta)
    form, name = chain_form(spec), meta["class_path"].rsplit(":", 1)[1]
    if name in _LAYERS:
        module: nn.Module = _LAYERS[name](form, settings["in_channels"], settings["out_channels"])
        load_layer(module, state)
    elif name == "HNPSPool":
        module = MonomialPool(form, settings["nfn_channels"])
        _load_pool(module, state)
    elif name == "TransferNet":
        module = _editor(meta, state)
    elif settings.get("model_type") == "S_sin_abs":
        module = _siren(meta, state)
    else:
        module = _zoo(meta, name, state)
    refuse_rest(state)
    return module


def load_layer(layer: nn.Module, state: dict[str, Tensor]) -> None:
    """Load one official layer; its tensors are taken out of ``state``, and others there are an error.

    Raises:
        BaselineError: names or shapes differ.
    """
    assert isinstance(layer, MonomialLinear)
    count = len(layer.entries) + 2
    last = f"layer_{count - 1}"

    def matrix(name: str, rows: str, columns: str) -> Tensor:
        """The official ``[m, n, ...]`` array with the axes of ``name``, as a matrix."""
        key, axes = name.split(" ")
        array = take(state, f"{key}.weight")
        if array.ndim != len(axes):
            raise BaselineError(f"official weights {key!r}: expected axes {axes}; got shape {tuple(array.shape)}")
        array = array.permute(*(axes.index(a) for a in rows + columns))
        return array.flatten(0, len(rows) - 1).flatten(1)

    upper = [matrix("layer_0_Y_W mnqk", "km", "qn"), matrix("layer_0_Y_b mnk", "km", "n")]
    lower = [matrix("layer_0_z_W mnq", "m", "qn"), matrix("layer_0_z_b mn", "m", "n")]
    own = {"first.weight": torch.cat([torch.cat(upper, 1), torch.cat(lower, 1)])}
    for i in range(1, count - 1):
        own[f"entries.{i - 1}.weight"] = matrix(f"layer_{i}_Y_W mn", "m", "n")
        own[f"biases.{i - 1}.weight"] = matrix(f"layer_{i}_z_b mn", "m", "n")
    own["last.weight"] = matrix(f"{last}_Y_W mnpj", "jm", "pn")
    own["last_bias.weight"] = matrix(f"{last}_z_b mnpj", "jm", "pn")
    own["last_bias.bias"] = take(state, f"{last}_z_tau.weight").T.flatten()
    if isinstance(layer, SignLinear):
        own["from_bias.weight"] = matrix(f"{last}_Y_b mnj", "jm", "n")
        own["into_bias.weight"] = matrix(f"layer_{count - 2}_z_W mnp", "m", "pn")
    load_strict(layer, own)
    refuse_rest(state)


def _load_pool(pool: nn.Module, state: dict[str, Tensor]) -> None:
    assert isinstance(pool, MonomialPool)
    depth = len(pool.pool.taps)
    own = {}
    for name, end in (("gamma", "weight"), ("beta", "bias")):
        take(state, f"regularize_b_{depth - 1}.{end}")  # published, and never used
        own |= {f"weight_{name}.{i}": take(state, f"regularize_W_{i}.{end}") for i in range(depth)}
        own |= {f"bias_{name}.{i}": take(state, f"regularize_b_{i}.{end}") for i in range(depth - 1)}
    load_strict(pool, own)


def _zoo(meta: Meta, name: str, state: dict[str, Tensor]) -> MonomialNFN:
    settings, head = meta["constructor"], meta["constructor"]["head"]
    _refuse(settings, mode="HNPS", normalize=False, lnorm=None, append_stats=False, concat=False, inp_enc=None)
    _refuse(head, pool_mode="HNPS_param_mul_L2", lnorm=False)
    kind = _ZOO.get((name, settings.get("model_type")))
    if kind is None:
        raise BaselineError(f"no published model is a {name} of type {settings.get('model_type')}; known: {list(_ZOO)}")
    channels = _TANH_CHANNELS if kind is SignMonomialNFN else settings["hchannels"]
    model = kind([official_spec(meta)], head["num_out"], channels=channels, head=_head(head))
    _load_each(list(model.layers.layers), take_below(state, "nfnet_features."), load_layer)
    _load_pool(model.pool, take_below(state, "head.head.0."))
    linears = [m for m in model.head if isinstance(m, nn.Linear)]
    _load_each(linears, take_below(state, "head.head."), load_strict)
    return model


def _siren(meta: Meta, state: dict[str, Tensor]) -> HNPMonomialSiren:
    settings, head = meta["constructor"], meta["constructor"]["head"]
    chosen = settings["mode"], head["pool_mode"]
    _refuse(settings, concat=True)
    if chosen not in _SIRENS:
        raise BaselineError(f"no published model has (mode, pool_mode) {chosen}; known: {list(_SIRENS)}")
    width, channels = settings["hnps_dim"], settings["hchannels"]
    model = _SIRENS[chosen]([official_spec(meta)], head["num_out"], width=width, channels=channels)
    _load_front(model.front, state, "nfnet_features.")
    if isinstance(model.pool, MonomialPool):
        _load_pool(model.pool, pool := take_below(state, "head.head.0."))
        refuse_rest(pool)
    behind = _nfn(meta, state, "InvariantNFN", {**settings, "head": {**head, "pool_mode": "HNP"}})
    for part in ("features", "head"):
        model.add_module(part, behind.get_submodule(part))
    return model


def _editor(meta: Meta, state: dict[str, Tensor]) -> MonomialEditorAsPublished:
    settings = meta["constructor"]
    _refuse(settings, mode="NP", special=True, dropout=0)
    model = MonomialEditorAsPublished([official_spec(meta)], width=settings["hidden_channels"])
    _load_front(model.front, state, "hnet.")
    behind = _nfn(meta, state, "TransferNet", settings)
    for part in ("features", "last", "scale"):
        model.add_module(part, behind.get_submodule(part))
    return model


def _nfn(meta: Meta, state: dict[str, Tensor], name: str, settings: Mapping[str, Any]) -> nn.Module:
    """What follows the front, an NFN of its own; all that is left of ``state`` goes into it."""
    rest, meta = dict(state), {**meta, "class_path": f"models.py:{name}", "constructor": settings}
    state.clear()
    return nfn_from_official(meta, rest)


def _load_front(front: MonomialStack, state: dict[str, Tensor], prefix: str) -> None:
    """The layers of the front; functions between them count where they are modules."""
    step = 1 if isinstance(front.functions[0], nn.Identity) else 2
    for i, layer in enumerate(front.layers):
        load_layer(layer, take_below(state, f"{prefix}{step * i}."))


def _load_each(modules: Sequence[nn.Module], state: dict[str, Tensor], load: Callable[..., None]) -> None:
    parts = by_number(state)
    if len(parts) != len(modules):
        raise BaselineError(f"expected weights of {len(modules)} layers; got {len(parts)}: check the constructor")
    for module, part in zip(modules, parts, strict=True):
        load(module, part)


def _head(settings: Mapping[str, Any]) -> Head:
    return Head(settings["h_size"], settings.get("dropout", 0.0), sigmoid=bool(settings.get("sigmoid")))


def _refuse(settings: Mapping[str, Any], **only: Any) -> None:
    for name, value in only.items():
        if settings.get(name, value) != value:
            raise BaselineError(
                f"official setting {name}={settings[name]!r} is not supported: give weights with {value!r}"
            )
