"""Factor pairs of low-rank adapters, and what models that read them share.

Putterman, Lim, Gelberg, Jegelka, Maron, "Learning on LoRAs: GL-Equivariant Processing of Low-Rank Weight Spaces for
Large Finetuned Models" (2024), arXiv 2410.04207.

An adapter adds ``B A`` to a weight. For every invertible R the factors ``R A`` and ``B R^-1`` add the same: that is
the symmetry, one R per adapted layer. Convolutions come in flattened, ``A [r, d_in * taps]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.errors import BaselineError

Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""Per adapted layer, the factors of B adapters: ``A [B, r, d_in]`` and ``B [B, d_out, r]``."""
Shapes = Mapping[str, tuple[int, int]]
"""Per adapted layer, ``(d_out, d_in)``."""


def lora_shapes(pairs: Pairs) -> dict[str, tuple[int, int]]:
    """The sizes of adapted layers.

    Example:
        >>> lora_shapes({"q": (torch.zeros(5, 4, 64), torch.zeros(5, 32, 4))})
        {'q': (32, 64)}
    """
    return {name: (b.shape[1], a.shape[2]) for name, (a, b) in pairs.items()}


def change_basis(pairs: Pairs, bases: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Other factors of the same products: ``A -> R A``, ``B -> B R^-1``.

    Args:
        pairs: the factors.
        bases: per layer an invertible R, ``[r, r]`` or one for each adapter, ``[B, r, r]``.

    Example:
        >>> pairs = {"q": (torch.randn(5, 4, 64), torch.randn(5, 32, 4))}
        >>> a, b = change_basis(pairs, {"q": 2 * torch.eye(4)})["q"]
        >>> torch.equal(a, 2 * pairs["q"][0]), torch.equal(b @ a, pairs["q"][1] @ pairs["q"][0])
        (True, True)
    """
    return {name: (bases[name] @ a, torch.linalg.solve(bases[name], b, left=False)) for name, (a, b) in pairs.items()}


class LoraModel(nn.Module):
    """What models of adapters share: reading the factors in a fixed order, and the MLP behind the features.

    Args:
        shapes: sizes of the adapted layers that it shall read.
    """

    symmetry: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        if not shapes:
            raise BaselineError("a model of adapters got no shapes: give {name: (d_out, d_in)}, see lora_shapes(pairs)")
        self.shapes = dict(shapes)

    def read(self, pairs: Pairs, rank: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """``U = B [B, d_out, r]`` and ``V = A^T [B, d_in, r]`` per layer, filled up with zeros to one rank.

        Args:
            pairs: the factors.
            rank: the rank to fill up to; by default the largest one here.

        Raises:
            BaselineError: other layers or sizes than those of the model, or a higher rank.
        """
        if pairs.keys() != self.shapes.keys():
            missing, unknown = sorted(self.shapes.keys() - pairs.keys()), sorted(pairs.keys() - self.shapes.keys())
            raise BaselineError(f"adapters of other layers: missing {missing}, unknown {unknown}: build another model")
        for name, (n, m) in self.shapes.items():
            a, b = pairs[name]
            if a.ndim != 3 or b.ndim != 3 or (a.shape[2], b.shape[1]) != (m, n) or a.shape[:2] != b.shape[::2]:
                raise BaselineError(
                    f"factors of {name!r}: expected A [B, r, {m}] and B [B, {n}, r]; got {tuple(a.shape)} and "
                    f"{tuple(b.shape)}"
                )
        largest = max(pairs[name][0].shape[1] for name in self.shapes)
        if rank is not None and largest > rank:
            raise BaselineError(
                f"this model reads factors up to rank {rank}; got rank {largest}: build it with that rank"
            )
        size = largest if rank is None else rank
        both = ((pairs[name][1], pairs[name][0].transpose(1, 2)) for name in self.shapes)
        return [(F.pad(u, (0, size - u.shape[2])), F.pad(v, (0, size - v.shape[2]))) for u, v in both]


def mlp(features: int, hidden: int, out: int) -> nn.Sequential:
    """The MLP of all models here: one hidden layer, with a layer norm."""
    return nn.Sequential(nn.Linear(features, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, out))
