"""Several models in place of one: their errors differ where their starts do, and part of them averages out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphnfn.graph import NeuralGraph


class Ensemble(nn.Module):
    """The mean output of its members, ``f(G) = mean_k f_k(G)``, which has every symmetry that they all have.

    Each member learns as if it were alone: :class:`experiments.training.MetaNetModule` adds up their losses, not the
    loss of their mean.

    Args:
        members: one at least, with equal outputs.

    Shape: ``[networks, out]``, as the members.

    Example:
        >>> from torch import nn
        >>> pair = Ensemble([nn.Linear(2, 1), nn.Linear(2, 1)])
        >>> x = torch.randn(3, 2)
        >>> bool(torch.allclose(pair(x), (pair.members[0](x) + pair.members[1](x)) / 2))
        True
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, graph: NeuralGraph) -> Tensor:
        return torch.stack([member(graph) for member in self.members]).mean(0)


def members_of(model: nn.Module) -> list[nn.Module]:
    """The members of an ensemble; of another model, the model."""
    return list(model.members) if isinstance(model, Ensemble) else [model]


def with_members(model: nn.Module, fresh: Callable[[], nn.Module], count: int) -> nn.Module:
    """A model as the first of ``count`` members; as it is where it stays the only one."""
    return model if count == 1 else Ensemble([model, *(fresh() for _ in range(count - 1))])
