"""Baselines by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from baselines.dng_like import DNGLike
from baselines.dws import DeepSetsDWSEditor, DeepSetsDWSNet, DWSEditor, DWSNet
from baselines.errors import BaselineError
from baselines.flat_mlp import AugmentedFlatMLP, FlatMLP
from baselines.gmn import PermutationGMN
from baselines.gmn_lim import LimGMN
from baselines.lol import AlignedLoL, DenseLoL, FlatLoL, LoL, SingularValueLoL
from baselines.magep import MagepNFN, SignMagepNFN
from baselines.monomial import (
    HNPMonomialSiren,
    MonomialEditor,
    MonomialEditorAsPublished,
    MonomialNFN,
    NPMonomialSiren,
    SignMonomialNFN,
    UnitMonomialSiren,
)
from baselines.neural_graphs import NGGNN, NGGNNEditor, NGTransformer, NGTransformerEditor
from baselines.nfn import (
    HNPEditor,
    HNPInvariant,
    NPEditor,
    NPInvariant,
    PositionedNPInvariant,
    PositionedNPInvariantAsPublished,
)
from baselines.nft_like import NFTLike
from baselines.probegen import ProbeGen
from baselines.scalegmn import PermutationScaleGMN, ScaleGMN, ScaleGMNAsPublished
from baselines.statnet import StatNet
from baselines.statnn import StatNN
from graphnfn.spec import NetSpec

_BASELINES: MappingProxyType[str, type[nn.Module]] = MappingProxyType(
    {
        "statnn": StatNN,
        "flat_mlp": FlatMLP,
        "flat_mlp_augmented": AugmentedFlatMLP,
        "gmn": PermutationGMN,
        "statnet": StatNet,
        "nfn_hnp": HNPInvariant,
        "nfn_np": NPInvariant,
        "nfn_np_places": PositionedNPInvariant,
        "nfn_np_as_published": PositionedNPInvariantAsPublished,
        "dws": DWSNet,
        "dws_deepsets": DeepSetsDWSNet,
        "dng_like": DNGLike,
        "nft_like": NFTLike,
        "gmn_lim": LimGMN,
        "scalegmn": ScaleGMN,
        "scalegmn_as_published": ScaleGMNAsPublished,
        "scalegmn_permutation": PermutationScaleGMN,
        "monomial": MonomialNFN,
        "monomial_sign": SignMonomialNFN,
        "monomial_siren": HNPMonomialSiren,
        "monomial_siren_np": NPMonomialSiren,
        "monomial_siren_unit": UnitMonomialSiren,
        "ng_gnn": NGGNN,
        "ng_t": NGTransformer,
        "probegen": ProbeGen,
        "magep": MagepNFN,
        "magep_sign": SignMagepNFN,
        "lol": LoL,
        "lol_flat": FlatLoL,
        "lol_aligned": AlignedLoL,
        "lol_singular_values": SingularValueLoL,
        "lol_dense": DenseLoL,
    }
)

_OF_ADAPTERS = frozenset({"lol", "lol_flat", "lol_aligned", "lol_singular_values", "lol_dense"})

_EDITORS: MappingProxyType[str, type[nn.Module]] = MappingProxyType(
    {
        "nfn_hnp": HNPEditor,
        "nfn_np": NPEditor,
        "dws": DWSEditor,
        "dws_deepsets": DeepSetsDWSEditor,
        "ng_gnn": NGGNNEditor,
        "ng_t": NGTransformerEditor,
        "monomial": MonomialEditor,
        "monomial_as_published": MonomialEditorAsPublished,
    }
)


def names() -> tuple[str, ...]:
    """All baselines.

    Example:
        >>> names()[:3]
        ('statnn', 'flat_mlp', 'flat_mlp_augmented')
    """
    return tuple(_BASELINES)


def adapter_names() -> tuple[str, ...]:
    """The baselines among :func:`names` that read low-rank adapters only; all others read chains of layers.

    Example:
        >>> adapter_names()[0]
        'lol'
    """
    return tuple(name for name in _BASELINES if name in _OF_ADAPTERS)


def build(name: str, *, out: int, specs: Iterable[NetSpec], **overrides: Any) -> nn.Module:
    """A baseline with a head of ``out`` numbers per network.

    Args:
        name: one of :func:`names`.
        out: numbers predicted per network.
        specs: every architecture that it shall read.
        overrides: the baseline's own arguments.

    Raises:
        BaselineError: an unknown name or argument, or architectures that this baseline cannot read.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> type(build("statnn", out=1, specs=[mlp_spec([2, 8, 1], "relu")], hidden=16)).__name__
        'StatNN'
    """
    return _make(_BASELINES, name, specs, overrides, out=out)


def class_of(name: str) -> type[nn.Module]:
    """The class of a baseline, with its declared ``symmetry`` and ``presets``.

    Raises:
        BaselineError: an unknown name.

    Example:
        >>> sorted(class_of("nfn_np").symmetry)
        ['permutation']
    """
    return _known(_BASELINES, name)


def editor_class_of(name: str) -> type[nn.Module]:
    """:func:`class_of` for the names in :func:`editor_names`."""
    return _known(_EDITORS, name)


def editor_names() -> tuple[str, ...]:
    """All baselines that edit networks.

    Example:
        >>> "nfn_hnp" in editor_names()
        True
    """
    return tuple(_EDITORS)


def build_editor(name: str, *, specs: Iterable[NetSpec], **overrides: Any) -> nn.Module:
    """A baseline that maps networks to edited networks.

    Args:
        name: one of :func:`editor_names`.
        specs: every architecture that it shall read.
        overrides: the baseline's own arguments.

    Raises:
        BaselineError: an unknown name or argument, or architectures that this baseline cannot read.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> type(build_editor("dws", specs=[mlp_spec([2, 8, 8, 1], "sin")], width=8)).__name__
        'DWSEditor'
    """
    return _make(_EDITORS, name, specs, overrides)


def _known(table: Mapping[str, type[nn.Module]], name: str) -> type[nn.Module]:
    if name not in table:
        raise BaselineError(f"unknown baseline {name!r}; known: {', '.join(table)}")
    return table[name]


def _make(
    table: Mapping[str, type[nn.Module]],
    name: str,
    specs: Iterable[NetSpec],
    overrides: Mapping[str, Any],
    **given: Any,
) -> nn.Module:
    cls = _known(table, name)
    known = [p for p in inspect.signature(cls).parameters if p not in ("specs", *given)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise BaselineError(f"baseline {name!r} has no argument {', '.join(unknown)}; it takes {', '.join(known)}")
    specs = tuple(dict.fromkeys(specs))
    if not specs:
        raise BaselineError(f"baseline {name!r} got no specs: give the architectures that it shall read")
    return cls(specs=specs, **given, **overrides)
