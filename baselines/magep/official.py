"""Weights of Fsoft-AIC/MAGEP-NFN (commit d3298f5) for our layers and models; names and axes only, no code of theirs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from baselines.chain_form import chain_form
from baselines.errors import BaselineError
from baselines.foreign import Meta, load_strict, official_spec, refuse_rest, take, take_below
from baselines.magep.layers import PolynomialLinear, PolynomialPool
from baselines.magep.models import MagepNFN, SignMagepNFN, dense_form
from baselines.monomial.layers import MonomialLinear
from baselines.monomial.official import load_layer
from baselines.nfn import Head
from baselines.nfn.official import by_number

_MODELS: dict[str, type[MagepNFN]] = {"relu": MagepNFN, "tanh": SignMagepNFN}


def from_official(meta: Meta, state: Mapping[str, Tensor]) -> nn.Module:
    """Our layer, pool or model with official weights; layers and pools keep their channels last.

    Args:
        meta: class path, constructor and architecture, see :mod:`baselines.foreign`.
        state: the official state dict.

    Raises:
        BaselineError: weights that do not fit, or settings that no published configuration uses.
    """
    state, settings = dict(state), meta["constructor"]
    form, name = chain_form(official_spec(meta)), meta["class_path"].rsplit(":", 1)[1]
    if name == "HNPSMixer_Inv":
        module: nn.Module = _model(meta, state)
    elif name == "HNPSLinear":
        module = MonomialLinear(form, settings["in_channels"], settings["out_channels"], onto=dense_form(form))
        load_layer(module, state)
    else:
        kind = {"HNPSMixerLinear": PolynomialLinear, "HNPSMixerInv": PolynomialPool}[name]
        module = kind(form, settings["in_channels"], settings["out_channels"])
        _load(module, state)
    refuse_rest(state)
    return module


def _model(meta: Meta, state: dict[str, Tensor]) -> MagepNFN:
    settings, head = meta["constructor"], meta["constructor"]["head"]
    for where, name, only in ((settings, "mode", "HNPSMixerInv"), (head, "pool_mode", "Mixer")):
        if where.get(name, only) != only:
            raise BaselineError(f"official setting {name}={where[name]!r} is not supported: give weights with {only!r}")
    if settings["model_type"] not in _MODELS:
        raise BaselineError(f"no published model is of type {settings['model_type']!r}; known: {sorted(_MODELS)}")
    parts = by_number(take_below(state, "nfnet_features."))
    heads = by_number(take_below(state, "head.head."))
    channels = [_channels(part) for part in parts]
    model = _MODELS[settings["model_type"]](
        [official_spec(meta)], head["num_out"], channels=channels[:-1], pooled=channels[-1],
        head=Head(head["h_size"], head.get("dropout", 0.0), sigmoid=bool(head.get("sigmoid"))),
    )  # fmt: skip
    linears = [m for m in model.head if isinstance(m, nn.Linear)]
    modules = [*model.layers, model.pool]
    if len(heads) != len(linears):
        raise BaselineError(f"expected an MLP of {len(linears)} layers; got {len(heads)}: check the constructor")
    for linear, part in zip(linears, heads, strict=True):
        load_strict(linear, part)
    for module, part in zip(modules, parts, strict=True):
        (load_layer if isinstance(module, MonomialLinear) else _load)(module, part)
    return model


def _channels(state: Mapping[str, Tensor]) -> int:
    """How many channels come out of an official layer."""
    ends = [v for k, v in state.items() if k.endswith(("z_tau.weight", "_b.weight", "tau_weight"))]
    if not ends:
        raise BaselineError(f"official weights: a layer without constants, only {sorted(state)}: check the class path")
    return ends[0].shape[0]


def _load(module: nn.Module, state: dict[str, Tensor]) -> None:
    names = _Names(state)
    if isinstance(module, PolynomialPool):
        own = _pool(module, names)
    else:
        assert isinstance(module, PolynomialLinear)
        own = _linear(module, names)
    load_strict(module, own)
    refuse_rest(state)


class _Names:
    """Official arrays, by name and axes, as matrices.

    Axes: e and d channels behind and before; j, k neurons behind and p, q before; l hidden groups.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def side_by_side(self, names: str, axes: str, rows: str, columns: str) -> Tensor:
        """Several arrays of equal axes as one matrix, their columns alternating in runs of d channels."""
        arrays = []
        for name in names.split():
            array = take(self.state, name if name.startswith("tau") else f"{name}.weight")
            if array.ndim != len(axes):
                raise BaselineError(f"official weights {name!r}: expected axes {axes}; got shape {tuple(array.shape)}")
            arrays.append(array.permute(*(axes.index(a) for a in rows + columns)))
        return torch.cat(arrays, -1).flatten(0, len(rows) - 1).flatten(1)

    def psi(self, kind: str, key: str) -> Tensor:
        """The two matrices of one pair of groups; ``kind`` is t or s, as in the official names."""
        return torch.cat([take(self.state, f"Psi_s{end}_L_{kind}{key}") for end in ("_0", "")], 1)


