"""NF-layers: linear maps between weight-space features that commute with permutations of neurons.

Zhou, Yang, Burns, Cardace, Jiang, Sokota, Kolter, Finn, "Permutation Equivariant Neural Functionals" (2023),
arXiv 2302.14040: NP, the group that moves inputs and outputs too (eq. 2), HNP, that of hidden neurons (tables 8 to 11).

Features here have their channels last and kernel entries among the channels, as ``WeightSpace.channels_last`` gives
them: weights ``[B, n_out, n_in, C * taps]``, biases ``[B, n_out, C]``. Only the numbers of inputs, outputs, layers and
taps enter the parameters, so networks of any hidden widths can be read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from baselines.errors import BaselineError
from baselines.weight_space import ChainForm, WeightSpace


class NPLinear(nn.Module):
    """The NP layer: each output weight hears its own entry, its two neurons, and everything (eq. 2).

    ``W'_l[j, i] = a W_l[j, i] + b (row and column means at j) + c (those at i) + d (all means)`` and the same for
    biases, with one matrix over channels and taps per layer and arrow. It commutes with permutations of all groups of
    neurons, inputs and outputs included.

    Args:
        form: sizes of the networks; hidden widths do not matter.
        in_channels: channels before.
        out_channels: channels behind.

    Example:
        >>> form = ChainForm((2, 4, 1), ((), ()))
        >>> weights = (torch.ones(5, 4, 2, 3), torch.ones(5, 1, 4, 3))
        >>> space = WeightSpace(weights, (torch.ones(5, 4, 3), torch.ones(5, 1, 3)))
        >>> [tuple(w.shape) for w in NPLinear(form, 3, 6)(space).weights]
        [(5, 4, 2, 6), (5, 1, 4, 6)]
    """

    def __init__(self, form: ChainForm, in_channels: int, out_channels: int) -> None:
        super().__init__()
        taps, last = form.tap_counts, form.depth - 1
        wide = [t * out_channels for t in taps]
        sizes = [(w, out_channels) for w in wide]
        self.sizes = [w + b for w, b in sizes]
        self.split = sizes
        own = [t * in_channels for t in taps]
        into = [own[i] + (own[i - 1] + in_channels if i > 0 else 0) for i in range(form.depth)]
        onto = [own[i] + in_channels + (own[i + 1] if i < last else 0) for i in range(form.depth)]
        self.entries = nn.ModuleList(nn.Linear(own[i], wide[i]) for i in range(form.depth))
        self.sources = nn.ModuleList(nn.Linear(into[i], wide[i]) for i in range(form.depth))
        self.targets = nn.ModuleList(nn.Linear(onto[i], sum(sizes[i])) for i in range(form.depth))
        self.every = nn.Linear(sum(own) + form.depth * in_channels, sum(self.sizes))
        start = 0
        for i in range(form.depth):
            middle, stop = start + wide[i], start + self.sizes[i]
            fan = own[i] + into[i] + onto[i] + self.every.in_features
            _uniform(fan, (self.entries[i], 0, wide[i]), (self.sources[i], 0, wide[i]))
            _uniform(fan, (self.targets[i], 0, wide[i]), (self.every, start, middle))
            fan = onto[i] + self.every.in_features
            _uniform(fan, (self.targets[i], wide[i], self.sizes[i]), (self.every, middle, stop))
            start = stop

    def forward(self, space: WeightSpace) -> WeightSpace:
        w, b = space.weights, space.biases
        rows, cols = [t.mean(1) for t in w], [t.mean(2) for t in w]
        every = self.every(torch.cat([t.mean(1) for t in (*rows, *b)], 1)).split(self.sizes, 1)
        weights, biases = [], []
        for i in range(len(w)):
            at_source = [rows[i]] if i == 0 else [rows[i], cols[i - 1], b[i - 1]]
            at_target = [cols[i], b[i], rows[i + 1]] if i < len(w) - 1 else [cols[i], b[i]]
            ours = self.targets[i](torch.cat(at_target, 2)) + every[i][:, None]
            weight, bias = ours.split(self.split[i], 2)
            theirs = self.sources[i](torch.cat(at_source, 2))
            weights.append(self.entries[i](w[i]).add_(weight[:, :, None]).add_(theirs[:, None]))
            biases.append(bias)
        return WeightSpace(tuple(weights), tuple(biases))


class PositionedNPLinear(NPLinear):
    """An NP layer behind learned embeddings of input and output neurons, which leave only hidden ones free.

    ``W_1[j, i] += u_i``, ``W_L[j, i] += v_j``, ``b_L[j] += t_j``, then :class:`NPLinear`.

    Args:
        form: sizes of the networks; hidden widths do not matter.
        in_channels: channels before.
        out_channels: channels behind.
    """

    def __init__(self, form: ChainForm, in_channels: int, out_channels: int) -> None:
        super().__init__(form, in_channels, out_channels)
        taps, n_in, n_out = form.tap_counts, form.widths[0], form.widths[-1]
        self.inputs = nn.Parameter(torch.randn(n_in, taps[0] * in_channels))
        self.outputs = nn.Parameter(torch.randn(n_out, taps[-1] * in_channels))
        self.output_biases = nn.Parameter(torch.randn(n_out, in_channels))

    def forward(self, space: WeightSpace) -> WeightSpace:
        weights, biases = list(space.weights), list(space.biases)
        weights[0] = weights[0] + self.inputs
        weights[-1] = weights[-1] + self.outputs[:, None]
        biases[-1] = biases[-1] + self.output_biases
        return super().forward(WeightSpace(tuple(weights), tuple(biases)))


class HNPLinear(nn.Module):
    """The HNP layer: as NP, but inputs and outputs stay distinguishable (tables 8 to 11).

    The first weights are features of the first hidden neurons, ``[n_1, C n_0]``; the last weights are features of the
    last hidden neurons, ``[n_(L-1), C n_L]``; the last bias is a feature of the whole network. All others as in
    :class:`NPLinear`. It commutes with permutations of hidden neurons and with no others. As in the official code the
    last weights do not hear the bias of the neurons that they come from.

    Args:
        form: sizes of the networks, two layers or more; hidden widths do not matter.
        in_channels: channels before.
        out_channels: channels behind.

    Raises:
        BaselineError: there is one layer only, so no hidden neuron.

    Example:
        >>> form = ChainForm((2, 4, 1), ((), ()))
        >>> weights = (torch.ones(5, 4, 2, 3), torch.ones(5, 1, 4, 3))
        >>> space = WeightSpace(weights, (torch.ones(5, 4, 3), torch.ones(5, 1, 3)))
        >>> [tuple(w.shape) for w in HNPLinear(form, 3, 6)(space).weights]
        [(5, 4, 2, 6), (5, 1, 4, 6)]
    """

    def __init__(self, form: ChainForm, in_channels: int, out_channels: int) -> None:
        super().__init__()
        if form.depth < 2:
            raise BaselineError(
                f"an HNP layer needs hidden neurons; got widths {form.widths}: use networks of two layers"
            )
        self.n_in, self.n_out, last = form.widths[0], form.widths[-1], form.depth - 1
        own = [t * in_channels for t in form.tap_counts]
        wide = [t * out_channels for t in form.tap_counts]
        wide[0], wide[last] = wide[0] * self.n_in, wide[last] * self.n_out
        first, final = own[0] * self.n_in, own[last] * self.n_out
        onto = [(first if i == 0 else own[i]) + in_channels + own[i + 1] for i in range(last)]
        into = [own[i] + own[i - 1] + in_channels for i in range(1, last)] + [final + own[last - 1]]
        onto[-1], into[0] = onto[-1] + final, into[0] + first
        biased = [out_channels] * last + [self.n_out * out_channels]
        self.split = list(zip(wide, biased, strict=True))
        self.sizes = [w + b for w, b in self.split]
        n_every = sum(own) + form.depth * in_channels + first + final + self.n_out * in_channels
        self.every = nn.Linear(n_every, sum(self.sizes))
        self.entries = nn.ModuleList(nn.Linear(own[i], wide[i]) for i in range(1, last))
        self.targets = nn.ModuleList(nn.Linear(onto[i], self.sizes[i]) for i in range(last))
        self.sources = nn.ModuleList(nn.Linear(into[i - 1], wide[i]) for i in range(1, last + 1))
        starts = [sum(self.sizes[:i]) for i in range(last + 1)]
        for i in range(last):
            middle, stop = starts[i] + wide[i], starts[i] + self.sizes[i]
            fan = onto[i] + n_every
            _uniform(fan, (self.targets[i], wide[i], self.sizes[i]), (self.every, middle, stop))
            if i > 0:
                fan += own[i] + into[i - 1]
                _uniform(fan, (self.entries[i - 1], 0, wide[i]), (self.sources[i - 1], 0, wide[i]))
                _uniform(fan, (self.targets[i], 0, wide[i]), (self.every, starts[i], middle))
        fan = into[-1] + n_every
        _uniform(fan, (self.sources[-1], 0, wide[last]), (self.every, starts[last], starts[last] + wide[last]))

    def forward(self, space: WeightSpace) -> WeightSpace:
        w, b, last = space.weights, space.biases, len(space.weights) - 1
        rows, cols = [t.mean(1) for t in w], [t.mean(2) for t in w]
        ends = [t.transpose(1, 2).flatten(1) for t in (rows[0], cols[-1], b[-1])]
        every = self.every(torch.cat([t.mean(1) for t in (*rows, *b)] + ends, 1)).split(self.sizes, 1)
        first, final = w[0].transpose(2, 3).flatten(2), w[-1].permute(0, 2, 3, 1).flatten(2)
        weights, biases = [], []
        for i in range(last):
            at_target = [first, rows[1], b[0]] if i == 0 else [cols[i], b[i], rows[i + 1]]
            at_target += [final] if i == last - 1 else []
            ours = self.targets[i](torch.cat(at_target, 2)) + every[i][:, None]
            weight, bias = ours.split(self.split[i], 2)
            weights.append(weight)
            biases.append(bias)
        weights[0] = weights[0].unflatten(2, (-1, self.n_in)).transpose(2, 3)
        for i in range(1, last):
            at_source = [rows[i], cols[i - 1], b[i - 1]] + ([first] if i == 1 else [])
            theirs = self.sources[i - 1](torch.cat(at_source, 2))
            weights[i] = self.entries[i - 1](w[i]).add_(weights[i][:, :, None]).add_(theirs[:, None])
        at_source = [final, cols[-2]] + ([first] if last == 1 else [])
        weight, bias = every[last].split(self.split[last], 1)
        weight = self.sources[-1](torch.cat(at_source, 2)) + weight[:, None]
        weights.append(weight.unflatten(2, (-1, self.n_out)).permute(0, 3, 1, 2))
        biases.append(bias.unflatten(1, (-1, self.n_out)).transpose(1, 2))
        return WeightSpace(tuple(weights), tuple(biases))


class NPPool(nn.Module):
    """The mean of every tensor: weights ``[B, C, taps]`` and bias ``[B, C, 1]`` per layer, one after the other.

    Args:
        form: sizes of the networks.

    Shape: ``[B, C, features]``.
    """

    def __init__(self, form: ChainForm) -> None:
        super().__init__()
        self.taps = form.tap_counts
        self.features = sum(self.taps) + form.depth

    def forward(self, space: WeightSpace) -> Tensor:
        out = []
        for w, b, taps in zip(space.weights, space.biases, self.taps, strict=True):
            out += [w.mean((1, 2)).unflatten(1, (-1, taps)), b.mean(1)[..., None]]
        return torch.cat(out, 2)


class HNPPool(nn.Module):
    """Means over hidden neurons only: the first weights keep their inputs, the last weights and bias their outputs.

    Args:
        form: sizes of the networks.

    Shape: ``[B, C, features]``.

    Example:
        >>> HNPPool(ChainForm((3, 16, 16, 10), ((3, 3), (3, 3), ()))).features
        58
    """

    def __init__(self, form: ChainForm) -> None:
        super().__init__()
        if form.depth < 2:
            raise BaselineError(f"HNP pooling needs hidden neurons; got widths {form.widths}: use two layers or more")
        self.taps = form.tap_counts
        n_in, n_out = form.widths[0], form.widths[-1]
        hidden = sum(self.taps[1:-1]) + form.depth - 1
        self.features = n_in * self.taps[0] + hidden + n_out * (self.taps[-1] + 1)

    def forward(self, space: WeightSpace) -> Tensor:
        out, last = [], len(self.taps) - 1
        for i, (w, b, taps) in enumerate(zip(space.weights, space.biases, self.taps, strict=True)):
            if i in (0, last):
                kept = w.mean(1 if i == 0 else 2).unflatten(2, (-1, taps))
                out.append(kept.transpose(1, 2).flatten(2))
            else:
                out.append(w.mean((1, 2)).unflatten(1, (-1, taps)))
            out.append(b.transpose(1, 2) if i == last else b.mean(1)[..., None])
        return torch.cat(out, 2)


def _uniform(fan: int, *rows: tuple[nn.Module, int, int]) -> None:
    """Draw these rows of linear maps whose results are added as one map of ``fan`` inputs would be drawn."""
    bound = fan**-0.5
    for linear, start, stop in rows:
        assert isinstance(linear, nn.Linear)
        nn.init.uniform_(linear.weight[start:stop], -bound, bound)
        nn.init.uniform_(linear.bias[start:stop], -bound, bound)
