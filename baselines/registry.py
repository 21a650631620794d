"""Baselines by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any

from torch import nn

from baselines.errors import BaselineError
from baselines.flat_mlp import FlatMLP
from baselines.gmn import PermutationGMN
from baselines.gmn_lim import LimGMN
from baselines.scalegmn import PermutationScaleGMN, ScaleGMN, ScaleGMNAsPublished
from baselines.statnn import StatNN
from graphnfn.spec import NetSpec

_BASELINES: MappingProxyType[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "statnn": StatNN,
        "flat_mlp": FlatMLP,
        "gmn": PermutationGMN,
        "gmn_lim": LimGMN,
        "scalegmn": ScaleGMN,
        "scalegmn_as_published": ScaleGMNAsPublished,
        "scalegmn_permutation": PermutationScaleGMN,
    }
)


def names() -> tuple[str, ...]:
    """All baselines.

    Example:
        >>> names()[:3]
        ('statnn', 'flat_mlp', 'gmn')
    """
    return tuple(_BASELINES)


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
    if name not in _BASELINES:
        raise BaselineError(f"unknown baseline {name!r}; known: {', '.join(names())}")
    known = [p for p in inspect.signature(_BASELINES[name]).parameters if p not in ("out", "specs")]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise BaselineError(f"baseline {name!r} has no argument {', '.join(unknown)}; it takes {', '.join(known)}")
    specs = tuple(dict.fromkeys(specs))
    if not specs:
        raise BaselineError(f"baseline {name!r} got no specs: give the architectures that it shall read")
    return _BASELINES[name](specs=specs, out=out, **overrides)
