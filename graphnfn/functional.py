"""Run stacked input networks: what their spec says they compute, for many networks at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from graphnfn.errors import SpecError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NODE_FIELDS, Block, NetSpec, NeuronGroup, SpatialOp
from graphnfn.stack import Stack

_COL = {name: i for i, name in enumerate(NODE_FIELDS)}
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def run(
    networks: NeuralGraph | Stack,
    inputs: Tensor,
    *,
    per_network: bool = False,
    hidden: Callable[[int, Tensor], Tensor] | None = None,
) -> Tensor:
    """Outputs of every network on every input; batch norms act as in eval mode.

    Args:
        networks: networks of one spec.
        inputs: ``[n, *input_shape]``, the same for all networks, or ``[B, n, *input_shape]``.
        per_network: whether every network has its own inputs.
        hidden: called with the place of every hidden group and its activation ``[n, B, neurons, *positions]``; what
            it returns takes the activation's place (dropout, recording).

    Returns:
        ``[B, n, *output_shape]``.

    Raises:
        SpecError: the spec does not tell how to run (strides of a bare state dict), or the inputs do not fit.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> spec = mlp_spec([2, 8, 1], "tanh")
        >>> graph = NeuralGraph.build(spec, {k: torch.randn(s) for k, s in spec.params.items()})
        >>> run(graph, torch.zeros(5, 2)).shape
        torch.Size([1, 5, 1])
    """
    stack = networks if isinstance(networks, Stack) else _single(networks)
    spec = stack.spec
    first = inputs.transpose(0, 1) if per_network else inputs.unsqueeze(1)
    if spec.groups[0].size != first.shape[2]:
        first = first.flatten(2)
    if spec.groups[0].size != first.shape[2]:
        raise SpecError(
            f"inputs of shape {tuple(inputs.shape)} do not fit: this spec takes {spec.groups[0].size} input neurons"
        )
    states: list[Tensor] = [first]
    for i, group in enumerate(spec.groups[1:], 1):
        values = stack.group(i)
        first, *others = spec.incoming[i]
        z = _block(stack, first, states[spec.position[spec.blocks[first].src]], values[..., 0])
        for b in others:
            z = z + _block(stack, b, states[spec.position[spec.blocks[b].src]])
        post = spec.blocks[spec.incoming[i][0]].post
        state = _finish(group, values, z, post)
        states.append(hidden(i, state) if hidden is not None and group.role == "hidden" else state)
    flat = any(op.kind == "flatten" for b in spec.incoming[-1] for op in spec.blocks[b].post)
    return (states[-1].flatten(2) if flat else states[-1]).transpose(0, 1)


def _single(graph: NeuralGraph) -> Stack:
    _ = graph.spec  # raises for mixed batches
    return graph.stacks()[0]


def _shaped(row: Tensor, z: Tensor) -> Tensor:
    """``[B, n]`` against ``[samples, B, n, *positions]``."""
    return row.view(1, *row.shape, *(1,) * (z.dim() - 3))


def _block(stack: Stack, b: int, h: Tensor, bias: Tensor | None = None) -> Tensor:
    """What a block adds to its target, with the target's bias ``[B, n]`` on top where it is given."""
    block, weight = stack.spec.blocks[b], stack.blocks[b]
    for op in block.pre:
        h = spatial(op, h)
    if block.kind == "conv":
        return _conv(block, weight, h, bias)
    z = _linear(block, weight, h)
    return z if bias is None else z + _shaped(bias, z)


def _linear(block: Block, weight: Tensor, h: Tensor) -> Tensor:
    h = h.flatten(2)
    flat = weight.flatten(2)
    if h.shape[2] != flat.shape[2]:
        raise SpecError(f"{block.param!r} takes {flat.shape[2]} inputs per sample; its source gives {h.shape[2]}")
    if h.shape[1] == 1:
        return torch.einsum("nc,boc->nbo", h[:, 0], flat)
    return torch.bmm(h.transpose(0, 1), flat.transpose(1, 2)).transpose(0, 1)


