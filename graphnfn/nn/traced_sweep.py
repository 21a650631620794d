"""The native sweep on traced networks: rounds of running them on learned inputs and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from graphnfn.nn.channels import Channels, Networks, sweep
from graphnfn.nn.sites import KINDS, find_sites
from graphnfn.nn.typed import soft_root
from graphnfn.traced import TracedSpec
from graphnfn.traced_stack import TracedStack

CHUNK = 8
"""Channels that run at a time where memory is to be saved."""
TOGETHER = 2**21
"""Weights of networks that run at a time."""
_FACTS = 3
_TINY = 1e-6


@dataclass(frozen=True)
class Found:
    """What a round knows of B networks.

    Args:
        seen: ``[B, total, 2 d]``: per number of every site, activation times adjoint in each channel, as soft roots,
            and relative to the others of their site.
        network: ``[B, hidden]``.
    """

    seen: Tensor
    network: Tensor


@dataclass(frozen=True)
class _Table:
    """The sites of a spec as columns."""

    owner: Tensor
    counts: Tensor
    kinds: Tensor
    facts: Tensor


@lru_cache(maxsize=64)
def _table(spec: TracedSpec, device: torch.device) -> _Table:
    sites = find_sites(spec)
    counts = torch.tensor([s.count for s in sites.sites], dtype=torch.float64)
    shares = [s.count / len(s.segment) for s in sites.sites]  # less than 1 where linear groups are
    facts = torch.stack([counts.log1p() / 4, torch.tensor(shares), torch.tensor([s.order for s in sites.sites])], -1)
    kinds = torch.tensor([KINDS.index(s.kind) for s in sites.sites], dtype=torch.long)
    return _Table(*(t.to(device) for t in (sites.owner(), counts, kinds, facts)))


class TracedSweep(nn.Module):
    """One round: a traced network is run on d learned inputs, and back from d learned cotangents.

    ``z -> z (1 + gain)`` wherever neurons have a place in the program (see :class:`~graphnfn.nn.sites.Site`); round
    features are ``e_i = dL/dgain_i = sum z_i dL/dz_i``, activation times adjoint, of charge 0, and the outputs. Gains,
    inputs and cotangents of a round are learned functions of what the rounds before it found, so messages of later
    rounds run along a modulated network; in the first round gains depend on the kind of operator only. Everything
    starts near evaluation and back-propagation of the network itself. Inputs, tokens and cotangents are learned sums
    of d fixed random ones, so no parameter depends on the shape of a network.

    Args:
        width: channels d.
        hidden: numbers per network.
        first: whether there is no round before this one.

    Shape: ``Found`` in (not in the first round) and out.
    """

    def __init__(self, width: int, hidden: int, *, first: bool) -> None:
        super().__init__()
        self.inputs = nn.Parameter(torch.eye(width) + torch.randn(width, width) * 0.3 * width**-0.5)
        self.answers = nn.Parameter(torch.eye(width) + torch.randn(width, width) * 0.3 * width**-0.5)
        self.kind = nn.Embedding(len(KINDS), width)
        self.facts = nn.Linear(_FACTS, width, bias=False)
        nn.init.normal_(self.kind.weight, std=0.1)
        nn.init.normal_(self.facts.weight, std=0.1)
        if not first:
            self.neuron = nn.Linear(2 * width, width)
            self.network = nn.Linear(hidden, width)
            self.turn = nn.Linear(hidden, 2 * width)
        self.first = first
        self.site = nn.Sequential(nn.Linear(4 * width + _FACTS, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.outputs = nn.Linear(width * width, hidden)

    def forward(self, networks: Networks, before: Found | None, *, checkpoint: bool) -> Found:
        table = _table(networks.spec, self.inputs.device)
        width, dtype = len(self.inputs), self.inputs.dtype
        facts, code = table.facts.to(dtype), self.kind(table.kinds)
        gate = (code + self.facts(facts))[table.owner].expand(networks.size, -1, -1)
        inputs, answers = (t.expand(networks.size, -1, -1) for t in (self.inputs, self.answers))
        if before is not None:
            gate = gate + self.neuron(before.seen) + self.network(before.network)[:, None]
            turns = 1 + 0.5 * torch.tanh(self.turn(before.network)).to(dtype).view(-1, 2, 1, width)
            inputs, answers = inputs * turns[:, 0], answers * turns[:, 1]
        gains = 0.5 * torch.tanh(gate).to(dtype).transpose(1, 2).contiguous()
        channels = Channels(inputs, answers, gains)
        e, o = sweep(networks, channels, size=CHUNK if checkpoint else width, checkpoint=checkpoint)
        neurons = e.transpose(1, 2) * table.counts.to(dtype).sqrt()[table.owner, None]
        rows, square = soft_root(neurons), _mean(neurons**2, table) + _TINY
        mean = _mean(rows, table)
        spread = (_mean((rows - mean[:, table.owner]) ** 2, table) + _TINY).sqrt()
        fixed = torch.cat([code, facts.to(code)], -1).expand(networks.size, -1, -1)
        sites = self.site(torch.cat([mean, spread, 0.1 * square.log(), fixed], -1))
        seen = torch.cat([rows, neurons * square.rsqrt()[:, table.owner]], -1)
        return Found(seen, self.outputs(soft_root(o).flatten(1)) + sites.sum(1))


def _mean(values: Tensor, table: _Table) -> Tensor:
    """Over the numbers of every site."""
    total = values.new_zeros(len(values), len(table.counts), values.shape[-1]).index_add(1, table.owner, values)
    return total / table.counts.to(values.dtype)[:, None]


class TracedSweeps(nn.Module):
    """Rounds of :class:`TracedSweep`, one after the other, and their sum per network.

    Args:
        width: channels d.
        rounds: how many.
        hidden: numbers per network.
        checkpoint: whether to trade time for memory: :data:`CHUNK` channels at a time, run again in the backward pass.

    Shape: ``[networks, hidden]``, and what the last round saw of neurons, ``[networks, total, 2 width]``.
    """

    def __init__(self, width: int, rounds: int, hidden: int, *, checkpoint: bool = False) -> None:
        super().__init__()
        self.rounds = nn.ModuleList(TracedSweep(width, hidden, first=k == 0) for k in range(rounds))
        self.checkpoint = checkpoint

    def forward(self, stack: TracedStack) -> tuple[Tensor, Tensor]:
        weights = sum(math.prod(shape) for shape in stack.spec.params.values())
        step = max(1, TOGETHER // weights)
        parts = [self._some(Networks.of(stack, slice(k, k + step))) for k in range(0, stack.size, step)]
        total, seen = zip(*parts, strict=True)
        return torch.cat(total), torch.cat(seen)

    def _some(self, networks: Networks) -> tuple[Tensor, Tensor]:
        total, found = None, None
        for layer in self.rounds:
            found = layer(networks, found, checkpoint=self.checkpoint)
            total = found.network if total is None else total + found.network
        assert total is not None and found is not None
        return total, found.seen
