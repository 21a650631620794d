"""Reading traced networks: products of weights and their gradients, invariant under every symmetry of the law."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from graphnfn.errors import SpecError
from graphnfn.law import Leg
from graphnfn.nn.typed import soft_root
from graphnfn.running import run_program
from graphnfn.symmetry.exchange import orbits
from graphnfn.symmetry.law_element import places
from graphnfn.traced import TracedSpec
from graphnfn.traced_stack import TracedStack

PROBES = 8
"""Random input batches, and random cotangents at the outputs, per network."""


def sensitivities(stack: TracedStack, probes: int = PROBES) -> dict[str, Tensor]:
    """``w * dL_k/dw`` for probe functions ``L_k = <c_k, f(x_k)> / |c_k|``, per tensor ``[B, K, *shape]``.

    A weight and its gradient transform inversely under permutations, scales, signs and linear maps, so the products
    are invariant under scales and signs, move with permutations, and their sums over a group are invariant under
    GL. Summed over a neuron's incoming weights they are activation times adjoint. The probes are fixed random numbers.
    They are no differentiable function of the weights here.

    Raises:
        SpecError: no output depends on the weights.
    """
    rows = []
    for row in range(stack.size):
        found = [{n: p.clone() for n, p in products} for products in _probed(stack, row, probes)]
        rows.append({name: torch.stack([f[name] for f in found]) for name in stack.tensors})
    return {name: torch.stack([r[name] for r in rows]) for name in stack.tensors}


def pooled_sensitivities(stack: TracedStack, probes: int = PROBES) -> dict[str, Tensor]:
    """:func:`pooled_products` of all tensors, ``[B, 6 K]``; holds the products of one tensor and probe at a time.

    Raises:
        SpecError: no output depends on the weights.
    """
    rows = []
    for row in range(stack.size):
        found = [
            {n: pooled_products(stack.spec, n, p[None, None])[0] for n, p in products}
            for products in _probed(stack, row, probes)
        ]
        rows.append({n: torch.stack([f[n] for f in found], -1).flatten() for n in stack.tensors})
    return {name: torch.stack([r[name] for r in rows]) for name in stack.tensors}


def _probed(stack: TracedStack, row: int, probes: int) -> Iterator[Iterator[tuple[str, Tensor]]]:
    """Probe by probe, the products of one tensor after the other."""
    spec = stack.spec
    wide = {n: t[row].detach().float() if _half(t) else t[row].detach() for n, t in stack.tensors.items()}
    with torch.enable_grad():
        leaves = {n: t.view_as(t).requires_grad_() for n, t in wide.items()}
    for inputs, generator in _probes(stack, probes):
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            outputs = run_program(spec, leaves, stack.extra, inputs)
            targets = [y for y in outputs if isinstance(y, Tensor) and y.requires_grad]
            if not targets:
                raise SpecError("no output of this network depends on its weights: it cannot be read")
            loss = torch.zeros((), device=targets[0].device)
            for y in targets:
                cotangent = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
                loss = loss + (cotangent * y).sum() / max(1, y.numel()) ** 0.5
            grads: list[Tensor | None] = [*torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)]
        del outputs, targets, loss
        yield _each(wide, grads)


def _each(wide: dict[str, Tensor], grads: list[Tensor | None]) -> Iterator[tuple[str, Tensor]]:
    for k, (name, weight) in enumerate(wide.items()):
        grad, grads[k] = grads[k], None  # what was read makes room
        yield name, torch.zeros_like(weight) if grad is None else grad.mul_(weight)


def _half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)


def _probes(stack: TracedStack, probes: int) -> Iterator[tuple[list[Tensor], torch.Generator]]:
    for k in range(probes):
        generator = torch.Generator().manual_seed(k)
        device = next(iter(stack.tensors.values())).device
        yield (
            [
                torch.randn(x.shape, generator=generator, dtype=torch.float64).to(device)
                if x.is_floating_point()
                else x.to(device)
                for x in stack.inputs
            ],
            generator,
        )


class ProductReader(nn.Module):
    """Features of traced networks from products of weights and gradients, exact under every element of their law.

    Per tensor, entries of linear groups are summed first; then means and deviations over all entries, over targets and
    over sources, of soft roots of the products ``w dL/dw``.

    Args:
        width: channels.
        hidden: numbers per tensor.

    Shape: per tensor ``[networks, hidden]``.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.tensor = nn.Sequential(nn.Linear(6 * PROBES + 3, 4 * width), nn.SiLU(), nn.Linear(4 * width, hidden))

    def forward(self, spec: TracedSpec, pooled: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features of every tensor, from :func:`pooled_sensitivities`."""
        order, twins = {name: k for k, name in enumerate(pooled)}, orbits(spec.law.exchanges)
        out = {}
        for name, values in pooled.items():
            shape, k = spec.params[name], order[twins.get(name, name)]
            facts = [math.log1p(math.prod(shape)), len(shape), k / len(pooled)]
            fixed = values.new_tensor(facts).expand(len(values), -1)
            out[name] = self.tensor(torch.cat([values, fixed], -1).to(next(self.parameters()).dtype))
        return out


def pooled_products(spec: TracedSpec, name: str, values: Tensor) -> Tensor:
    """Invariants of one tensor: ``[B, K, *shape]`` to ``[B, 6 K]``."""
    legs = spec.law.legs_of.get(name, ())
    linear = {v.group for v in spec.law.gauges if v.linear}
    for axis in sorted({leg.axis for leg in legs if leg.group in linear}):
        values = _summed(spec, values, axis, [leg for leg in legs if leg.axis == axis], linear)
    values = values.double()
    kept = [leg for leg in legs if not leg.where]  # a column that means other neurons in other rows is no sum
    axes = [leg.axis + 2 for leg in sorted(kept, key=lambda leg: (not leg.dst, leg.axis))]
    ends = [next((a for a in axes), None), next((a for a in reversed(axes) if a != axes[0]), None)]
    views = [values.flatten(2)]
    for end in ends:
        rest = [a for a in range(2, values.dim()) if a != end]
        views.append(views[0] if end is None else values.sum(rest) if rest else values)
    parts = []
    for view in views:
        rows = soft_root(view)
        mean = rows.mean(-1)
        parts += [mean, torch.sqrt(((rows - mean[..., None]) ** 2).mean(-1) + 1e-12)]
    return torch.cat(parts, -1)


def _summed(spec: TracedSpec, values: Tensor, axis: int, legs: list[Leg], linear: set[str]) -> Tensor:
    """Along one axis, the entries of every slot of a linear group as one entry: their sum."""
    size = values.shape[axis + 2]
    segment = torch.arange(size)
    for leg in legs:
        if leg.group in linear:
            index = places(leg, spec.law.by_id[leg.group].size)
            segment[index] = index[:1]
    _, segment = segment.unique(return_inverse=True)
    shape = (*values.shape[: axis + 2], int(segment.max()) + 1, *values.shape[axis + 3 :])
    return values.new_zeros(shape).index_add(axis + 2, segment.to(values.device), values)
