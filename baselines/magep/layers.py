"""Layers of MAGEP-NFN: polynomials of all tensors of a network that change under its symmetries as one tensor does.

Vo, Tran, Tran Huu et al., "Equivariant Polynomial Functional Networks" (ICML 2025), arXiv 2410.04213: the stable
polynomial terms and the maps made of them. Written from the formulas alone. Features have their channels last, see
:mod:`baselines.nfn.layers`; all layers are dense here.

With layers numbered from 1 to L, products ``P(s, t) = W_s W_(s-1) ... W_(t+1)`` and fixed matrices Psi from outputs to
inputs (or, for biases, to one number), channel by channel:

- ``P(s, t)``, ``[WW](s, t) = P(s, 0) Psi P(L, t)`` and ``[bW](s, t) = b_s Psi P(L, t)`` change as a weight from group
  t to group s would;
- ``[Wb](s, t) = P(s, t) b_t`` changes as b_s does.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from baselines.chain_form import ChainForm
from baselines.errors import BaselineError
from baselines.monomial.layers import xavier
from baselines.weight_space import WeightSpace


class StableTerms:
    """The polynomial terms of the features of some networks.

    Args:
        space: dense features, channels last.

    Example:
        >>> weights = (torch.ones(5, 4, 2, 3), torch.ones(5, 1, 4, 3))
        >>> terms = StableTerms(WeightSpace(weights, (torch.ones(5, 4, 3), torch.ones(5, 1, 3))))
        >>> terms.matrices(2, 0, torch.ones(3, 3, 1)).shape, terms.bias_products[2].shape
        (torch.Size([5, 1, 2, 9]), torch.Size([5, 3, 1]))
    """

    def __init__(self, space: WeightSpace) -> None:
        self.depth = len(space.weights)
        self.weights = [w.movedim(-1, 1) for w in space.weights]
        self.biases = [b.movedim(-1, 1) for b in space.biases]
        self.from_inputs = {1: self.weights[0]}
        for s in range(2, self.depth + 1):
            self.from_inputs[s] = self.weights[s - 1] @ self.from_inputs[s - 1]
        self.to_outputs = {self.depth - 1: self.weights[-1]}
        for t in range(self.depth - 2, 0, -1):
            self.to_outputs[t] = self.to_outputs[t + 1] @ self.weights[t]
        self.to_outputs[0] = self.from_inputs[self.depth]
        self.bias_products = {1: torch.zeros_like(self.biases[0])}
        for s in range(2, self.depth + 1):
            carried = self.biases[s - 2] + self.bias_products[s - 1]
            self.bias_products[s] = (self.weights[s - 1] @ carried[..., None])[..., 0]

    def product(self, s: int, t: int) -> Tensor:
        """``P(s, t)``, ``[B, C, n_s, n_t]``, for t = s - 1 or t = 0."""
        return self.weights[s - 1] if t == s - 1 else self.from_inputs[s]

    def matrices(self, s: int, t: int, psi: Tensor) -> Tensor:
        """``P(s, t)``, ``[WW](s, t)`` and ``[bW](s, t)`` side by side, ``[B, n_s, n_t, 3 C]``.

        Args:
            s: group that they end in.
            t: group that they start from, s - 1 or 0.
            psi: ``[C, n_0 + 1, n_L]``; the last row is that of the bias.
        """
        right = psi @ self.to_outputs[t]
        ww = self.from_inputs[s] @ right[:, :, :-1]
        bw = self.biases[s - 1][..., None] * right[:, :, -1:]
        return torch.cat([self.product(s, t), ww, bw], 1).movedim(1, -1)

    def outputs(self, psi: Tensor, traces: Iterable[Tensor]) -> Tensor:
        """All that no symmetry of hidden neurons moves, ``[B, C (3 n_L n_0 + 2 n_L + 2 (L - 1))]``.

        The :meth:`matrices` from inputs to outputs, ``sum_t [Wb](L, t)``, b_L, and the traces of ``[WW](s, s)`` and
        ``[bW](s, s)``. Since traces are cyclic these are ``tr(Psi P(L, 0))`` and ``Psi [Wb](L, s)``.

        Args:
            psi: see :meth:`matrices`.
            traces: one more psi for every hidden group s.
        """
        ww, bw = [], []
        for s, own in enumerate(traces, 1):
            ww.append((own[:, :-1].transpose(1, 2) * self.from_inputs[self.depth]).sum((2, 3)))
            carried = (self.to_outputs[s] @ self.biases[s - 1][..., None])[..., 0]
            bw.append((own[:, -1] * carried).sum(2))
        ends = (self.bias_products[self.depth].transpose(1, 2), self.biases[-1].transpose(1, 2))
        parts = (self.matrices(self.depth, 0, psi), *ends, torch.stack(ww, 1), torch.stack(bw, 1))
        return torch.cat([p.flatten(1) for p in parts], 1)


class PolynomialLinear(nn.Module):
    """A linear map of the stable terms onto every tensor, which commutes with scales or signs and permutations.

    With ``M(s, t)`` the three matrix terms, and a matrix over channels for each arrow:

    - ``W'_1, b'_1``: linear in ``M(1, 0)[j, :]`` and ``b_1[j]``, at every first hidden neuron j;
    - ``W'_l[j, k]``: linear in ``M(l, l - 1)[j, k]``;
      ``b'_l[j]``: in ``M(l, 0)[j, :]``, ``sum_t [Wb](l, t)[j]`` and ``b_l[j]``;
    - ``W'_L[:, k]``: linear in ``M(L, L - 1)[:, k]``, at every last hidden neuron k;
      ``b'_L``: affine in :meth:`StableTerms.outputs`.

    Args:
        form: sizes of the networks, two dense layers or more; hidden widths do not matter.
        in_channels: channels before.
        out_channels: channels behind.

    Raises:
        BaselineError: there are kernels, or no hidden neurons.

    Example:
        >>> form = ChainForm((2, 4, 1), ((), ()))
        >>> weights = (torch.ones(5, 4, 2, 3), torch.ones(5, 1, 4, 3))
        >>> space = WeightSpace(weights, (torch.ones(5, 4, 3), torch.ones(5, 1, 3)))
        >>> [tuple(w.shape) for w in PolynomialLinear(form, 3, 6)(space).weights]
        [(5, 4, 2, 6), (5, 1, 4, 6)]
    """

    def __init__(self, form: ChainForm, in_channels: int, out_channels: int) -> None:
        super().__init__()
        _check(form)
        c, d, depth = in_channels, out_channels, form.depth
        self.n_in, self.n_out = form.widths[0], form.widths[-1]
        self.psi = _psi(form, c, {(s, t) for s in range(1, depth + 1) for t in (s - 1, 0)}, trained=False)
        self.traces = _psi(form, c, {(s, s) for s in range(1, depth)}, trained=False)
        self.split = [self.n_in * d, d]
        self.first = nn.Linear((3 * self.n_in + 1) * c, sum(self.split), bias=False)
        self.entries = nn.ModuleList(nn.Linear(3 * c, d, bias=False) for _ in range(depth - 2))
        self.biases = nn.ModuleList(nn.Linear((3 * self.n_in + 2) * c, d, bias=False) for _ in range(depth - 2))
        self.last = nn.Linear(3 * self.n_out * c, self.n_out * d, bias=False)
        self.last_bias = nn.Linear(_output_terms(form) * c, self.n_out * d)
        xavier(self.first, [(self.n_in * d, 4), (d, 4)])
        for linear, arrows in (*((e, 3) for e in self.entries), *((b, 5) for b in self.biases), (self.last, 3)):
            assert isinstance(linear, nn.Linear)
            xavier(linear, [(linear.out_features, arrows)])
        xavier(self.last_bias, [(self.n_out * d, _ARROWS)])

    def forward(self, space: WeightSpace) -> WeightSpace:
        terms, depth = StableTerms(space), len(space.weights)
        at_first = torch.cat([terms.matrices(1, 0, self.psi["1_0"]).flatten(2), space.biases[0]], 2)
        weight, bias = self.first(at_first).split(self.split, 2)
        weights, biases = [weight.unflatten(2, (self.n_in, -1))], [bias]
        for s in range(2, depth):
            weights.append(self.entries[s - 2](terms.matrices(s, s - 1, self.psi[f"{s}_{s - 1}"])))
            own = terms.matrices(s, 0, self.psi[f"{s}_0"]).flatten(2)
            own = torch.cat([own, terms.bias_products[s].transpose(1, 2), space.biases[s - 1]], 2)
            biases.append(self.biases[s - 2](own))
        at_last = terms.matrices(depth, depth - 1, self.psi[f"{depth}_{depth - 1}"]).transpose(1, 2)
        weights.append(self.last(at_last.flatten(2)).unflatten(2, (self.n_out, -1)).transpose(1, 2))
        outputs = terms.outputs(self.psi[f"{depth}_0"], self.traces.values())
        biases.append(self.last_bias(outputs).unflatten(1, (self.n_out, -1)))
        return WeightSpace(tuple(weights), tuple(biases))


class PolynomialPool(nn.Module):
    """An affine map of :meth:`StableTerms.outputs`: ``f(g x) = f(x)``, whatever moves hidden neurons.

    It is blind to any change of basis of a hidden group; the activations between layers before it are not.

    Args:
        form: sizes of the networks, two dense layers or more; hidden widths do not matter.
        in_channels: channels before.
        out: numbers behind.

    Raises:
        BaselineError: there are kernels, or no hidden neurons.

    Shape: ``[B, out]``.
    """

    def __init__(self, form: ChainForm, in_channels: int, out: int) -> None:
        super().__init__()
        _check(form)
        self.psi = _psi(form, in_channels, {(form.depth, 0)}, trained=True)
        self.traces = _psi(form, in_channels, {(s, s) for s in range(1, form.depth)}, trained=True)
        self.map = nn.Linear(_output_terms(form) * in_channels, out)
        xavier(self.map, [(out, _ARROWS)])

    def forward(self, space: WeightSpace) -> Tensor:
        terms = StableTerms(space)
        return self.map(terms.outputs(self.psi[f"{terms.depth}_0"], self.traces.values()))


_ARROWS = 8
"""Maps of the paper that end in an output: of three matrix terms, two biases, two traces, and a constant."""


def _output_terms(form: ChainForm) -> int:
    n_in, n_out = form.widths[0], form.widths[-1]
    return 3 * n_out * n_in + 2 * n_out + 2 * (form.depth - 1)


def _psi(form: ChainForm, channels: int, pairs: set[tuple[int, int]], *, trained: bool) -> nn.ParameterDict:
    """Matrices ``[C, n_0 + 1, n_L]`` by ``s_t``, of the size that published weights have."""
    n_in, n_out = form.widths[0], form.widths[-1]
    std = torch.tensor([1 / n_in] * n_in + [1.0])[:, None] / (channels * n_out)
    return nn.ParameterDict(
        {
            f"{s}_{t}": nn.Parameter(std * torch.randn(channels, n_in + 1, n_out), requires_grad=trained)
            for s, t in sorted(pairs)
        }
    )


def _check(form: ChainForm) -> None:
    if form.depth < 2 or any(form.taps):
        raise BaselineError(
            f"polynomial terms need two dense layers or more; got {form}: map kernels to one entry first"
        )
