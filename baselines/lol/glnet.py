"""GL-net: equivariant linear maps and gates, then an invariant head.

Putterman et al., "Learning on LoRAs" (2024), arXiv 2410.04207: equivariant layers, invariant head, and sizes as in
moeputt/LoL at 541d6b3.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines.foreign import Meta, load_strict, refuse_rest, take
from baselines.lol.pairs import LoraModel, Pairs, Shapes, mlp


class GLGate(nn.Module):
    """Drop the rows whose products sum to nothing positive: ``U_i -> [sum_j (U V^T)_ij > 0] U_i``, and V likewise.

    The products are invariant, so ``(U R^-1, V R^T)`` leads to ``(U' R^-1, V' R^T)``.
    """

    def forward(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        of_u = (u * v.sum(-2, keepdim=True)).sum(-1, keepdim=True)
        of_v = (v * u.sum(-2, keepdim=True)).sum(-1, keepdim=True)
        return u * (of_u > 0), v * (of_v > 0)


class GLLayers(nn.Module):
    """Linear maps from the left, with gates between: all linear maps that commute with GL(r) are of this form.

    ``U -> Phi U`` and ``V -> Psi V``, another Phi and Psi for each adapted layer.

    Args:
        shapes: sizes of the adapted layers.
        width: rows behind every map.
        layers: maps.

    Shape: lists of ``U [B, d_out, r]``, ``V [B, d_in, r]`` to ``[B, adapted layers, width, r]`` each.
    """

    def __init__(self, shapes: Shapes, width: int, layers: int) -> None:
        super().__init__()
        self.first = nn.ParameterList()
        for sizes in shapes.values():
            self.first.extend(nn.Parameter(torch.randn(width, size) / size**0.5) for size in sizes)
        deeper = [torch.randn(2, len(shapes), width, width) / width**0.5 for _ in range(layers - 1)]
        self.deeper = nn.ParameterList(nn.Parameter(d) for d in deeper)
        self.gate = GLGate()

    def forward(self, pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        u = torch.stack([phi @ u for phi, (u, _) in zip(self.first[::2], pairs, strict=True)], 1)
        v = torch.stack([psi @ v for psi, (_, v) in zip(self.first[1::2], pairs, strict=True)], 1)
        for maps in self.deeper:
            u, v = self.gate(u, v)
            u, v = maps[0] @ u, maps[1] @ v
        return u, v


class GLNet(LoraModel):
    """:class:`GLLayers`, the products of what comes out, an MLP: ``f(R A, B R^-1) = f(A, B)`` for invertible R.

    Adapters of any rank can be read, also of different ranks in different layers.

    Args:
        shapes: sizes of the adapted layers.
        out: numbers predicted per adapter.
        width: rows behind the equivariant maps.
        layers: equivariant maps.
        hidden: width of the MLP.

    Raises:
        BaselineError: there are no shapes.

    Shape: ``[B, out]``.

    Example:
        >>> pairs = {"q": (torch.randn(5, 4, 64), torch.randn(5, 32, 4))}
        >>> GLNet({"q": (32, 64)}, out=3, width=8)(pairs).shape
        torch.Size([5, 3])
    """

    symmetry = frozenset({"GL"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"celeba": {"width": 64, "layers": 1, "hidden": 16}, "imagenette": {"width": 64, "layers": 1, "hidden": 128}}
    )

    def __init__(self, shapes: Shapes, out: int, *, width: int = 64, layers: int = 2, hidden: int = 128) -> None:
        super().__init__(shapes)
        self.layers = GLLayers(shapes, width, layers)
        self.head = mlp(self.invariants(width) * len(shapes), hidden, out)

    @staticmethod
    def invariants(width: int) -> int:
        """Numbers per adapted layer before the MLP."""
        return width * width

    def forward(self, pairs: Pairs) -> Tensor:
        u, v = self.layers(self.read(pairs))
        return self.head(self.products(u, v).flatten(1))

    def products(self, u: Tensor, v: Tensor) -> Tensor:
        """What no change of basis moves."""
        return u @ v.transpose(-1, -2)


class PooledGLNet(GLNet):
    """:class:`GLNet` that keeps the mean of each layer's products only (CLIP scores in the paper)."""

    presets = MappingProxyType({"clip": {"width": 16, "layers": 1, "hidden": 64}})

    @staticmethod
    def invariants(width: int) -> int:
        return 1

    def products(self, u: Tensor, v: Tensor) -> Tensor:
        return (u.mean(-2) * v.mean(-2)).sum(-1)


def from_official(meta: Meta, state: Mapping[str, Tensor]) -> nn.Module:
    """GL-net with weights of moeputt/LoL's ``diffusion/models/models.py:GLInvariantMLP``; layers are called 0, 1, ....

    Args:
        meta: its constructor's ``clip``; sizes are read from the weights.
        state: the official state dict.

    Raises:
        BaselineError: weights that do not fit.
    """
    state, first, deeper = dict(state), "equiv_mlp.first_layer", "equiv_mlp.equivariant_layers"
    count = sum(name.startswith(f"{first}.") for name in state) // 2
    more = sum(name.startswith(f"{deeper}_u.") for name in state)
    own = {f"layers.first.{2 * i + j}": take(state, f"{first}.{i}.w_{j + 1}") for i in range(count) for j in (0, 1)}
    for i in range(more):
        own[f"layers.deeper.{i}"] = torch.stack([take(state, f"{deeper}_{side}.{i}") for side in "uv"])
    for name, place in (("linear1", 0), ("ln1", 1), ("linear2", 3)):
        for end in ("weight", "bias"):
            own[f"head.{place}.{end}"] = take(state, f"invariant_head.{name}.{end}")
    refuse_rest(state)
    shapes = {
        str(i): (own[f"layers.first.{2 * i}"].shape[1], own[f"layers.first.{2 * i + 1}"].shape[1]) for i in range(count)
    }
    out, hidden = own["head.3.weight"].shape
    kind = PooledGLNet if meta["constructor"].get("clip") else GLNet
    width = own["layers.first.0"].shape[0] if count else 1
    model = kind(shapes, out, width=width, layers=more + 1, hidden=hidden)
    load_strict(model, own)
    return model
