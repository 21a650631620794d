"""Build the NetSpec of a plain MLP or CNN step by step; the symmetry follows from the activation table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from graphnfn.activations import Activation, Gauge, as_activation
from graphnfn.errors import SpecError
from graphnfn.spec import Block, ConvFacts, NetSpec, NeuronGroup, NodeParam, SpatialOp

_NEEDS_POSITIVE = ("max_pool", "adaptive_max_pool")
IDENTITY = Activation("identity")


@dataclass
class ChainBuilder:
    """Collects layers in order of execution; :meth:`build` returns the spec.

    Args:
        input_size: number of input neurons (features or channels).
        input_shape: shape of one input, e.g. ``(1, 28, 28)``, where it is known.

    Example:
        >>> chain = ChainBuilder(1)
        >>> chain.conv("conv.weight", (16, 1, 3, 3), bias="conv.bias", stride=(2, 2))
        >>> chain.activation(Activation("relu"))
        >>> chain.spatial(SpatialOp("global_avg_pool"))
        >>> chain.linear("fc.weight", (10, 16), bias="fc.bias")
        >>> [group.size for group in chain.build().groups]
        [1, 16, 10]
    """

    input_size: int
    input_shape: tuple[int, ...] | None = None
    _groups: list[NeuronGroup] = field(default_factory=list)
    _blocks: list[Block] = field(default_factory=list)
    _params: list[NodeParam] = field(default_factory=list)
    _pending: list[SpatialOp] = field(default_factory=list)
    _activated: bool = True

    def __post_init__(self) -> None:
        self._groups.append(NeuronGroup(id="input", size=self.input_size, role="input"))

    @property
    def width(self) -> int:
        """Neurons (channels) of the newest group."""
        return self._groups[-1].size

    @property
    def rank(self) -> int:
        """Spatial axes of the newest group's activation; 0 behind a dense layer."""
        conv = bool(self._blocks) and self._blocks[-1].kind == "conv"
        return len(self._blocks[-1].taps) if conv else 0

    def linear(self, weight: str, shape: Sequence[int], *, bias: str | None = None) -> None:
        """A dense layer; after a flatten its inputs are the source's channels times their positions.

        Raises:
            SpecError: the number of inputs is not a multiple of the source's neurons.
        """
        out, into = shape
        positions: tuple[int, ...] = ()
        if into != self.width:
            positions = self._positions(weight, into)
        view = (out, self.width, *positions)
        self._add(weight, tuple(shape), view, "linear", None, bias)

    def conv(
        self,
        weight: str,
        shape: Sequence[int],
        *,
        bias: str | None = None,
        stride: Sequence[int] | None = None,
        padding: Sequence[int] | None = None,
        dilation: Sequence[int] | None = None,
        facts_known: bool = True,
    ) -> None:
        """A convolution with kernel tensor ``(out, in, *kernel)``.

        Raises:
            SpecError: the channels do not follow from the layer before.
        """
        rank = len(shape) - 2
        if shape[1] != self.width:
            raise SpecError(
                f"{weight!r} has shape {tuple(shape)}, so {shape[1]} input channels; the layer before has "
                f"{self.width}. Plain chains without groups are supported: check the order of the layers"
            )
        ones, zeros = (1,) * rank, (0,) * rank
        facts = ConvFacts(tuple(stride or ones), tuple(padding or zeros), tuple(dilation or ones))
        self._add(weight, tuple(shape), tuple(shape), "conv", facts if facts_known else None, bias)

    def norm(self, names: dict[str, str], eps: float) -> None:
        """A batch norm right behind a layer: ``names`` maps node fields (norm_weight, ...) to tensors.

        Raises:
            SpecError: it does not follow a linear or conv layer directly.
        """
        group = self._groups[-1]
        if self._activated or group.norm_eps is not None:
            raise SpecError(f"batch norm after {group.id!r}: supported directly after a Linear or Conv layer, once")
        self._groups[-1] = replace(group, norm_eps=eps)
        if self._blocks[-1].post:
            self._blocks[-1] = replace(self._blocks[-1], post=(*self._blocks[-1].post, SpatialOp("norm")))
        self._params.extend(NodeParam(name, group.id, key, (group.size,)) for key, name in names.items())

    def activation(
        self, activation: Activation | Sequence[Activation], *, slope: str | None = None, slope_size: int = 1
    ) -> None:
        """The nonlinearity of the newest group: one for all neurons or one per neuron.

        Raises:
            SpecError: there is no layer that it could belong to.
        """
        group = self._groups[-1]
        if self._activated:
            raise SpecError(f"two activations, or one without a layer before it, after {group.id!r}: remove one")
        acts = (activation,) if isinstance(activation, Activation) else tuple(activation)
        self._groups[-1] = replace(group, activations=acts, gauge=(Gauge.NONE,) * len(acts))
        if slope is not None:
            self._params.append(NodeParam(slope, group.id, "slope", (slope_size,)))
        self._activated = True

    def spatial(self, op: SpatialOp) -> None:
        """Pooling or flatten, before or after the activation."""
        if self._activated:
            self._pending.append(op)
        else:
            block = self._blocks[-1]
            marker = (SpatialOp("norm"),) if self._norm_unplaced() else ()
            self._blocks[-1] = replace(block, post=(*block.post, *marker, op))

    def build(self) -> NetSpec:
        """The finished spec.

        Raises:
            SpecError: there is no layer.
        """
        if not self._blocks:
            raise SpecError("no Linear or Conv layer: a neuron graph needs one at least")
        if self._pending:  # e.g. conv - global pool: the pooling is part of the last block
            ops = tuple(self._pending)
            self._blocks[-1] = replace(self._blocks[-1], post=(*self._blocks[-1].post, SpatialOp("act"), *ops))
        groups = [g if i in (0, len(self._groups) - 1) else self._hidden(g) for i, g in enumerate(self._groups)]
        groups[-1] = replace(groups[-1], role="output")
        return NetSpec(
            groups=tuple(groups),
            blocks=tuple(self._blocks),
            node_params=tuple(self._params),
            input_shape=self.input_shape,
        )

    def _norm_unplaced(self) -> bool:
        group = self._groups[-1]
        return group.norm_eps is not None and all(op.kind != "norm" for op in self._blocks[-1].post)

    def _positions(self, weight: str, into: int) -> tuple[int, ...]:
        positions, rest = divmod(into, self.width)
        conv_before = bool(self._blocks) and self._blocks[-1].kind == "conv"
        if rest or not conv_before:
            raise SpecError(
                f"{weight!r} takes {into} inputs but the layer before has {self.width} neurons: "
                "the shapes cannot chain. Check the order of the layers"
            )
        ops = (*self._blocks[-1].post, *self._pending)
        flat = next((op for op in reversed(ops) if op.kind == "flatten" and op.size), None)
        if flat is not None and math.prod(flat.size) == positions:
            return flat.size
        side = math.isqrt(positions)
        two_d = len(self._blocks[-1].taps) == 2 and side * side == positions
        return (side, side) if two_d else (positions,)

    def _add(
        self,
        weight: str,
        shape: tuple[int, ...],
        view: tuple[int, ...],
        kind: str,
        facts: ConvFacts | None,
        bias: str | None,
    ) -> None:
        source = self._groups[-1].id
        name = weight.rsplit(".", 1)[0]
        self._groups.append(NeuronGroup(id=name if name != "input" else "input_layer", size=view[0], role="hidden"))
        self._blocks.append(
            Block(
                param=weight, src=source, dst=self._groups[-1].id, shape=shape, view=view,
                dims=tuple(range(len(view))), kind="conv" if kind == "conv" else "linear", conv=facts,
                pre=tuple(self._pending),
            )
        )  # fmt: skip
        if bias is not None:
            self._params.append(NodeParam(bias, self._groups[-1].id, "bias", (view[0],)))
        self._pending, self._activated = [], False

    def _hidden(self, group: NeuronGroup) -> NeuronGroup:
        """Attach the symmetry that the table allows and the pooling around the group leaves."""
        into = [op for b in self._blocks if b.dst == group.id for op in b.post]
        out = [op for b in self._blocks if b.src == group.id for op in b.pre]
        input_positive = any(op.kind in _NEEDS_POSITIVE for op in into)
        output_positive = any(op.kind in _NEEDS_POSITIVE for op in out)
        gauges = tuple(_allowed(a, input_positive, output_positive) for a in group.activations)
        fields = {p.field for p in self._params if p.group == group.id}
        if group.norm_eps is not None and "norm_weight" not in fields:
            gauges = (Gauge.NONE,) * len(gauges)  # no parameter behind such a norm could carry the factor
        shiftable = ("bias" if group.norm_eps is None else "norm_bias") in fields
        turns = shiftable and not output_positive and all(op.kind == "norm" for op in into)
        turns = turns and any(a.rule.half_turns for a in group.activations)
        if not all(a.rule.elementwise for a in group.activations):
            raise SpecError(f"group {group.id!r}: {group.activations[0].name} mixes neurons; supported on outputs only")
        return replace(group, gauge=gauges, permutable=True, half_turns=turns)


