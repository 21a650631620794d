"""Units of a network's inputs: the same function of inputs that are scaled and shifted."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from graphnfn.errors import SpecError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import Block, NetSpec
from graphnfn.stack import Stack
from graphnfn.traced_stack import TracedStack

_COMMUTE = ("flatten", "global_avg_pool")
"""Operations on inputs that scales and shifts of whole channels pass through."""


def rescale_inputs(graph: NeuralGraph, scale: Tensor | float, shift: Tensor | float = 0.0) -> NeuralGraph:
    """The networks that compute of ``u' = scale u + shift`` what the given ones compute of u.

    Per input neuron (or channel) j, with D = scale and t = shift, ``w'_ij = w_ij / D_j`` and
    ``b'_i = b_i - sum_j w_ij t_j / D_j``.  Networks that were trained on raw data and on standardised data become
    comparable when each is brought to the same units: with the mean m and the deviation s of its own inputs,
    ``rescale_inputs(graph, 1 / s, -m / s)``.  Inputs are no symmetry: metanetworks tell other units apart, as they
    should where these are not known.

    Args:
        graph: networks, each with its own input neurons.
        scale: D, ``[inputs]`` or ``[networks, inputs]`` or a number; not zero.
        shift: t, likewise.

    Raises:
        SpecError: a scale is zero or not finite; shapes do not fit; a shift cannot be undone, because a padded
            convolution fills up with zeros or because there is no bias; or the networks are traced, or read their
            inputs in other ways than by convolutions and dense layers.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.functional import run
        >>> from graphnfn.testing import random_graph
        >>> graph, u = random_graph(mlp_spec([2, 8, 1], "relu"), networks=3), torch.rand(5, 2).double()
        >>> moved = rescale_inputs(graph, torch.tensor([0.1, 4.0]), 3.0)
        >>> bool(torch.allclose(run(moved, u * torch.tensor([0.1, 4.0]) + 3.0), run(graph, u)))
        True
    """
    stacks, members = graph.stacks(), graph.members()
    for value in (scale, shift):
        if isinstance(value, Tensor) and value.dim() == 2 and len(value) != graph.num_graphs:
            raise SpecError(
                f"got scales or shifts of shape {tuple(value.shape)}; expected [{graph.num_graphs}, inputs], a row for "
                "each network, or [inputs] for all"
            )
    out = []
    for stack, rows in zip(stacks, members, strict=True):
        if isinstance(stack, TracedStack):
            raise SpecError("the inputs of traced networks cannot be rescaled: convert MLPs and CNNs layer by layer")
        size = stack.spec.groups[0].size
        out.append(_rescale(stack, *(_row(v, rows, size, stack.nodes) for v in (scale, shift))))
    return NeuralGraph.from_stacks(out, members)


def _row(value: Tensor | float, rows: Tensor, inputs: int, like: Tensor) -> Tensor:
    """``[B or 1, inputs]``, in the precision of the weights or double."""
    found = torch.as_tensor(value, device=like.device).to(torch.promote_types(like.dtype, torch.float32))
    found = found[rows.to(like.device)] if found.dim() == 2 else found[None]
    try:
        return found.expand(found.shape[0], inputs)
    except RuntimeError as error:
        raise SpecError(f"got scales or shifts of shape {tuple(found.shape)}; a network has {inputs} inputs") from error


def _rescale(stack: Stack, scale: Tensor, shift: Tensor) -> Stack:
    if not bool((scale.isfinite() & (scale != 0)).all() and shift.isfinite().all()):
        raise SpecError(
            f"got scales {scale.tolist()} and shifts {shift.tolist()}; expected finite numbers, scales other than "
            "0: give an input without spread the scale 1"
        )
    spec, moved = stack.spec, bool((shift != 0).any())
    nodes, blocks = stack.nodes.clone(), list(stack.blocks)
    for b, block in enumerate(spec.blocks):
        if spec.groups[spec.position[block.src]].role != "input":
            continue
        _check(spec, block, moved)
        blocks[b] = (blocks[b] / scale[:, None, :, None]).to(stack.nodes.dtype)
        if moved:
            here = spec.span(spec.position[block.dst])
            nodes[:, here, 0] -= torch.einsum("bijt,bj->bi", blocks[b], shift.expand(stack.size, -1).to(nodes.dtype))
    return replace(stack, nodes=nodes, blocks=tuple(blocks))


def _check(spec: NetSpec, block: Block, moved: bool) -> None:
    strange = [op.kind for op in block.pre if op.kind not in _COMMUTE]
    if strange:
        raise SpecError(f"{block.param!r} reads its inputs through {strange[0]}, which scales do not pass through")
    if sum((b.param, b.part) == (block.param, block.part) for b in spec.blocks) > 1:
        raise SpecError(f"{block.param!r} is tied: it cannot take other units at the inputs alone")
    if not moved:
        return
    if block.kind == "conv" and (block.conv is None or any(block.conv.padding)):
        raise SpecError(f"{block.param!r} may pad its inputs with zeros, which a shift would change: give shift=0")
    if not any(p.group == block.dst and p.field == "bias" for p in spec.node_params):
        raise SpecError(f"the layer of {block.param!r} has no bias to take up a shift: give shift=0")
