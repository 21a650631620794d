"""What a fused sweep knows of a spec before it sees weights, and how its buffers are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from graphnfn.nn.facts import group_facts
from graphnfn.nn.library import bits
from graphnfn.nn.responses import IDENTITY, General, Identity, Relu, Response, Tanh, Wave, known_response
from graphnfn.nn.taps import gain_slot
from graphnfn.spec import NetSpec

ROLES = ("input", "hidden", "output")
CODES: dict[type, int] = {Identity: 0, Relu: 1, Tanh: 2, Wave: 3}


@dataclass(frozen=True)
class Plan:
    """Facts per level (neuron group) and link (block) of a spec.

    Args:
        simple: one input group, which comes first, and one output group, which comes last.
        sizes, roles: neurons, and 0, 1, 2 for input, hidden, output.
        starts: first neuron of every level, and the number of neurons.
        keeps: whether the response keeps something beside x.
        periodic: whether biases keep their factor 1.
        links: source level, target level, and place of the gain in ``TapTable.gains``.
        rows: what ``sweep.c`` wants of every level (size, role, activation, keeps, bars); None where it cannot do it.
        scales: omega as the bits of a double.
        weights: weights of the largest block.
        used: which roles and which gains there are; the others get no gradient.
    """

    simple: bool
    sizes: tuple[int, ...]
    roles: tuple[int, ...]
    starts: tuple[int, ...]
    keeps: tuple[bool, ...]
    periodic: tuple[bool, ...]
    links: tuple[tuple[int, int, int], ...]
    rows: tuple[tuple[int, ...], ...] | None
    scales: tuple[int, ...]
    weights: int
    used: tuple[frozenset[int], frozenset[int]]

    @property
    def held(self) -> int:
        """Neurons times the tensors that the backward pass needs beside activations."""
        return 2 * self.starts[-1] + sum(n for n, keeps in zip(self.sizes, self.keeps, strict=True) if keeps)

    def views(self, piece: Tensor, networks: int, width: int) -> tuple[list[Tensor], list[Tensor]]:
        """Even features of all levels and activations of those behind the inputs, in one piece of memory.

        One allocation that comes and goes is kept by the C library for the next sweep; many are returned to the
        system, and fetching them again can take longer than the sweep.
        """
        even, x = [], []
        at = self._cut(piece, networks, width)
        for n in self.sizes:
            even.append(next(at)(n))
        for n in self.sizes[1:]:
            x.append(next(at)(n))
        return even, x

    def held_views(self, held: Tensor, networks: int, width: int) -> tuple[list[Any], list[Any], list[Any]]:
        """What the responses keep, returned states and roots, per level."""
        kept, back, root = [], [], []
        at = self._cut(held, networks, width)
        for n, keeps in zip(self.sizes, self.keeps, strict=True):
            kept.append(next(at)(n) if keeps else None)
            back.append(next(at)(n))
            root.append(next(at)(n))
        return kept, back, root

    @staticmethod
    def _cut(piece: Tensor, networks: int, width: int) -> Iterator:
        """Tensors that share memory, but are no views of each other as far as autograd can see."""
        memory, start = piece.untyped_storage(), 0

        def cut(n: int) -> Tensor:
            nonlocal start
            shape, steps = (networks, n, width), (n * width, width, 1)
            found = piece.new_empty(0).set_(memory, start, shape, steps)
            start += networks * n * width
            return found

        while True:
            yield cut


@lru_cache(maxsize=512)
def plan_of(spec: NetSpec, device: torch.device) -> Plan:
    """The plan of a spec.

    Example:
        >>> from graphnfn.chain import mlp_spec
        >>> plan = plan_of(mlp_spec([2, 8, 1], "sin", omega=30.0), torch.device("cpu"))
        >>> plan.links, plan.keeps, plan.rows
        (((0, 1, 0), (1, 2, 0)), (False, True, False), ((2, 0, 0, 0, 0), (8, 1, 3, 1, 1), (1, 2, 0, 0, 0)))
    """
    facts = group_facts(spec, device)
    roles = tuple(ROLES.index(g.role) for g in spec.groups)
    found: list[Response | None] = []
    for role, fact in zip(roles, facts, strict=True):
        found.append(IDENTITY if role == 0 else known_response(fact.parts[0][0]) if len(fact.parts) == 1 else None)
    keeps = tuple(General.keeps if r is None else r.keeps for r in found)
    rows: list[tuple[int, ...]] = []
    for group, role, response, fact, kept in zip(spec.groups, roles, found, facts, keeps, strict=True):
        if response is None or isinstance(fact.signed, Tensor) or isinstance(fact.periodic, Tensor):
            break
        code = CODES[type(response)] + (isinstance(response, Wave) and response.cosine)
        rows.append((group.size, role, code, int(kept), int(fact.signed)))
    return Plan(
        simple=roles[0] == 0 and roles[-1] == 2 and set(roles[1:-1]) <= {1},
        sizes=tuple(g.size for g in spec.groups),
        roles=roles,
        starts=spec.offsets,
        keeps=keeps,
        periodic=tuple(fact.periodic is True for fact in facts),
        links=tuple((spec.position[b.src], spec.position[b.dst], gain_slot(b)) for b in spec.blocks),
        rows=tuple(rows) if len(rows) == len(facts) else None,
        scales=tuple(bits(1.0 if r is None else r.scale) for r in found),
        used=(frozenset(roles), frozenset(gain_slot(b) for b in spec.blocks)),
        weights=max(b.num_edges * b.num_taps for b in spec.blocks),
    )