def _allowed(activation: Activation, input_positive: bool, output_positive: bool) -> Gauge:
    """Max pooling commutes with positive factors only: of the neuron's input, or of its output."""
    gauge = activation.rule.gauge
    flips_output = bool(activation.phi_sign)
    if input_positive or (output_positive and flips_output):
        gauge &= Gauge.POSITIVE
    return gauge


def _slope(activation: Activation | tuple[Activation, ...], layer: str) -> str | None:
    """The name of the slopes of a PReLU, None for other activations."""
    acts = (activation,) if isinstance(activation, Activation) else activation
    return f"{layer}.slope" if any(a.name == "prelu" for a in acts) else None


def mlp_spec(
    sizes: Sequence[int],
    activation: str | Activation | Sequence[Sequence[Activation]],
    *,
    omega: float | None = None,
    output_activation: str | Activation | None = None,
    names: str = "layers.{}",
    bias: bool = True,
) -> NetSpec:
    """The spec of an MLP with parameters ``names.weight`` and ``names.bias``.

    Args:
        sizes: neurons per layer, inputs first.
        activation: one for all hidden layers, or per hidden layer a list with one per neuron.
        omega: frequency of sin and cos.
        output_activation: of the last layer, where there is one.
        names: pattern of the layer names.
        bias: whether layers have biases.

    Example:
        >>> mlp_spec([2, 8, 1], "relu").groups[1].gauge
        (<Gauge.POSITIVE: 1>,)
    """
    chain = ChainBuilder(sizes[0], (sizes[0],))
    for i, (into, out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        name = names.format(i)
        chain.linear(f"{name}.weight", (out, into), bias=f"{name}.bias" if bias else None)
        if i < len(sizes) - 2:
            single = isinstance(activation, (str, Activation))
            chosen = as_activation(activation, omega) if single else tuple(activation[i])  # type: ignore[arg-type]
            chain.activation(chosen, slope=_slope(chosen, name), slope_size=out)
        elif output_activation is not None:
            chain.activation(as_activation(output_activation))
    return chain.build()


def small_cnn_spec(
    channels: Sequence[int],
    classes: int,
    activation: str | Activation,
    *,
    kernel: int = 3,
    stride: int = 1,
    input_shape: tuple[int, ...] | None = None,
) -> NetSpec:
    """The Small CNN Zoo's form (Unterthiner et al. 2020): convolutions, global average pool, dense layer.

    Args:
        channels: input channels, then the channels of every convolution.
        classes: output neurons of the dense layer.
        activation: of all convolutions.
        kernel: side of the square kernels.
        stride: of all convolutions.
        input_shape: shape of one input, where it is known.

    Example:
        >>> small_cnn_spec([1, 16, 16, 16], 10, "relu", stride=2).num_params
        4970
    """
    chain = ChainBuilder(channels[0], input_shape)
    for i, (into, out) in enumerate(zip(channels, channels[1:], strict=False)):
        shape = (out, into, kernel, kernel)
        chain.conv(f"conv{i}.weight", shape, bias=f"conv{i}.bias", stride=(stride, stride))
        chosen = as_activation(activation)
        chain.activation(chosen, slope=_slope(chosen, f"conv{i}"), slope_size=out)
    chain.spatial(SpatialOp("global_avg_pool"))
    chain.linear("dense.weight", (classes, channels[-1]), bias="dense.bias")
    return chain.build()
