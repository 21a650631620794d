"""Reading and editing traced networks: sweeps along their own program, and products of weights and gradients."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from graphnfn.nn.products import PROBES, ProductReader, pooled_products, pooled_sensitivities, sensitivities
from graphnfn.nn.sites import find_sites
from graphnfn.nn.traced_sweep import TracedSweeps
from graphnfn.nn.typed import soft_root
from graphnfn.traced import TracedSpec
from graphnfn.traced_stack import TracedStack

_SWEEPS_ONLY = ("native", "probes")
_PRODUCTS_ONLY = ("gated", "paths", "synchronous")


class TracedReader(nn.Module):
    """Features of traced networks, and edits of their weights, exact under every element of their law.

    Which parts there are follows the kind of layer that chains are read with: "native" and "probes" have sweeps
    (:class:`~graphnfn.nn.traced_sweep.TracedSweep`), "gated", "paths" and "synchronous" read products of weights and
    gradients (:class:`~graphnfn.nn.products.ProductReader`), all others have both. Tensors are pooled by a sum.

    Args:
        width: channels.
        hidden: numbers per network.
        rounds: of sweeps.
        layer: the kind of layer.
        checkpoint: whether sweeps trade time for memory.
        edit: whether it shall edit.

    Shape: ``[networks, hidden]``.
    """

    def __init__(
        self, width: int, hidden: int, *, rounds: int = 1, layer: str = "combined", checkpoint: bool = False,
        edit: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        swept, read = layer not in _PRODUCTS_ONLY, layer not in _SWEEPS_ONLY
        self.sweeps = TracedSweeps(width, rounds, hidden, checkpoint=checkpoint) if swept else None
        self.products = ProductReader(width, hidden) if read else None
        if edit:
            self.scale = nn.Parameter(torch.tensor(0.01))
            self.whole = nn.Linear(hidden, 1)
            self.rows = nn.Linear(2 * width, 1) if swept else None
            self.entry = nn.Sequential(nn.Linear(PROBES, width), nn.SiLU(), nn.Linear(width, 1)) if read else None

    def forward(self, stack: TracedStack) -> Tensor:
        """Features of every network."""
        parts = []
        if self.sweeps is not None:
            parts.append(self.sweeps(stack)[0])
        if self.products is not None:
            tensors = self.products(stack.spec, pooled_sensitivities(stack))
            parts.append(torch.stack(list(tensors.values())).sum(0))
        return torch.stack(parts).sum(0)

    def edit(self, stack: TracedStack) -> TracedStack:
        """``w (1 + s tanh(a_tensor + a_target + a_entry))``: changes of at most a share s.

        Targets are the neurons that a tensor leads to; those of a linear group change alike, and so do the entries of
        tensors with linear groups.
        """
        shares: dict[str, Tensor] = {}
        if self.sweeps is not None:
            total, seen = self.sweeps(stack)
            network, targets = self.whole(total)[:, 0], self._targets(stack.spec, seen)
            shares = {n: _lift(network, t.dim()) + targets.get(n, 0.0) for n, t in stack.tensors.items()}
        if self.products is not None:
            for name, share in self._entries(stack).items():
                shares[name] = shares[name] + share if name in shares else share
        edited = {n: (w * (1 + self.scale * torch.tanh(shares[n]))).to(w.dtype) for n, w in stack.tensors.items()}
        return replace(stack, tensors=edited)

    def _targets(self, spec: TracedSpec, found: Tensor) -> dict[str, Tensor]:
        """Shares of the neurons that tensors lead to, along their axis: ``[B, .., n, ..]``."""
        assert self.rows is not None
        out: dict[str, Tensor] = {}
        seen = self.rows(found)[..., 0]
        for site in find_sites(spec).sites:
            if len(site.ends) != 1:
                continue
            name, axis = site.ends[0]
            values = seen[:, site.start : site.start + site.count]
            shape = [len(found), *(-1 if a == axis else 1 for a in range(len(spec.params[name])))]
            out[name] = out.get(name, 0.0) + values[:, site.segment.to(values.device)].view(shape)
        return out

    def _entries(self, stack: TracedStack) -> dict[str, Tensor]:
        assert self.products is not None and self.entry is not None
        products = sensitivities(stack)
        pooled = {name: pooled_products(stack.spec, name, values) for name, values in products.items()}
        features = self.products(stack.spec, pooled)
        linear = {v.group for v in stack.spec.law.gauges if v.linear}
        shares = {}
        for name, values in products.items():
            share = _lift(self.whole(features[name])[:, 0], values.dim() - 1)
            if not any(leg.group in linear for leg in stack.spec.law.legs_of.get(name, ())):
                share = share + self.entry(soft_root(values.to(share.dtype)).movedim(1, -1))[..., 0]
            shares[name] = share
        return shares


def _lift(values: Tensor, dim: int) -> Tensor:
    return values.view(-1, *(1,) * (dim - 1))
