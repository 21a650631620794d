"""Spatial probes: learned inputs that the networks themselves answer, with their strides, paddings and pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphnfn.errors import SpecError
from graphnfn.nn.answers import activity
from graphnfn.nn.facts import hidden_signs
from graphnfn.nn.state import State
from graphnfn.nn.taps import Sizes, coordinates
from graphnfn.nn.typed import soft_root
from graphnfn.nn.wiring import Wiring
from graphnfn.spec import ConvFacts, NetSpec, SpatialOp
from graphnfn.stack import Stack

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ProbeImages(nn.Module):
    """P learned inputs from a linear generator: ``u[p, c, s] = point[p, c] + sum_k latent[p, c, k] map[k, s]``.

    Networks without positions get the points.  The latent vectors share one map, as in ProbeGen (Kahana et al.,
    2024), so that the images stay smooth in few numbers.  The map is a square of ``side`` positions an axis,
    interpolated to the input size of the spec; where the spec does not know that size, ``side`` is the size.

    Args:
        probes: how many inputs P.
        sizes: largest number of input neurons.
        side: extent of the map.
        latent: numbers k per image and channel.

    Shape: a spec in, ``[P, *input_shape]`` out.

    Raises:
        SpecError: a spec has more input neurons than the model was sized for.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> spec = mlp_spec([2, 8, 1], "tanh")
        >>> ProbeImages(5, Sizes.of([spec]))(spec).shape
        torch.Size([5, 2])
    """

    def __init__(self, probes: int, sizes: Sizes, side: int = 14, latent: int = 8) -> None:
        super().__init__()
        self.points = nn.Parameter(2 * torch.rand(probes, sizes.inputs) - 1)
        self.side, self.rank = side, max(len(sizes.kernel_grid), len(sizes.position_grid))
        if self.rank:
            self.latents = nn.Parameter(torch.randn(probes, sizes.inputs, latent) / latent**0.5)
            self.map = nn.Parameter(torch.randn(latent, side**self.rank))

    def forward(self, spec: NetSpec) -> Tensor:
        into = spec.groups[0].size
        if into > self.points.shape[1]:
            raise SpecError(
                f"a network has {into} input neurons; this model was sized for {self.points.shape[1]}: give "
                "GraphMetaNet(config, specs=[...]) all architectures it shall read"
            )
        points = self.points[:, :into]
        positions = self._positions(spec)
        if not positions:
            return points
        rank = len(positions)
        if rank > self.rank:
            raise SpecError(
                f"a network takes inputs with {rank} axes of positions; this model was sized for {self.rank}: give "
                "GraphMetaNet(config, specs=[...]) all architectures it shall read"
            )
        square = self.map.view(1, -1, *(self.side,) * self.rank)
        while square.dim() - 2 > rank:
            square = square[..., 0, :]  # a network of fewer axes sees the first slice
        if tuple(square.shape[2:]) != positions:
            square = F.interpolate(square, size=positions, mode=_MODES[rank], align_corners=False)
        images = self.latents[:, :into] @ square.flatten(2)[0]
        return points.view(*points.shape, *(1,) * rank) + images.unflatten(-1, positions)

    def _positions(self, spec: NetSpec) -> tuple[int, ...]:
        """Extents of the input; () for networks that see plain vectors."""
        rank = max(len(b.taps) for b in spec.blocks)
        if not rank:
            return ()
        if spec.input_shape is not None:
            return spec.input_shape[1:]
        smallest, exact = _smallest_input(runnable(spec), rank)
        return smallest if exact else tuple(max(n, self.side) for n in smallest)


def _smallest_input(spec: NetSpec, rank: int) -> tuple[tuple[int, ...], bool]:
    """The smallest input that no window is too large for, and whether a flatten allows no other size."""
    one = (1,) * rank
    needed: dict[str, tuple[int, ...]] = {}
    exact = False
    for i in reversed(range(len(spec.groups))):
        wanted: list[tuple[int, ...]] = [one]
        for block in (spec.blocks[b] for b in spec.outgoing[i]):
            sizes = needed[block.dst]
            middle = []
            if block.kind == "linear":
                sizes = block.taps if len(block.taps) == rank else one
                exact |= sizes is not one
            elif block.conv is not None:
                f = block.conv
                middle = [SpatialOp("conv", block.taps, f.stride, f.padding, f.dilation)]
            after = block.post if block.kind == "conv" else ()
            wanted.append(_undo(sizes, (*block.pre, *middle, *after)))
        needed[spec.groups[i].id] = tuple(max(axis) for axis in zip(*wanted, strict=True))
    return needed[spec.groups[0].id], exact


def _undo(sizes: tuple[int, ...], steps: tuple[SpatialOp, ...]) -> tuple[int, ...]:
    """Smallest extents that windows turn into ``sizes``."""
    for op in reversed(steps):
        if op.kind not in ("max_pool", "avg_pool", "conv"):
            continue
        dilation = op.dilation or (1,) * len(sizes)
        facts = zip(sizes, op.size, op.stride, op.padding, dilation, strict=True)
        sizes = tuple(max(1, (n - 1) * s - 2 * p + d * (k - 1) + 1) for n, k, s, p, d in facts)
    return sizes


@lru_cache(maxsize=256)
def runnable(spec: NetSpec) -> NetSpec:
    """The spec with stride 1 and no padding where a bare state dict does not tell them.

    Probes then see another function than the network's own, but one with the same symmetry.
    """
    if all(b.kind == "linear" or b.conv is not None for b in spec.blocks):
        return spec
    plain = [
        replace(b, conv=ConvFacts((1,) * len(b.taps), (0,) * len(b.taps), (1,) * len(b.taps)))
        if b.kind == "conv" and b.conv is None
        else b
        for b in spec.blocks
    ]
    return replace(spec, blocks=tuple(plain))


class SpatialProbes(nn.Module):
    """Every network's own activations on learned inputs, pooled over positions.

    On canonical weights a hidden channel's activation ``h_i(u_p)`` has charge 0 under positive scales, so
    ``e_i <- e_i + A (even(mean_s h_i), sqrt(mean_s h_i^2))`` is even, with ``even(x) = |x|`` where the neuron's sign
    is free; output neurons, which are fixed, add ``B mean_s h_i``.

    Args:
        width: channels d.
        sizes: of the tables of the model.
        probes: how many inputs.

    Shape: even ``[..., d]`` in and out; ``state.odd`` passes through (zeros if empty).

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.nn.blocks import BlockWiring
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 8, 1], "tanh"), networks=3, dtype=torch.float32)
        >>> wiring = BlockWiring(graph.stacks()[0])
        >>> layer = SpatialProbes(4, Sizes.of([graph.spec]))
        >>> [e.shape for e in layer(State([torch.zeros(3, n, 4) for n in (2, 8, 1)]), wiring).even][1]
        torch.Size([3, 8, 4])
    """

    def __init__(self, width: int, sizes: Sizes, probes: int = 16) -> None:
        super().__init__()
        self.width, self.others = width, sizes.others
        if sizes.others:
            self.images = ProbeImages(probes, sizes)
            self.hidden = nn.Linear(2 * probes, width)
            self.output = nn.Linear(probes, width)

    def forward(self, state: State, wiring: Wiring) -> State:
        return by_stack(state, wiring, self._features)

    def _features(self, stack: Stack) -> list[Tensor | None]:
        """Per group ``[B, n, d]``; None at the input neurons, and for networks that a lattice reads."""
        if coordinates(stack.spec):
            return [None] * len(stack.spec.groups)
        if not self.others:
            raise SpecError(
                f"a network takes {stack.spec.groups[0].size} inputs and {max(len(b.taps) for b in stack.spec.blocks)} "
                "axes of positions; this model was sized for networks of coordinates: give "
                "GraphMetaNet(config, specs=[...]) all architectures it shall read"
            )
        stack = replace(stack, spec=runnable(stack.spec))
        spec = stack.spec
        answer, seen = activity(stack, self.images(spec))
        signed = hidden_signs(spec, seen.device)
        if signed is not False:  # the roots are even as they are
            seen = seen.abs() if signed is True else torch.where(signed[:, :, None], seen.abs(), seen)
        sizes = [group.size for group in spec.groups if group.role == "hidden"]
        hidden = iter(soft_root(self.hidden(seen.flatten(2))).split(sizes, 1)) if sizes else iter(())
        parts = [next(hidden) if group.role == "hidden" else None for group in spec.groups[:-1]]
        return [*parts, soft_root(self.output(answer))]


def by_stack(state: State, wiring: Wiring, features: Callable[[Stack], list[Tensor | None]]) -> State:
    """The state with even features added that come from whole networks, not from messages.

    Args:
        state: before.
        wiring: of the networks.
        features: per group of the spec ``[B, n, d]`` of a stack of B networks, None for nothing.
    """
    even = wiring.plus(state.even, [features(stack) for stack in wiring.stacks])
    # zero is out-typed, and the edit head expects entries; most models never read it
    odd = state.odd or [e.new_zeros(()).expand_as(e) for e in even]
    return State(even, odd, state.edge_even, state.edge_odd)
