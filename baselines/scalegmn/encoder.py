"""From weights to features: projections, positions, rounds of message passing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.errors import BaselineError
from baselines.scalegmn.extent import Extent, is_middle, is_sign, kinds_of, role_of
from baselines.scalegmn.layers import Ends, Features, Kinds, MLPs, Place, RawEdges
from baselines.scalegmn.rounds import Form, Layer, Parts, PlainParts, State, Want, receptive_field
from graphnfn.effective import effective
from graphnfn.spec import Block, NetSpec, NeuronGroup
from graphnfn.stack import Stack
from graphnfn.topology import ROLES, tap_slots


@dataclass(frozen=True)
class Design:
    """The finer choices in which the published configurations differ.

    Args:
        sign_sum: sign invariance by ``rho(x) + rho(-x)`` (else by ``|x|``).
        free_ends: inputs and outputs are mapped by MLPs (else by ``(W x) * phi(x)``).
        separate_ends: with different weights for inputs and outputs.
        add_at_ends: positions of inputs and outputs are added (else multiplied, as on hidden neurons).
        edge_positions: edges have learned positions too.
        position_features: positions enter every invariant net.
        layer_norm: in all MLPs.
        skips: ``h <- S h + update``.
        whole_graph: the prediction is read from all neurons (else from outputs, and inputs where bidirectional).
        dropout_inside: dropout in all MLPs (else between layers only).
    """

    sign_sum: bool = True
    free_ends: bool = True
    separate_ends: bool = False
    add_at_ends: bool = True
    edge_positions: bool = False
    position_features: bool = False
    layer_norm: bool = True
    skips: bool = False
    whole_graph: bool = False
    dropout_inside: bool = False


class Encoder(nn.Module):
    """Weights to features: linear projections, positions, rounds of message passing.

    The published bidirectional message ``w_ij h_j`` back to i carries ``l_j^2 / l_i``, where ``l_i`` is needed; the
    paper's remedy, ``1 / w_ij``, is infinite at 0. Here the weight that goes back is ``v_ij = w_ij n_i^2 / n_j^2``
    with the row norms ``n_j^2 = b_j^2 + sum_i |w_ij|^2 n_i^2`` of neurons with scales (1 elsewhere): as n_j carries
    ``l_j``, v_ij carries ``l_i / l_j``, without any reciprocal of a weight.
    """

    eps: ClassVar[float] = 0.0
    """Added to norms."""

    def __init__(self, specs: Sequence[NetSpec], form: Form, design: Design) -> None:
        super().__init__()
        self.extent = Extent.of(specs)
        self.scale, self.sign = self._kinds(specs)
        self.kinds = Kinds(self.scale, self.sign, design.sign_sum, self.eps)
        self.form, self.design = form, design
        if form.edit is not None:
            form = self.form = replace(form, edit=self.extent.slots)
        mlps = MLPs(form.width, design.layer_norm, form.dropout if design.dropout_inside else 0.0)
        extent, width = self.extent, form.width
        self.lift_nodes = nn.Linear(1, width, bias=False)
        self.lift_edges = nn.Linear(extent.slots, width, bias=False)
        self.node_positions = nn.Parameter(torch.randn(extent.inputs + extent.hidden + extent.outputs, width))
        positions = torch.randn(extent.inputs + extent.middle + extent.outputs, width)
        self.edge_positions = nn.Parameter(positions) if design.edge_positions else None
        parts, updates_back = self._parts(mlps), form.bidirectional and self._updates_back()
        self.layers = nn.ModuleList(Layer(parts, form, i == form.layers - 1, updates_back) for i in range(form.layers))
        if design.skips:
            for layer in list(self.layers)[: form.layers - (form.edit is not None)]:
                layer.skip = nn.Linear(width, width, bias=False)

    def forward(self, stack: Stack, groups: Callable[[NeuronGroup], bool]) -> State:
        """Features of the groups asked for; of all edges where the last layer edits."""
        spec = stack.spec
        self.extent.check(spec)
        stack = effective(stack)
        places = self.places(stack)
        state = State(self._nodes(stack), self._edges(spec, stack.blocks), {})
        if self.form.bidirectional:
            state.back = self._edges(spec, self._backward(stack))
        chosen = frozenset(i for i, g in enumerate(spec.groups) if groups(g))
        last = Want(chosen, frozenset(range(len(spec.blocks))) if self.form.edit is not None else frozenset())
        wants = receptive_field(spec, last, self.form.layers, self.form.bidirectional)
        for layer, want in zip(self.layers, wants, strict=True):
            state = layer(spec, state, places, want)
        return state

    def _kinds(self, specs: Sequence[NetSpec]) -> tuple[bool, bool]:
        return kinds_of(specs)

    def _updates_back(self) -> bool:
        """Features of backward edges are updated for pure scales only, as published."""
        return self.scale and not self.sign

    def _parts(self, mlps: MLPs) -> Parts | PlainParts:
        design, width = self.design, self.form.width
        ends = Ends(design.free_ends, design.separate_ends)
        return Parts(self.kinds, ends, width if design.position_features else 0, width, mlps)

    def _signs(self, spec: NetSpec) -> list[bool | list[bool]]:
        """Per group, whether its neurons are free up to a sign; inputs and outputs like the hidden neurons."""
        scale, sign = kinds_of([spec])
        if (scale and not self.scale) or (sign and not self.sign):
            raise BaselineError(
                f"this ScaleGMN was built for neurons with {'positive scales' if self.scale else 'signs'} only; a "
                "network has others: build it with the specs of all networks that it shall read"
            )
        out: list[bool | list[bool]] = []
        for group in spec.groups:
            flags = [is_sign(*pair) for pair in group.per_neuron()] if group.role == "hidden" else [not scale]
            out.append(flags if len(set(flags)) > 1 else flags[0])
        return out

    def places(self, stack: Stack) -> list[Place]:
        places = []
        for i, (group, flags) in enumerate(zip(stack.spec.groups, self._signs(stack.spec), strict=True)):
            signs = flags if isinstance(flags, bool) else torch.tensor(flags, device=stack.nodes.device)[:, None]
            extra = self._position(stack.spec, i).expand(group.size, -1) if self.design.position_features else None
            places.append(Place(ROLES.index(group.role), signs, extra))
        return places

    def _position(self, spec: NetSpec, group: int) -> Tensor:
        """Rows of the table of positions: one per input, per hidden layer, per output."""
        inputs, hidden, outputs = self.node_positions.split(
            [self.extent.inputs, self.extent.hidden, self.extent.outputs]
        )
        role = spec.groups[group].role
        if role == "hidden":
            i = sum(1 for g in spec.groups[:group] if g.role == "hidden")
            return hidden[i : i + 1]
        return inputs if role == "input" else outputs

    def _nodes(self, stack: Stack) -> dict[int, Tensor]:
        """Biases; inputs are 1, in convolutional networks 0."""
        first = 0.0 if any(b.kind == "conv" for b in stack.spec.blocks) else 1.0
        out = {}
        for i, group in enumerate(stack.spec.groups):
            bias = stack.group(i)[..., :1]
            h = self.lift_nodes(torch.full_like(bias, first) if group.role == "input" else bias)
            out[i] = self._placed(h, self._position(stack.spec, i), group.role != "hidden")
        return out

    def _placed(self, h: Tensor, position: Tensor, at_end: bool) -> Tensor:
        return h + position if at_end and self.design.add_at_ends else h * position

    def _edges(self, spec: NetSpec, blocks: Sequence[Tensor]) -> dict[int, Features]:
        """Taps of convolutions lie on the common kernel grid, those of dense weights at its start."""
        out: dict[int, Features] = {}
        for b, (block, weight) in enumerate(zip(spec.blocks, blocks, strict=True)):
            lift = self.lift_edges.weight[:, self.slots(block).to(weight.device)][None, None]
            out[b] = self._placed_edges(RawEdges(weight, lift), self._edge_position(spec, b))
        return out

    def slots(self, block: Block) -> Tensor:
        """Where the taps of a block lie among the model's edge inputs."""
        return tap_slots(block, self.extent.grid) if block.kind == "conv" else torch.arange(block.num_taps)

    def _placed_edges(self, edges: RawEdges, position: Tensor | None) -> Features:
        return edges if position is None else RawEdges(edges.taps, edges.lift * position[..., None])

    def _edge_position(self, spec: NetSpec, b: int) -> Tensor | None:
        """``[targets or 1, sources or 1, d]``: one per input, per block between hidden layers, per output."""
        if self.edge_positions is None:
            return None
        inputs, middle, outputs = self.edge_positions.split(
            [self.extent.inputs, self.extent.middle, self.extent.outputs]
        )
        block = spec.blocks[b]
        if role_of(spec, block.src) == "input":
            return inputs[None]
        if role_of(spec, block.dst) == "output":
            return self._output_positions(outputs, block)
        i = sum(1 for other in spec.blocks[:b] if is_middle(spec, other))
        return middle[i : i + 1, None]

    def _output_positions(self, outputs: Tensor, block: Block) -> Tensor:
        return outputs[:, None]

    def _backward(self, stack: Stack) -> Sequence[Tensor]:
        """Weights that go back along the edges."""
        if not self.scale:
            return stack.blocks
        spec, squares = stack.spec, _row_norms(stack, self._signs(stack.spec))
        out = []
        for b, weight in zip(spec.blocks, stack.blocks, strict=True):
            source, target = squares[spec.position[b.src]], squares[spec.position[b.dst]]
            tiny = torch.finfo(weight.dtype).tiny
            out.append(weight * (source[:, None, :] / target.clamp_min(tiny)[:, :, None])[..., None])
        return out


