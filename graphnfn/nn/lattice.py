"""Lattice probes: coordinate networks are run on a regular grid, and a small CNN reads the picture that they make."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.special import legendre_polynomial_p

from graphnfn.errors import SpecError
from graphnfn.nn.answers import fields
from graphnfn.nn.probes import by_stack
from graphnfn.nn.state import State
from graphnfn.nn.taps import Sizes, coordinates
from graphnfn.nn.wiring import Wiring
from graphnfn.prepared import Prepared
from graphnfn.stack import Stack

SIDES = {1: 64, 2: 28, 3: 8}
"""Grid points per axis, by the number of axes."""
WIDTHS = {1: 32, 2: 16, 3: 12}
"""Channels of a reader's first convolution, by the number of axes: pictures and volumes have many points."""
MOST_FITTED = 256
"""Networks whose pictures tell mean and deviation."""
DEGREES = 4
"""Moments per axis: of the constant, linear, quadratic and cubic polynomial."""
PACE = {1: 16.0, 2: 16.0, 3: 64.0}
"""Factor of the moments, which are small, so that what reads them learns as fast as the convolutions."""
_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_LAYOUT = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By dimensions of a batch of pictures: convolutions hand on the layout of their weights, and CPUs pool channels that
lie side by side four times as fast."""
_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


def lattice(rank: int, side: int) -> Tensor:
    """The points of a regular grid over ``[-1, 1]^rank``, ``[side^rank, rank]``, the last axis fastest.

    Example:
        >>> lattice(2, 2).tolist()
        [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    return grid(torch.linspace(-1, 1, side), rank)


def grid(axis: Tensor, rank: int) -> Tensor:
    """All points whose coordinates are on an axis ``[n]``, as ``[n^rank, rank]``, the last coordinate fastest.

    Example:
        >>> grid(torch.tensor([0.0, 1.0]), 2).tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    return torch.stack(torch.meshgrid(*[axis] * rank, indexing="ij"), -1).flatten(0, -2)


def moments(rank: int) -> Tensor:
    """Weights of integrals against products of Legendre polynomials, ``[DEGREES^rank, side^rank]``.

    Row (k_1, ..., k_rank) times the values at the points of the lattice is ``mean_u f(u) prod_a sqrt(2 k_a + 1)
    P_{k_a}(u_a)`` over ``[-1, 1]^rank`` by the trapezoid rule; the polynomials are orthonormal under that mean.

    Example:
        >>> bool((moments(2)[0].sum() - 1).abs() < 1e-6)  # the mean of 1
        True
    """
    side = SIDES[rank]
    axis = torch.linspace(-1, 1, side, dtype=torch.float64)
    step = torch.full((side,), 1 / (side - 1), dtype=torch.float64)
    step[0] = step[-1] = step[0] / 2
    line = torch.stack([(2 * k + 1) ** 0.5 * legendre_polynomial_p(axis, k) for k in range(DEGREES)]) * step
    found = line
    for _ in range(rank - 1):
        found = torch.einsum("ku,lv->kluv", found, line).flatten(0, 1).flatten(1)
    return found.float()


def moved(picture: Tensor, jitter: float) -> Tensor:
    """Pictures ``[B, channels, side, ...]``, each moved and resized at random, linear between lattice points.

    Along every axis ``v(u) -> v(clamp(s * u + t))`` with s and t uniform in ``[1 - jitter, 1 + jitter]`` and
    ``[-jitter, jitter]``, one pair per picture and axis.

    Args:
        picture: values at the points of :func:`lattice`.
        jitter: largest relative change of size and place, in [0, 1).

    Example:
        >>> moved(torch.ones(2, 1, 8, 8), 0.1).mean().item()
        1.0
    """
    side, rank = picture.shape[2], picture.dim() - 2
    axis = torch.linspace(-1, 1, side, dtype=picture.dtype, device=picture.device)
    drawn = torch.rand(2, picture.shape[0], rank, 1, dtype=picture.dtype, device=picture.device)
    size, place = (2 * drawn - 1) * jitter
    at = (side - 1) / 2 * ((axis * (1 + size) + place).clamp(-1, 1) + 1)  # [B, rank, side], in steps of the lattice
    hats = (1 - (at[..., None] - torch.arange(side, dtype=at.dtype, device=at.device)).abs()).clamp(min=0)
    for a in range(rank):  # the last axis is replaced and becomes the first one
        picture = torch.einsum("bc...v,buv->bcu...", picture, hats[:, rank - 1 - a])
    return picture


class LatticeReader(nn.Module):
    """A CNN on values at lattice points: two convolutions with maximum pooling, two dense layers; beside it moments.

    Both see it in deviations of pictures of training networks, see :meth:`fit`; until then as it is.

    Moments are integrals of the picture against polynomials, see :func:`moments`. They enter linearly, since what is
    asked of a function is often an integral, such as its mean, which a CNN with maximum pooling has to approximate.

    Args:
        rank: axes of the lattice.
        channels: values per point.
        out: numbers per picture.
        width: channels of the first convolution, those of :data:`WIDTHS` if None; the second has twice as many.
        dropout: share of the dense layers' inputs that training leaves out.

    Shape: ``[B, channels, side, ...]`` to ``[B, out]``.

    Example:
        >>> LatticeReader(2, 1, out=5)(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 5])
    """

    def __init__(self, rank: int, channels: int, out: int, *, width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        width = width or WIDTHS[rank]
        conv, pool = _CONV[rank], _POOL[rank]
        entries = 2 * width * (SIDES[rank] // 4) ** rank
        self.layers = nn.Sequential(
            conv(channels, width, 3, padding=1), pool(2), nn.ReLU(),  # the largest of all first: fewer numbers to cut
            conv(width, 2 * width, 3, padding=1), pool(2), nn.ReLU(), nn.Flatten(),
            nn.Dropout(dropout), nn.Linear(entries, 4 * width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(4 * width, out),
        )  # fmt: skip
        self.register_buffer("center", torch.zeros(channels, 1))
        self.register_buffer("scale", torch.ones(channels, 1))
        self.register_buffer("integrals", PACE[rank] * moments(rank), persistent=False)
        self.moments = nn.Linear(channels * DEGREES**rank, out, bias=False)

    center: Tensor
    scale: Tensor
    integrals: Tensor

    def fit(self, pictures: Tensor) -> None:
        """Take mean and deviation of every channel; a channel that does not vary keeps its scale.

        Args:
            pictures: ``[B, channels, side, ...]``.
        """
        deviation, mean = torch.std_mean(pictures.transpose(0, 1).flatten(1).double(), 1, correction=0, keepdim=True)
        varies = deviation > 1e-12
        self.center.copy_(mean)
        self.scale.copy_(torch.where(varies, 1 / torch.where(varies, deviation, 1.0), 1.0))

    def standardized(self, picture: Tensor) -> Tensor:
        """Values in deviations of those that :meth:`fit` saw."""
        flat = picture.flatten(2)
        return ((flat - self.center.to(flat)) * self.scale.to(flat)).view_as(picture)

    def forward(self, picture: Tensor) -> Tensor:
        picture = self.standardized(picture)
        seen = self.moments((picture.flatten(2) @ self.integrals.T.to(picture.dtype)).flatten(1))
        return seen + self._convolved(picture)

    def _convolved(self, picture: Tensor) -> Tensor:
        layout = _LAYOUT.get(picture.dim()) if picture.device.type == "cpu" else None
        for layer in self.layers:
            if layout is not None and isinstance(layer, (nn.Conv2d, nn.Conv3d)):
                convolve = F.conv2d if isinstance(layer, nn.Conv2d) else F.conv3d
                picture = convolve(picture, layer.weight.clone(memory_format=layout), layer.bias, padding=1)
            else:
                picture = layer(picture)
        return picture


class LatticeProbes(nn.Module):
    """The picture that a coordinate network makes, for its output neurons.

    ``e_o <- e_o + reader_o(f(u_1), ..., f(u_N))`` at the output neurons o of the network f, with the points u of
    a grid over ``[-1, 1]^k`` for networks of k = 1, 2 or 3 inputs; other networks stay as they are. Outputs are no
    function of how the network is written down, so every symmetry of its weights holds.

    Readers see f in deviations of those of training networks, which :meth:`fit` takes; until then as it is.

    In training, every picture may be moved, ``f(u) -> f(clamp(s * u + t))`` per axis with s and t uniform in
    ``[1 - jitter, 1 + jitter]`` and ``[-jitter, jitter]``, linear between the points of the grid. That suits labels
    which moving a picture leaves alone, such as classes; it is off at first.

    Args:
        width: channels d.
        sizes: of the model; ``sizes.coordinates`` says for which k a reader is needed.
        jitter: largest relative change of size and place.
        dropout: of the readers' dense layers.

    Shape: even ``[..., d]`` in and out; ``state.odd`` passes through (zeros if empty).

    Raises:
        SpecError: a network takes another number of coordinates than all that the model was sized for, or has more
            outputs.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.nn.blocks import BlockWiring
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 8, 1], "sin"), networks=3, dtype=torch.float32)
        >>> layer = LatticeProbes(4, Sizes.of([graph.spec]))
        >>> start = State([torch.zeros(3, n, 4) for n in (2, 8, 1)])
        >>> layer(start, BlockWiring(graph.stacks()[0])).even[2].shape
        torch.Size([3, 1, 4])
    """

    def __init__(self, width: int, sizes: Sizes, *, jitter: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.outputs, self.jitter = width, sizes.outputs, jitter
        channels, out = sizes.outputs, sizes.outputs * width
        self.readers = nn.ModuleDict(
            {str(k): LatticeReader(k, channels, out, dropout=dropout) for k in sizes.coordinates}
        )

    def fit(self, canonical: Sequence[Stack]) -> None:
        """Let every reader take mean and deviation of pictures of training networks."""
        for rank, reader in self.readers.items():
            few = [stack.take(slice(0, MOST_FITTED)) for stack in canonical if coordinates(stack.spec) == int(rank)]
            if few:
                assert isinstance(reader, LatticeReader)
                reader.fit(torch.cat([self.picture(stack).detach() for stack in few]))

    def forward(self, state: State, wiring: Wiring) -> State:
        if not self.readers:
            return state
        return by_stack(state, wiring, self._features)

    def _features(self, stack: Stack) -> list[Tensor | None]:
        """Per group ``[B, n, d]``; None but at the output neurons of coordinate networks."""
        spec = stack.spec
        seen: list[Tensor | None] = [None] * len(spec.groups)
        rank = coordinates(spec)
        last = spec.groups[-1].size
        if rank and (str(rank) not in self.readers or last > self.outputs):
            raise SpecError(
                f"a network has {rank} input neurons and {last} output neurons; this model was sized for "
                f"{', '.join(self.readers)} and {self.outputs}: give GraphMetaNet(config, specs=[...]) all "
                "architectures it shall read"
            )
        if rank:
            values = self.readers[str(rank)](self._seen(stack)).unflatten(1, (self.outputs, self.width))
            seen[-1] = values[:, :last]
        return seen

    def _seen(self, stack: Stack) -> Tensor:
        picture = self.picture(stack)
        return moved(picture, self.jitter) if self.training and self.jitter else picture

    def picture(self, stack: Stack) -> Tensor:
        """``[B, outputs, side, ...]``, what coordinate networks are read from."""
        if isinstance(stack, Prepared) and stack.picture is not None:
            return stack.picture
        rank = coordinates(stack.spec)
        points = lattice(rank, SIDES[rank]).to(stack.nodes)
        return fields(stack, points, self.outputs).unflatten(2, (SIDES[rank],) * rank)