def _linear(layer: PolynomialLinear, names: _Names) -> dict[str, Tensor]:
    depth = len(layer.entries) + 2
    for s in range(3, depth + 1):
        for t in range(1, s - 1):
            names.psi("t", f".{s}_{t}")  # stored, and never used
    own = {f"psi.{key}": names.psi("t", f".{key}") for key in layer.psi}
    own |= {f"traces.{key}": names.psi("s", f".{key}") for key in layer.traces}
    upper = [_three(names, "layer_0_W", "edqk", "ke", "qd"), names.side_by_side("layer_0_W_b", "edk", "ke", "d")]
    lower = [_three(names, "layer_0_b", "edq", "e", "qd"), names.side_by_side("layer_0_b_b", "ed", "e", "d")]
    own["first.weight"] = torch.cat([torch.cat(upper, 1), torch.cat(lower, 1)])
    for i in range(1, depth - 1):
        own[f"entries.{i - 1}.weight"] = _three(names, f"layer_{i}_W", "ed", "e", "d")
        vectors = names.side_by_side(f"layer_{i}_b_Wb layer_{i}_b_b", "ed", "e", "d")
        own[f"biases.{i - 1}.weight"] = torch.cat([_three(names, f"layer_{i}_b", "edq", "e", "qd"), vectors], 1)
    b = f"layer_{depth - 1}_b"
    own["last.weight"] = _three(names, f"layer_{depth - 1}_W", "edpj", "je", "pd")
    parts = [names.side_by_side(f"{b}_W {b}_WW_L0L0 {b}_bW_LL0", "edpqj", "je", "pqd")]
    parts += [names.side_by_side(f"{b}_{end}", "edpj", "je", "pd") for end in ("Wb", "b_L")]
    parts += [names.side_by_side(f"{b}_{end}", "edlj", "je", "ld") for end in ("WW_0L", "bW_L")]
    own["last_bias.weight"] = torch.cat(parts, 1)
    own["last_bias.bias"] = take(names.state, f"{b}.weight").T.flatten()
    return own


def _pool(pool: PolynomialPool, names: _Names) -> dict[str, Tensor]:
    own = {f"psi.{key}": names.psi("t", "") for key in pool.psi}
    own |= {f"traces.{key}": names.psi("s", f".{key}") for key in pool.traces}
    parts = [names.side_by_side("layer_W layer_WW layer_bW", "edpq", "e", "pqd")]
    parts += [names.side_by_side(f"layer_{end}", "edp", "e", "pd") for end in ("Wb", "b")]
    parts += [names.side_by_side(f"layer_{end}", "edl", "e", "ld") for end in ("WW_pp", "bW_pp")]
    return own | {"map.weight": torch.cat(parts, 1), "map.bias": take(names.state, "tau_weight")}


def _three(names: _Names, prefix: str, axes: str, rows: str, columns: str) -> Tensor:
    """The maps of the three matrix terms."""
    return names.side_by_side(" ".join(f"{prefix}_{term}" for term in ("W", "WW", "bW")), axes, rows, columns)
