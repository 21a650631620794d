"""Layers of Monomial-NFN: linear maps of weights that commute with scales or signs of hidden neurons.

Tran, Vo, Tran, Nguyen, Nguyen, "Monomial Matrix Group Equivariant Neural Functional Networks" (2024),
arXiv 2409.11697: section 5 (equivariant layers, the positive and the sign case; invariant layers). Details as in
MathematicalAI-NUS/Monomial-NFN at 43aa468. Features have their channels last, see :mod:`baselines.nfn.layers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.chain_form import ChainForm
from baselines.errors import BaselineError
from baselines.nfn.layers import HNPPool
from baselines.weight_space import WeightSpace


class MonomialLinear(nn.Module):
    """The linear map for positive scales, and for signs: each tensor hears itself, W_1 and b_1 also each other.

    With g the group element, ``layer(g x) = g layer(x)``; one matrix over channels per letter:

    - ``W'_1[j, k] = sum_q A[q, k] W_1[j, q] + B[k] b_1[j]`` and ``b'_1[j] = sum_q C[q] W_1[j, q] + D b_1[j]``;
    - ``W'_l[j, k] = A_l W_l[j, k]`` and ``b'_l[j] = D_l b_l[j]`` between;
    - ``W'_L[j, k] = sum_p A[p, j] W_L[p, k]`` and ``b'_L[j] = sum_p B[p, j] b_L[p] + t[j]``.

    There are ``c c' ((f_1 n_0 + 1)^2 + sum_(1<l<L) (f_l^2 + 1) + (f_L^2 + 1) n_L^2) + c' n_L`` parameters, for kernels
    of f_l entries. The published code stops at a last layer with kernels; this one does not.

    Args:
        form: sizes of the networks, two layers or more; hidden widths do not matter.
        in_channels: channels before.
        out_channels: channels behind.
        onto: the form of the result, which may have other kernels; by default the same.

    Raises:
        BaselineError: there is one layer only, so no hidden neuron.

    Example:
        >>> form = ChainForm((2, 4, 1), ((), ()))
        >>> weights = (torch.ones(5, 4, 2, 3), torch.ones(5, 1, 4, 3))
        >>> space = WeightSpace(weights, (torch.ones(5, 4, 3), torch.ones(5, 1, 3)))
        >>> [tuple(w.shape) for w in MonomialLinear(form, 3, 6)(space).weights]
        [(5, 4, 2, 6), (5, 1, 4, 6)]
    """

    def __init__(self, form: ChainForm, in_channels: int, out_channels: int, onto: ChainForm | None = None) -> None:
        super().__init__()
        if form.depth < 2:
            raise BaselineError(
                f"a monomial layer needs hidden neurons; got widths {form.widths}: use networks of two layers or more"
            )
        c, d = in_channels, out_channels
        self.n_in, self.n_out = form.widths[0], form.widths[-1]
        own = [taps * c for taps in form.tap_counts]
        wide = [taps * d for taps in (onto or form).tap_counts]
        rows, columns = self.n_in * wide[0], self.n_out * wide[-1]
        self.first = nn.Linear(self.n_in * own[0] + c, rows + d, bias=False)
        self.entries = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in zip(own[1:-1], wide[1:-1], strict=True))
        self.biases = nn.ModuleList(nn.Linear(c, d, bias=False) for _ in self.entries)
        self.last = nn.Linear(self.n_out * own[-1], columns, bias=False)
        self.last_bias = nn.Linear(self.n_out * c, self.n_out * d)
        self.split = [rows, d]
        xavier(self.first, [(rows, 2), (d, 2)])
        for linear in (*self.entries, *self.biases, self.last):
            assert isinstance(linear, nn.Linear)
            xavier(linear, [(linear.out_features, 1)])
        xavier(self.last_bias, [(self.n_out * d, 2)])

    def forward(self, space: WeightSpace) -> WeightSpace:
        w, b = space.weights, space.biases
        first, bias = self.first(torch.cat([w[0].flatten(2), b[0]], 2)).split(self.split, 2)
        last = self.last(w[-1].transpose(1, 2).flatten(2)).unflatten(2, (self.n_out, -1)).transpose(1, 2)
        last_bias = self.last_bias(b[-1].flatten(1)).unflatten(1, (self.n_out, -1))
        entries = [f(x) for f, x in zip(self.entries, w[1:-1], strict=True)]
        biases = [f(x) for f, x in zip(self.biases, b[1:-1], strict=True)]
        return WeightSpace((first.unflatten(2, (self.n_in, -1)), *entries, last), (bias, *biases, last_bias))


class SignLinear(MonomialLinear):
    """The linear map for signs only: also the last weights and the bias of the neurons that they leave hear each other.

    ``W'_L[j, k] += E[j] b_(L-1)[k]`` and ``b'_(L-1)[k] += sum_p F[p] W_L[p, k]``, since a sign is its own inverse;
    2 c c' n_L f_L parameters more than :class:`MonomialLinear`.

    Args:
        form: sizes of the networks, two layers or more; hidden widths do not matter.
        in_channels: channels before.
        out_channels: channels behind.
    """

    def __init__(self, form: ChainForm, in_channels: int, out_channels: int) -> None:
        super().__init__(form, in_channels, out_channels)
        self.from_bias = nn.Linear(in_channels, self.last.out_features, bias=False)
        self.into_bias = nn.Linear(self.last.in_features, out_channels, bias=False)
        xavier(self.from_bias, [(self.from_bias.out_features, 1)])
        xavier(self.into_bias, [(out_channels, 1)])

    def forward(self, space: WeightSpace) -> WeightSpace:
        out = super().forward(space)
        weight = self.from_bias(space.biases[-2]).unflatten(2, (self.n_out, -1)).transpose(1, 2)
        bias = self.into_bias(space.weights[-1].transpose(1, 2).flatten(2))
        weights = (*out.weights[:-1], out.weights[-1] + weight)
        return WeightSpace(weights, (*out.biases[:-2], out.biases[-2] + bias, out.biases[-1]))


class MonomialStack(nn.Module):
    """Linear layers with one function between them and one behind the last.

    Args:
        layer: :class:`MonomialLinear` or :class:`SignLinear`.
        form: sizes of the networks.
        channels: before the first layer, between, behind the last.
        between: commutes with what the layers commute with: ReLU for scales, odd functions for signs.
        behind: like ``between``, or an even function where invariants are wanted.
    """

    def __init__(
        self,
        layer: type[MonomialLinear],
        form: ChainForm,
        channels: Sequence[int],
        between: Callable[[Tensor], Tensor],
        behind: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        pairs = list(zip(channels, channels[1:], strict=False))
        self.layers = nn.ModuleList(layer(form, a, b) for a, b in pairs)
        self.functions = [between] * (len(pairs) - 1) + [behind]

    def forward(self, space: WeightSpace) -> WeightSpace:
        for layer, function in zip(self.layers, self.functions, strict=True):
            space = layer(space).map(function)
        return space


class MonomialPool(nn.Module):
    """Unit vectors over the channels of each weight, a learned affine map, means over hidden neurons.

    ``mean_(j, k)(gamma * x[j, k] / |x[j, k]| + beta)`` per tensor, with the taps of a kernel among its channels; inputs
    and outputs are kept apart, and b_L is taken as it is. It is invariant to permutations and positive scales, for
    every kernel on its own, so to more than the scales of neurons: only directions are seen.

    Args:
        form: sizes of the networks.
        channels: of the features.

    Shape: ``[B, C, features]``, as :class:`baselines.nfn.layers.HNPPool`.

    Example:
        >>> MonomialPool(ChainForm((3, 16, 16, 10), ((3, 3), (3, 3), ())), 5).features
        58
    """

    def __init__(self, form: ChainForm, channels: int) -> None:
        super().__init__()
        self.pool = HNPPool(form)
        self.features, self.ends = self.pool.features, (form.widths[0], form.widths[-1])
        for name in ("gamma", "beta"):
            weights = nn.ParameterList(torch.randn(taps * channels) for taps in form.tap_counts)
            self.add_module(f"weight_{name}", weights)
            biases = nn.ParameterList(torch.randn(channels) for _ in form.tap_counts[1:])
            self.add_module(f"bias_{name}", biases)

    def forward(self, space: WeightSpace) -> Tensor:
        unit = space.map(lambda x: F.normalize(x, dim=-1))
        pooled = self.pool(WeightSpace(unit.weights, (*unit.biases[:-1], space.biases[-1])))
        return pooled * self._each("gamma", 1.0) + self._each("beta", 0.0)

    def _each(self, name: str, last: float) -> Tensor:
        """One number per channel and pooled feature, ``[1, C, features]``: means and affine maps change places."""
        weights, biases = (list(self.get_submodule(f"{kind}_{name}").parameters()) for kind in ("weight", "bias"))
        n_in, n_out = self.ends
        shapes = [(1, n_in, -1), *[(1, 1, -1)] * (len(weights) - 2), (n_out, 1, -1)]
        spread = tuple(v.expand(1, *shape) for v, shape in zip(weights, shapes, strict=True))
        final = torch.full_like(biases[0], last).expand(1, n_out, -1)
        return self.pool(WeightSpace(spread, (*(v.expand(1, 1, -1) for v in biases), final)))


def xavier(linear: nn.Linear, rows: Sequence[tuple[int, int]]) -> None:
    """Draw blocks of rows as the published code does: ``std^2 = 2 / (inputs + arrows * rows)``.

    Args:
        linear: the map; a bias is drawn with its rows.
        rows: per block, its size and how many maps of the paper end in it.
    """
    start = 0
    for size, arrows in rows:
        std = (2 / (linear.in_features + arrows * size)) ** 0.5
        nn.init.normal_(linear.weight[start : start + size], std=std)
        if linear.bias is not None:
            nn.init.normal_(linear.bias[start : start + size], std=std)
        start += size
