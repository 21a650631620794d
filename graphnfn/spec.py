"""NetSpec: the static description that all networks of one architecture share.

It speaks of *neuron groups* (axes of neurons that are permuted together) and *blocks* (parameter
tensors seen as bundles of edges between two groups), never of "layer i", so that streams, tied
parameters and branches fit without a change of form.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from graphnfn.activations import Activation, Gauge
from graphnfn.errors import SpecError

Role = Literal["input", "hidden", "output"]

NODE_FIELDS: tuple[str, ...] = ("bias", "norm_weight", "norm_bias", "norm_mean", "norm_var", "slope")
"""Columns of ``x``. A network without norms and PReLU has the first column only."""
NEUTRAL_NODE: tuple[float, ...] = (0.0, 1.0, 0.0, 0.0, 1.0, 0.0)
"""What a column holds where a neuron has no such parameter."""
NODE_CHARGE: tuple[int, ...] = (1, 1, 1, 0, 0, 0)
"""Charge of each column (the bias of a neuron with its own norm has charge 0 instead)."""


@dataclass(frozen=True)
class SpatialOp:
    """A parameter-free operation on the positions of a group's activation: pooling or flatten.

    ``kind`` is one of max_pool, avg_pool, adaptive_avg_pool, adaptive_max_pool, global_avg_pool, flatten; among
    the operations behind a block ``norm`` and ``act`` mark where its norm and activation act (else: last).
    """

    kind: str
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    ceil_mode: bool = False
    count_include_pad: bool = True


@dataclass(frozen=True)
class ConvFacts:
    """Stride, padding and dilation of a convolution: facts of the architecture, not weights."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class NeuronGroup:
    """One axis of neurons that is permuted together.

    Args:
        id: unique name.
        size: number of neurons.
        role: input and output groups are fixed, hidden groups carry the symmetry.
        activations: one activation for all neurons, or one per neuron.
        gauge: per entry of ``activations``, the factors that the surroundings allow as well.
        permutable: whether the neurons may be reordered (only among equal activations).
        half_turns: whether bias shifts by half periods are symmetries here (sin, cos with a bias).
        norm_eps: epsilon of a kept batch norm between the block and the activation; None: no norm.
    """

    id: str
    size: int
    role: Role
    activations: tuple[Activation, ...] = (Activation("identity"),)
    gauge: tuple[Gauge, ...] = (Gauge.NONE,)
    permutable: bool = False
    half_turns: bool = False
    norm_eps: float | None = None

    def per_neuron(self) -> tuple[tuple[Activation, Gauge], ...]:
        """Activation and gauge of every neuron."""
        pairs = tuple(zip(self.activations, self.gauge, strict=True))
        return pairs if len(pairs) == self.size else pairs * self.size

    @property
    def uniform(self) -> bool:
        return len(set(zip(self.activations, self.gauge, strict=True))) == 1


@dataclass(frozen=True, kw_only=True)
class Block:
    """A parameter tensor as a bundle of edges ``src -> dst`` with one or more taps.

    The tensor (or a part of it) is reshaped to ``view`` and its axes reordered by ``dims`` into (dst, src, *taps).

    Args:
        param: name of the tensor; two blocks may name the same tensor (tied weights).
        kind: ``conv`` taps are kernel entries, ``linear`` taps are the positions of a flattened map.
        conv: what the convolution does, None where a bare state dict cannot tell.
        pre: operations on the source's activation before the block.
        post: operations on the block's output before the activation.
        part: only these entries of an axis, as (axis, start, stop), before the view.
    """

    param: str
    src: str
    dst: str
    shape: tuple[int, ...]
    view: tuple[int, ...]
    dims: tuple[int, ...]
    kind: Literal["linear", "conv"]
    conv: ConvFacts | None = None
    pre: tuple[SpatialOp, ...] = ()
    post: tuple[SpatialOp, ...] = ()
    part: tuple[tuple[int, int, int], ...] = ()

    @cached_property
    def taps(self) -> tuple[int, ...]:
        """Spatial extents of the taps; empty for one tap."""
        return tuple(self.view[d] for d in self.dims[2:])

    @cached_property
    def num_taps(self) -> int:
        return math.prod(self.taps)

    @property
    def sizes(self) -> tuple[int, int]:
        """Neurons at the target and at the source."""
        return self.view[self.dims[0]], self.view[self.dims[1]]

    @property
    def num_edges(self) -> int:
        return math.prod(self.sizes)


