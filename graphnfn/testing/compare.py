"""How far two outputs of a metanetwork are apart: relative, per network and per tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from graphnfn.errors import GraphNFNError
from graphnfn.graph import NeuralGraph
from graphnfn.spec import NODE_FIELDS
from graphnfn.traced_stack import TracedStack

Output = Tensor | NeuralGraph
MetaModule = Callable[[NeuralGraph], Output]

_FLOOR = 1e-3
"""A tensor of an output graph counts as at least this part of the network's largest one, so that rounding noise
where a parameter is absent is not measured against zero."""


@dataclass(frozen=True)
class Finding:
    """One relative error, and where it is."""

    error: float
    network: int
    part: str

    def __str__(self) -> str:
        return f"network {self.network}, {self.part}: relative error {self.error:.2e}"


@dataclass(frozen=True)
class _Part:
    name: str
    places: Tensor
    values: Tensor


def evaluate(module: MetaModule, graph: NeuralGraph) -> Output:
    """The module's output without gradients.

    Raises:
        GraphNFNError: it is neither a tensor with one row per network nor a graph of the same networks.
    """
    with torch.no_grad():
        out = module(graph)
    if isinstance(out, Tensor):
        if out.dim() == 0 or out.shape[0] != graph.num_graphs:
            raise GraphNFNError(
                f"the module returned a tensor of shape {list(out.shape)} for {graph.num_graphs} networks: "
                "return one row per network"
            )
        return out
    if not isinstance(out, NeuralGraph):
        raise GraphNFNError(
            f"the module returned {type(out).__name__}: return a Tensor [networks, ...] or a NeuralGraph"
        )
    if out.specs != graph.specs:
        raise GraphNFNError("the module returned networks of other architectures than it was given")
    return out


def worst(got: Output, want: Output) -> Finding:
    """The largest relative difference between two outputs of the same kind; infinite where one is not finite."""
    return max(findings(got, want), key=lambda f: f.error)


def findings(got: Output, want: Output) -> list[Finding]:
    """The relative difference of every network in every tensor of an output."""
    a, b = _parts(got), _parts(want)
    floors = _floors(b)
    out = []
    for new, old in zip(a, b, strict=True):
        if new.values.shape != old.values.shape:
            raise GraphNFNError(f"{new.name}: shapes {list(new.values.shape)} and {list(old.values.shape)} differ")
        scale = torch.maximum(_norm(old.values), floors[old.places])
        gap = _norm(new.values - old.values)
        error = torch.where(gap == 0, 0.0, gap / scale.clamp_min(torch.finfo(scale.dtype).tiny))
        error = torch.where(torch.isfinite(error), error, torch.inf)
        out.extend(Finding(e, p, new.name) for e, p in zip(error.tolist(), old.places.tolist(), strict=True))
    return out


def _norm(values: Tensor) -> Tensor:
    return values.double().flatten(1).norm(dim=1)


def _floors(parts: list[_Part]) -> Tensor:
    """Per network, the smallest scale that an error is measured against."""
    total = max(int(p.places.max()) for p in parts) + 1
    if len(parts) == 1 and parts[0].name == "output":
        return _norm(parts[0].values).median().expand(total)
    largest = torch.zeros(total, dtype=torch.float64)
    for part in parts:
        largest[part.places] = torch.maximum(largest[part.places], _norm(part.values))
    return _FLOOR * largest


def _parts(output: Output) -> list[_Part]:
    if isinstance(output, Tensor):
        rows = output.detach().cpu()
        return [_Part("output", torch.arange(len(rows)), rows.reshape(len(rows), -1))]
    parts = []
    for stack, places in zip(output.stacks(), output.members(), strict=True):
        if isinstance(stack, TracedStack):
            parts += [_Part(f"tensor {n!r}", places, t.detach().cpu()) for n, t in stack.tensors.items()]
            continue
        for i, group in enumerate(stack.spec.groups):
            for c, field in enumerate(NODE_FIELDS[: stack.nodes.shape[-1]]):
                parts.append(_Part(f"{field} of group {group.id!r}", places, stack.group(i)[..., c].detach().cpu()))
        for block, weight in zip(stack.spec.blocks, stack.blocks, strict=True):
            parts.append(_Part(f"parameter {block.param!r}", places, weight.detach().cpu()))
    return parts


TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Relative errors that count as rounding, over six decades of scales."""


def tolerance(graph: NeuralGraph) -> float:
    """The default tolerance for the dtype of a graph's weights.

    Raises:
        GraphNFNError: the weights are in half precision, where exactness cannot be tested.
    """
    dtype = graph.stacks()[0].nodes.dtype
    if dtype not in TOLERANCE:
        raise GraphNFNError(f"no default tolerance for {dtype}: test in float64 or float32, or give a tolerance")
    return TOLERANCE[dtype]
