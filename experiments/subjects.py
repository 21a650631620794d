"""Every model of the table of baselines, ours included: how to make it, what it claims, where it is described."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

import baselines
from experiments.errors import ExperimentError
from graphnfn.models import LAYERS, GraphMetaNet, MetaNetConfig
from graphnfn.spec import NetSpec

EVERYTHING = frozenset({"permutation", "scale", "sign"})
_ARXIV = re.compile(r"arXiv\s+(\d{4}\.\d{4,5})")

_NARROW = {"channels": (16, 16)}
PROBED: Mapping[str, Mapping[str, Any]] = {
    "scalegmn_as_published": {"bidirectional": True},
    "nfn_np_as_published": {"normalize": True},
    "monomial_siren": _NARROW, "monomial_siren_np": _NARROW, "monomial_siren_unit": _NARROW,
}  # fmt: skip
"""Settings for symmetry and blind spots, beside the defaults: those with which a published fault shows, and fewer
channels where the default is so wide that random tests would take minutes."""
PROBED_EDITORS: Mapping[str, Mapping[str, Any]] = {
    "nfn_hnp": _NARROW, "nfn_np": _NARROW, "monomial": _NARROW, "monomial_as_published": _NARROW,
}  # fmt: skip
"""The same for editors."""


@dataclass(frozen=True)
class Subject:
    """One model of the table.

    Args:
        name: of the baseline or of our layer.
        claimed: kinds of symmetry that it claims to be exact for.
        paper: arXiv number, or "this repository".
        package: of its code, by which golden files are assigned to it.
        presets: published settings by name.
        make: ``make(specs=, out=, **settings)``.
        editor: whether it edits networks.
        probed: settings for symmetry and blind spots.
    """

    name: str
    claimed: frozenset[str]
    paper: str
    package: str
    presets: Mapping[str, Mapping[str, Any]]
    make: Callable[..., nn.Module]
    editor: bool = False
    probed: Mapping[str, Any] = field(default_factory=dict)

    def probe(self, specs: Sequence[NetSpec]) -> nn.Module:
        """The model with its settings for symmetry and blind spots."""
        return self.make(specs=specs, **self.probed) if self.editor else self.make(specs=specs, out=3, **self.probed)


def subjects(names: Sequence[str] = ()) -> list[Subject]:
    """Our layers, then the baselines that predict from chains of layers.

    Args:
        names: only these; all where empty.

    Raises:
        ExperimentError: an unknown name.

    Example:
        >>> [s.name for s in subjects(["statnn", "native"])]
        ['native', 'statnn']
    """
    known = (*LAYERS, *baselines.names())
    _refuse_unknown(names, known)
    adapters = baselines.adapter_names()
    chosen = [n for n in known if n not in adapters and (not names or n in names)]
    return [_ours(n) if n in LAYERS else _baseline(n) for n in chosen]


def adapter_subjects(names: Sequence[str] = ()) -> list[Subject]:
    """Our model as it reads traced networks, then the baselines that read low-rank adapters.

    Args:
        names: only these; all where empty.

    Example:
        >>> [s.name for s in adapter_subjects(["lol", "statnn"])]
        ['lol']
    """
    make = partial(_graph_meta_net, layer="combined")
    ours = Subject("combined", frozenset({"GL"}), "this repository", "graphnfn", {}, make)
    chosen = [n for n in baselines.adapter_names() if not names or n in names]
    return [ours] * (not names or "combined" in names) + [_baseline(n) for n in chosen]


def editors() -> list[Subject]:
    """Our model with the edit head, then the baselines that edit networks."""
    edit = partial(_graph_meta_net, layer="combined", head="edit", out=1)
    ours = Subject("combined", EVERYTHING, "this repository", "graphnfn", {}, edit, editor=True)
    return [ours, *(_editor(name) for name in baselines.editor_names())]


def _refuse_unknown(names: Sequence[str], known: Sequence[str]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ExperimentError(f"unknown models {', '.join(unknown)}; known: {', '.join(known)}")


def _graph_meta_net(*, specs: Sequence[NetSpec], **settings: Any) -> nn.Module:
    return GraphMetaNet(MetaNetConfig(**settings), specs=specs)


def _ours(name: str) -> Subject:
    make = partial(_graph_meta_net, layer=name)
    return Subject(name, EVERYTHING, "this repository", "graphnfn", {}, make)


def _baseline(name: str) -> Subject:
    make = partial(baselines.build, name)
    return _described(name, baselines.class_of(name), make, PROBED.get(name, {}), editor=False)


def _editor(name: str) -> Subject:
    make, cls = partial(baselines.build_editor, name), baselines.editor_class_of(name)
    return _described(name, cls, make, PROBED_EDITORS.get(name, {}), editor=True)


def _described(
    name: str, cls: Any, make: Callable[..., nn.Module], probed: Mapping[str, Any], *, editor: bool
) -> Subject:
    package = ".".join(cls.__module__.split(".")[:2])
    docs = [sys.modules[m].__doc__ or "" for m in (cls.__module__, package)]
    found = next((m[1] for m in map(_ARXIV.search, docs) if m), "")
    return Subject(name, cls.symmetry, found, package, cls.presets, make, editor, probed)