@dataclass(frozen=True)
class NodeParam:
    """A parameter with one entry per neuron (or one for the whole group, shape ``(1,)``)."""

    param: str
    group: str
    field: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class NetSpec:
    """Neuron groups in topological order, the blocks between them, and the parameters on them.

    Args:
        groups: inputs first, outputs last; every block leads from an earlier to a later group.
        blocks: bundles of edges.
        node_params: biases, norm parameters, slopes.
        input_shape: shape of one input where it is known, e.g. ``(1, 28, 28)``.

    Raises:
        SpecError: the parts contradict each other.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> spec = mlp_spec([2, 32, 32, 1], "sin", omega=30.0)
        >>> spec.num_nodes, spec.num_edges, NetSpec.from_json(spec.to_json()) == spec
        (67, 1120, True)
    """

    groups: tuple[NeuronGroup, ...]
    blocks: tuple[Block, ...]
    node_params: tuple[NodeParam, ...] = ()
    input_shape: tuple[int, ...] | None = None
    _hash: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        parts = (self.groups, self.blocks, self.node_params, self.input_shape)
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def position(self) -> dict[str, int]:
        """Group id -> its place in the topological order."""
        return {group.id: i for i, group in enumerate(self.groups)}

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First node of every group, and the number of nodes."""
        sums = [0]
        for group in self.groups:
            sums.append(sums[-1] + group.size)
        return tuple(sums)

    @cached_property
    def incoming(self) -> tuple[tuple[int, ...], ...]:
        """Per group, the blocks that lead to it."""
        return tuple(tuple(i for i, b in enumerate(self.blocks) if b.dst == g.id) for g in self.groups)

    @cached_property
    def outgoing(self) -> tuple[tuple[int, ...], ...]:
        """Per group, the blocks that leave it."""
        return tuple(tuple(i for i, b in enumerate(self.blocks) if b.src == g.id) for g in self.groups)

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Per group, the longest path from an input, in blocks."""
        level = [0] * len(self.groups)
        for i, blocks in enumerate(self.incoming):
            level[i] = max((level[self.position[self.blocks[b].src]] + 1 for b in blocks), default=0)
        return tuple(level)

    @cached_property
    def heights(self) -> tuple[int, ...]:
        """Per group, the longest path to an output, in blocks."""
        height = [0] * len(self.groups)
        for i in reversed(range(len(self.groups))):
            height[i] = max((height[self.position[self.blocks[b].dst]] + 1 for b in self.outgoing[i]), default=0)
        return tuple(height)

    @property
    def num_nodes(self) -> int:
        return self.offsets[-1]

    @cached_property
    def num_edges(self) -> int:
        return sum(block.num_edges for block in self.blocks)

    @cached_property
    def num_fields(self) -> int:
        """Columns of x: 1, or all of NODE_FIELDS where norms or slopes are present."""
        return 1 if all(p.field == "bias" for p in self.node_params) else len(NODE_FIELDS)

    @cached_property
    def tap_grid(self) -> tuple[int, ...]:
        """The smallest tap grid in which the taps of every block can be centred."""
        rank = max((len(b.taps) for b in self.blocks), default=0)
        grids = [(1,) * (rank - len(b.taps)) + b.taps for b in self.blocks]
        return tuple(max(axis) for axis in zip(*grids, strict=True))

    @cached_property
    def params(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape, in the order of the spec."""
        shapes = {b.param: b.shape for b in self.blocks}
        shapes.update({p.param: p.shape for p in self.node_params})
        return shapes

    @property
    def num_params(self) -> int:
        return sum(math.prod(shape) for shape in self.params.values())

    def span(self, group: int | str) -> slice:
        """The nodes of a group."""
        i = self.position[group] if isinstance(group, str) else group
        return slice(self.offsets[i], self.offsets[i + 1])

    def to_json(self) -> str:
        """The spec as JSON text; :meth:`from_json` gives it back."""
        return json.dumps(dataclasses.asdict(self), default=_encode)

    @staticmethod
    def from_json(text: str) -> NetSpec:
        """Read :meth:`to_json`.

        Raises:
            SpecError: the text is not a spec.
        """
        try:
            return decode(json.loads(text))
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"this text is not a NetSpec ({error}); write it with NetSpec.to_json") from error


def _encode(value: Any) -> Any:
    if isinstance(value, Gauge):
        return value.value
    raise TypeError(f"cannot encode {value!r}")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def decode(d: dict[str, Any]) -> NetSpec:
    """A spec from parsed JSON."""
    groups = tuple(
        NeuronGroup(
            **{
                **g,
                "activations": tuple(Activation(**a) for a in g["activations"]),
                "gauge": tuple(Gauge(v) for v in g["gauge"]),
            }
        )
        for g in d["groups"]
    )

    def ops(items: list[dict[str, Any]]) -> tuple[SpatialOp, ...]:
        return tuple(SpatialOp(**{k: _tuples(v) for k, v in op.items()}) for op in items)

    blocks = tuple(
        Block(
            **{
                **{k: _tuples(v) for k, v in b.items()},
                "conv": b["conv"] and ConvFacts(**{k: _tuples(v) for k, v in b["conv"].items()}),
                "pre": ops(b["pre"]),
                "post": ops(b["post"]),
            }
        )
        for b in d["blocks"]
    )
    node_params = tuple(NodeParam(**{k: _tuples(v) for k, v in p.items()}) for p in d["node_params"])
    return NetSpec(groups=groups, blocks=blocks, node_params=node_params, input_shape=_tuples(d["input_shape"]))


def _check(spec: NetSpec) -> None:
    ids = [g.id for g in spec.groups]
    if len(set(ids)) != len(ids) or not ids:
        raise SpecError(f"neuron groups need distinct ids and there must be one at least; got {ids}")
    order = {g.id: i for i, g in enumerate(spec.groups)}
    for group in spec.groups:
        _check_group(spec, group)
    for block in spec.blocks:
        _check_block(spec, block, order)
    for p in spec.node_params:
        if p.group not in order or p.field not in NODE_FIELDS:
            raise SpecError(f"node parameter {p.param!r}: unknown group {p.group!r} or field {p.field!r}")
        if p.shape not in ((1,), (spec.groups[order[p.group]].size,)):
            size = spec.groups[order[p.group]].size
            raise SpecError(f"node parameter {p.param!r} has shape {p.shape}; its group has {size} neurons")


def _check_group(spec: NetSpec, g: NeuronGroup) -> None:
    if len(g.activations) != len(g.gauge) or len(g.activations) not in (1, g.size):
        raise SpecError(
            f"group {g.id!r}: got {len(g.activations)} activations and {len(g.gauge)} gauges for {g.size} neurons; "
            "give one of each, or one per neuron"
        )
    if g.role != "hidden" and (g.permutable or any(g.gauge)):
        raise SpecError(f"group {g.id!r} has role {g.role!r}: inputs and outputs are fixed; drop its symmetry")
    slopes = any(p.group == g.id and p.field == "slope" for p in spec.node_params)
    if any(a.name == "prelu" for a in g.activations) and not slopes:
        raise SpecError(f"group {g.id!r}: prelu needs a parameter of field 'slope'; use leaky_relu instead")
    if g.size < 1:
        raise SpecError(f"group {g.id!r}: a group needs one neuron at least; got size {g.size}")


def _check_block(spec: NetSpec, b: Block, order: dict[str, int]) -> None:
    if b.src not in order or b.dst not in order or order[b.src] >= order[b.dst]:
        raise SpecError(f"block {b.param!r} leads {b.src!r} -> {b.dst!r}: list the groups in topological order")
    if math.prod(b.shape) != math.prod(b.view) or sorted(b.dims) != list(range(len(b.view))):
        raise SpecError(f"block {b.param!r}: shape {b.shape}, view {b.view} and dims {b.dims} do not fit together")
    want = (spec.groups[order[b.dst]].size, spec.groups[order[b.src]].size)
    if b.sizes != want:
        raise SpecError(
            f"block {b.param!r} has {b.sizes[0]} x {b.sizes[1]} edges; its groups have {want[0]} and {want[1]}"
        )
