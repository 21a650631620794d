"""What GL-net is compared with: MLPs on flat factors, aligned factors, singular values and dense products.

Putterman et al., "Learning on LoRAs" (2024), arXiv 2410.04207; sizes as in moeputt/LoL at 541d6b3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.lol.pairs import LoraModel, Pairs, Shapes, mlp


class FlatLoraMLP(LoraModel):
    """An MLP on the factors as they are; no symmetry.

    Args:
        shapes: sizes of the adapted layers.
        out: numbers predicted per adapter.
        rank: of the adapters; lower ones are filled up with zeros.
        hidden: width of the MLP.
    """

    def __init__(self, shapes: Shapes, out: int, *, rank: int, hidden: int = 128) -> None:
        super().__init__(shapes)
        self.rank = rank
        self.head = mlp(rank * sum(n + m for n, m in shapes.values()), hidden, out)

    def factors(self, pairs: Pairs) -> list[tuple[Tensor, Tensor]]:
        """What the MLP reads, ``U [B, d_out, rank]`` and ``V [B, d_in, rank]`` per layer."""
        return self.read(pairs, self.rank)

    def forward(self, pairs: Pairs) -> Tensor:
        return self.head(torch.cat([x.flatten(1) for uv in self.factors(pairs) for x in uv], 1))


class AlignedLoraMLP(FlatLoraMLP):
    """An MLP on factors turned towards a template: invariant to orthogonal R, not to all.

    ``(U Q, V Q)`` with the orthogonal Q that brings ``[U; V]`` closest to the template's, ``Q = X Y^T`` from
    ``[U; V]^T [U_0; V_0] = X S Y^T`` (orthogonal Procrustes problem).

    Args:
        shapes: sizes of the adapted layers.
        out: numbers predicted per adapter.
        template: one adapter, with B = 1, of the rank of all; one of the training set in the published code.
        hidden: width of the MLP.
    """

    symmetry = frozenset({"O"})

    def __init__(self, shapes: Shapes, out: int, *, template: Pairs, hidden: int = 128) -> None:
        super().__init__(shapes, out, rank=max(a.shape[1] for a, _ in template.values()), hidden=hidden)
        for i, uv in enumerate(self.read(template, self.rank)):
            self.register_buffer(f"template_{i}", torch.cat(uv, 1))

    def set_template(self, template: Pairs) -> None:
        """Turn to another adapter from now on, one with B = 1."""
        for i, uv in enumerate(self.read(template, self.rank)):
            self.get_buffer(f"template_{i}").copy_(torch.cat(uv, 1))

    def factors(self, pairs: Pairs) -> list[tuple[Tensor, Tensor]]:
        return [self._turn(i, u, v) for i, (u, v) in enumerate(self.read(pairs, self.rank))]

    def _turn(self, i: int, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        x, _, y = torch.linalg.svd(torch.cat([u, v], 1).transpose(1, 2) @ self.get_buffer(f"template_{i}"))
        turn = x @ y
        return u @ turn, v @ turn


class SingularValueMLP(LoraModel):
    """An MLP on the singular values of the products: invariant to invertible R, and to rotations of outputs and inputs.

    Args:
        shapes: sizes of the adapted layers.
        out: numbers predicted per adapter.
        rank: of the adapters; lower ones have zeros.
        hidden: width of the MLP.
    """

    symmetry = frozenset({"GL"})

    def __init__(self, shapes: Shapes, out: int, *, rank: int, hidden: int = 128) -> None:
        super().__init__(shapes)
        self.rank = rank
        self.head = mlp(sum(min(n, m, rank) for n, m in shapes.values()), hidden, out)

    def forward(self, pairs: Pairs) -> Tensor:
        return self.head(torch.cat([singular_values(u, v) for u, v in self.read(pairs, self.rank)], 1))


class DenseLoraMLP(LoraModel):
    """An MLP on the products themselves: invariant to invertible R, with ``d_out * d_in`` features per layer.

    Args:
        shapes: sizes of the adapted layers.
        out: numbers predicted per adapter.
        hidden: width of the MLP.
    """

    symmetry = frozenset({"GL"})

    def __init__(self, shapes: Shapes, out: int, *, hidden: int = 16) -> None:
        super().__init__(shapes)
        self.head = mlp(sum(n * m for n, m in shapes.values()), hidden, out)

    def forward(self, pairs: Pairs) -> Tensor:
        return self.head(torch.cat([(u @ v.transpose(1, 2)).flatten(1) for u, v in self.read(pairs)], 1))


def singular_values(u: Tensor, v: Tensor) -> Tensor:
    """The singular values of ``U V^T``, at most r, without forming it: those of ``R_U R_V^T`` of two thin QRs.

    Example:
        >>> u, v = torch.eye(6)[:, :2] * torch.tensor([3.0, 2.0]), torch.eye(5)[:, :2]
        >>> [round(float(s), 4) for s in singular_values(u, v)]
        [3.0, 2.0]
    """
    return torch.linalg.svdvals(torch.linalg.qr(u).R @ torch.linalg.qr(v).R.transpose(-1, -2))