def _row_norms(stack: Stack, signs: Sequence[bool | list[bool]]) -> list[Tensor]:
    """Per group, ``n^2 [B, n]``; 1 for neurons without scales."""
    spec, out = stack.spec, []
    for i, group in enumerate(spec.groups):
        one = torch.ones_like(stack.group(i)[..., 0])
        flags = torch.tensor(signs[i], device=one.device)
        if group.role != "hidden" or bool(flags.all()):
            out.append(one)
            continue
        total = stack.group(i)[..., 0] ** 2
        for b in spec.incoming[i]:
            source = out[spec.position[spec.blocks[b].src]]
            total = total + torch.einsum("bnmt,bm->bn", stack.blocks[b] ** 2, source)
        out.append(torch.where(flags, one, total))
    return out


class PublishedEncoder(Encoder):
    """With the faults of the official code: raw weights go back, eps is felt, output edges are misnumbered."""

    eps = 1e-10

    def _backward(self, stack: Stack) -> Sequence[Tensor]:
        return stack.blocks

    def _output_positions(self, outputs: Tensor, block: Block) -> Tensor:
        """The code lists edges by source, but their positions by target."""
        targets, sources = block.sizes
        number = torch.arange(sources)[None] * targets + torch.arange(targets)[:, None]
        return outputs[number // sources]


class PlainEncoder(Encoder):
    """Knows permutations only: MLPs instead of equivariant nets, all positions are added."""

    def _kinds(self, specs: Sequence[NetSpec]) -> tuple[bool, bool]:
        return False, False

    def _signs(self, spec: NetSpec) -> list[bool | list[bool]]:
        return [False] * len(spec.groups)

    def _parts(self, mlps: MLPs) -> Parts | PlainParts:
        return PlainParts(self.form.width, mlps)

    def _placed(self, h: Tensor, position: Tensor, at_end: bool) -> Tensor:
        return h + position

    def _placed_edges(self, edges: RawEdges, position: Tensor | None) -> Features:
        if position is None:
            return edges
        return F.linear(edges.taps, edges.lift[0, 0]) + position


class PlainPublishedEncoder(PlainEncoder):
    """The permutation-only model with misnumbered output edges."""

    _output_positions = PublishedEncoder._output_positions
