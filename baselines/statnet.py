"""StatNN as the NFN paper's code runs it: unscaled statistics, an MLP of width 1,000.

Zhou et al., "Permutation Equivariant Neural Functionals" (2023), arXiv 2302.14040, baseline StatNN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from baselines.errors import BaselineError
from baselines.foreign import Meta, load_strict, official_spec, refuse_rest, take_below
from baselines.nfn.official import by_number
from baselines.statnn import NUM_STATISTICS, StatNN
from baselines.weight_space import ChainForm, chain_form
from graphnfn.spec import NetSpec

_VARIANCE = 1


class StatNet(StatNN):
    """:class:`StatNN` without standardisation; its output is before the sigmoid that the published code has.

    Losses of fractions put a sigmoid behind what they get; with two of them predictions would all be above 1/2.

    Args:
        specs: architectures that it shall read.
        out: numbers predicted per network.
        hidden: width of the two hidden layers.
        dropout: behind each hidden layer.

    Shape: ``[networks, out]``.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> spec = mlp_spec([2, 4, 1], "relu")
        >>> StatNet([spec], out=3)(random_graph(spec, networks=5, dtype=torch.float32)).shape
        torch.Size([5, 3])
    """

    symmetry: ClassVar[frozenset[str]] = frozenset({"permutation"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"small_cnn_zoo": {"hidden": 1000}})

    def __init__(self, specs: Sequence[NetSpec], out: int, *, hidden: int = 1000, dropout: float = 0.0) -> None:
        super().__init__(specs, out, hidden=hidden, dropout=dropout)
        self.standardize = nn.Identity()


class PublishedStatNet(StatNet):
    """A :class:`StatNet` with the sigmoid: between 0 and 1.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 4, 1], "relu"), networks=5, dtype=torch.float32)
        >>> out = PublishedStatNet([graph.spec], out=3)(graph).detach()
        >>> 0 <= float(out.min()) and float(out.max()) <= 1
        True
    """

    def forward(self, data: Data) -> Tensor:
        return torch.sigmoid(super().forward(data))


def from_official(meta: Meta, state: Mapping[str, Tensor]) -> nn.Module:
    """A StatNet with the weights of AllanYangZhou/nfn's ``StatNet``.

    The official code takes tensors layer by layer and variances over n - 1 entries; both are moved into the first
    layer's weights.

    Raises:
        BaselineError: weights that do not fit, or settings that no published configuration uses.
    """
    state, settings, spec = dict(state), meta["constructor"], official_spec(meta)
    if settings.get("normalize") or not settings.get("sigmoid"):
        raise BaselineError(f"expected sigmoid=True, normalize=False as published; got {dict(settings)}")
    parts = by_number(take_below(state, "hypernetwork."))
    refuse_rest(state)
    model = PublishedStatNet([spec], len(parts[-1]["bias"]), hidden=settings["h_size"]).to(parts[-1]["bias"].dtype)
    linears = [m for m in model.predict if isinstance(m, nn.Linear)]
    if len(linears) != len(parts):
        raise BaselineError(f"expected weights of {len(linears)} linear layers; got {len(parts)}")
    parts[0]["weight"] = _columns(parts[0]["weight"], chain_form(spec), model.columns)
    for linear, part in zip(linears, parts, strict=True):
        load_strict(linear, part)
    return model


def _columns(weight: Tensor, form: ChainForm, columns: Mapping[tuple[str, int], int]) -> Tensor:
    """The official first matrix, ``[hidden, tensors * 7]``, for our order of tensors and our variances."""
    if weight.shape[1] != 2 * form.depth * NUM_STATISTICS:
        raise BaselineError(f"expected {2 * form.depth * NUM_STATISTICS} statistics; got weights for {weight.shape[1]}")
    ours = torch.empty(len(weight), len(columns), NUM_STATISTICS, dtype=weight.dtype)
    theirs = weight.unflatten(1, (form.depth, 2, NUM_STATISTICS))
    for i in range(form.depth):
        counts = (form.widths[i + 1] * form.widths[i] * form.tap_counts[i], form.widths[i + 1])
        for j, slot in enumerate((("weight", i), ("bias", i + 1))):
            rows = theirs[:, i, j].clone()
            rows[:, _VARIANCE] *= counts[j] / max(counts[j] - 1, 1)
            ours[:, columns[slot]] = rows
    return ours.flatten(1)
