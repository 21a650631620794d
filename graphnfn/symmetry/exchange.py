"""Exchanges of equal parts of a network: experts, branches, the query heads of one key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graphnfn.law import Exchange, Piece


def exchanged(tensors: Mapping[str, Tensor], exchange: Exchange, order: Sequence[int]) -> dict[str, Tensor]:
    """New part k is old part ``order[k]``; tensors that stay as they are, and those that are not there, are passed on.

    Args:
        tensors: by name.
        exchange: the parts.
        order: a permutation of them.

    Example:
        >>> rows = tuple((Piece("w", 0, ((k, k + 1),)),) for k in range(3))
        >>> exchanged({"w": torch.tensor([5, 6, 7])}, Exchange("rows", rows), [2, 0, 1])["w"]
        tensor([7, 5, 6])
    """
    out = dict(tensors)
    copied: set[str] = set()
    for target, origin in zip(exchange.parts, [exchange.parts[k] for k in order], strict=True):
        for new, old in zip(target, origin, strict=True):
            if new == old or new.param not in tensors:
                continue
            if new.axis < 0:
                out[new.param] = tensors[old.param]
                continue
            if new.param not in copied:
                out[new.param] = tensors[new.param].clone()
                copied.add(new.param)
            values = tensors[old.param].index_select(old.axis, _index(old, tensors[old.param]))
            out[new.param].index_copy_(new.axis, _index(new, out[new.param]), values)
    return out


def _index(piece: Piece, tensor: Tensor) -> Tensor:
    return torch.cat([torch.arange(*run) for run in piece.runs]).to(tensor.device)


def orbits(exchanges: Sequence[Exchange]) -> dict[str, str]:
    """Tensor -> the first of the tensors that it may change places with; only tensors with a part."""
    first: dict[str, str] = {}

    def root(name: str) -> str:
        while first.get(name, name) != name:
            name = first[name]
        return name

    for exchange in exchanges:
        for pieces in zip(*exchange.parts, strict=True):
            for piece in pieces:
                first[root(piece.param)] = root(pieces[0].param)
    return {name: root(name) for name in first}