def _conv(block: Block, weight: Tensor, h: Tensor, bias: Tensor | None) -> Tensor:
    if block.conv is None:
        raise SpecError(f"stride and padding of {block.param!r} are unknown: convert the module, not its state dict")
    batch, out, into, _ = weight.shape
    kernel = weight.reshape(batch * out, into, *block.taps)
    facts = (block.conv.stride, block.conv.padding, block.conv.dilation)
    conv = _CONV[len(block.taps)]
    flat = None if bias is None else bias.reshape(batch * out)
    if h.shape[1] == 1:
        z = conv(h[:, 0], kernel, flat, *facts)
    else:
        z = conv(h.flatten(1, 2), kernel, flat, *facts, groups=batch)
    return z.unflatten(1, (batch, out))


def _finish(group: NeuronGroup, values: Tensor, z: Tensor, post: tuple[SpatialOp, ...]) -> Tensor:
    """Norm, activation and the operations around them, in their order."""
    steps: list[SpatialOp] = list(post)
    kinds = [op.kind for op in steps]
    if group.norm_eps is not None and "norm" not in kinds:
        at = kinds.index("act") if "act" in kinds else len(steps)
        steps.insert(at, SpatialOp("norm"))
    if "act" not in kinds:
        steps.append(SpatialOp("act"))
    for op in steps:
        if op.kind == "norm":
            z = _norm(group, values, z)
        elif op.kind == "act":
            z = _activate(group, values, z)
        else:
            z = spatial(op, z)
    return z


def _norm(group: NeuronGroup, values: Tensor, z: Tensor) -> Tensor:
    weight, bias, mean, var = (_shaped(values[..., c], z) for c in range(1, 5))
    return (z - mean) * torch.rsqrt(var + (group.norm_eps or 0.0)) * weight + bias


def _activate(group: NeuronGroup, values: Tensor, z: Tensor) -> Tensor:
    slope = _shaped(values[..., _COL["slope"]], z) if values.shape[-1] > 1 else None
    kinds = [a for a, _ in group.per_neuron()]
    if not kinds[0].rule.elementwise:
        return kinds[0](z.movedim(2, -1)).movedim(-1, 2)  # over the neurons, at every position
    if len(set(kinds)) == 1:
        return kinds[0](z, slope)
    out = z
    for act in dict.fromkeys(kinds):
        mask = torch.tensor([k == act for k in kinds], device=z.device)
        out = torch.where(_shaped(mask[None], z), act(z, slope), out)
    return out


def _over_positions(op: SpatialOp, h: Tensor, pools: dict[int, Callable[..., Tensor]], **options: object) -> Tensor:
    rank = h.dim() - 3
    samples, batch = h.shape[:2]
    return pools[rank](h.flatten(0, 1), **options).unflatten(0, (samples, batch))


_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE_AVG = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_ADAPTIVE_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


def spatial(op: SpatialOp, h: Tensor) -> Tensor:
    """A pooling or flatten on ``[samples, B, channels, *positions]`` (flatten is deferred to the dense layer)."""
    if op.kind == "flatten":
        return h
    if op.kind == "global_avg_pool":
        return h.mean(dim=tuple(range(3, h.dim()))) if h.dim() > 3 else h
    if op.kind == "max_pool":
        rest = {"padding": op.padding, "dilation": op.dilation, "ceil_mode": op.ceil_mode}
        return _over_positions(op, h, _MAX, kernel_size=op.size, stride=op.stride, **rest)
    if op.kind == "avg_pool":
        rest = {"padding": op.padding, "ceil_mode": op.ceil_mode, "count_include_pad": op.count_include_pad}
        return _over_positions(op, h, _AVG, kernel_size=op.size, stride=op.stride, **rest)
    if op.kind in ("adaptive_avg_pool", "adaptive_max_pool"):
        pools = _ADAPTIVE_AVG if op.kind == "adaptive_avg_pool" else _ADAPTIVE_MAX
        return _over_positions(op, h, pools, output_size=op.size)
    raise SpecError(f"unknown spatial operation {op.kind!r}")


def input_shape(spec: NetSpec) -> tuple[int, ...]:
    """The shape of one input, where the spec knows it.

    Raises:
        SpecError: it does not.
    """
    if spec.input_shape is not None:
        return spec.input_shape
    if all(b.kind == "linear" for b in spec.blocks) and math.prod(spec.blocks[0].taps) == 1:
        return (spec.groups[0].size,)
    raise SpecError("the spec does not know the input size: give inputs, or convert with example_input=")
