"""The ``edge_index`` wiring: messages as gathers and scatters of torch-geometric, for any mix of networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter

from graphnfn import topology
from graphnfn.nn.facts import group_facts
from graphnfn.nn.pooling import pooled_as
from graphnfn.nn.taps import TapTable
from graphnfn.nn.wiring import Head, Level, Wiring, identity
from graphnfn.spec import NODE_FIELDS, Block
from graphnfn.stack import Stack

_SLOPE = NODE_FIELDS.index("slope")


class WeightedSum(MessagePassing):
    """Sum of ``weight * x`` over the edges that end at a node."""

    def __init__(self) -> None:
        super().__init__(aggr="add")

    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
        return self.propagate(edge_index, x=(x, None), weight=weight, size=size)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return x_j * weight


@dataclass(frozen=True)
class Bundle:
    """All edges whose taps have one shape: weights ``[edges, taps]``, node ranks of source and target."""

    block: Block
    weight: Tensor
    src: Tensor
    dst: Tensor
    pieces: tuple[tuple[int, int], ...]


class EdgeWiring(Wiring):
    """The wiring of (canonical, effective) stacks of any specs; see :mod:`graphnfn.nn.wiring`.

    Nodes are ranked by depth, outputs last within a depth; a level is a run of ranks.
    """

    def __init__(self, stacks: list[Stack]) -> None:
        self.stacks = stacks
        self.networks = sum(s.size for s in stacks)
        self._sum = WeightedSum()
        self._rank_nodes()
        self._bundle_edges()

    # ---- construction -------------------------------------------------------------------------

    def _rank_nodes(self) -> None:
        facts = _node_table(self.stacks)
        key = facts["depth_in"] * 2 + facts["output"]
        order = key.argsort(stable=True)
        self._rank = torch.empty_like(order)
        self._rank[order] = torch.arange(len(order), device=order.device)
        self._order = order
        counts = torch.unique_consecutive(key[order], return_counts=True)[1].tolist()
        self._starts = [0]
        for count in counts:
            self._starts.append(self._starts[-1] + count)
        self._sizes = counts
        group = torch.unique(facts["group"][order], return_inverse=True)[1]
        network = facts["network"][order]
        self.levels, self._pooling, self._network = [], [], []
        for start, end in zip(self._starts, self._starts[1:], strict=False):
            rows = order[start:end]
            self.levels.append(_level({name: value[rows] for name, value in facts.items()}, self._kinds()))
            groups, member = torch.unique(group[start:end], return_inverse=True)
            owner = torch.zeros_like(groups).index_copy(0, member, network[start:end])
            self._pooling.append((member, owner))
            self._network.append(network[start:end])

    def _kinds(self) -> list[tuple]:
        kinds: dict[tuple, None] = {}
        for stack in self.stacks:
            for group in group_facts(stack.spec, stack.nodes.device):
                kinds.update(dict.fromkeys((act, sign) for act, sign, _ in group.parts))
        return list(kinds)

    def _bundle_edges(self) -> None:
        found: dict[tuple, list[tuple]] = {}
        first = 0
        for s, stack in enumerate(self.stacks):
            spec, device = stack.spec, stack.nodes.device
            offset = first + torch.arange(stack.size, device=device)[:, None] * spec.num_nodes
            for b, (block, edge) in enumerate(zip(spec.blocks, topology.edges(spec), strict=True)):
                src, dst = ((edge[end].to(device) + offset).flatten() for end in (0, 1))
                entry = (block, stack.blocks[b].reshape(-1, block.num_taps), src, dst, (s, b))
                found.setdefault((block.kind if block.taps else "", block.taps), []).append(entry)
            first += stack.size * spec.num_nodes
        self.bundles = []
        for entries in found.values():
            blocks, weights, sources, targets, pieces = zip(*entries, strict=True)
            src, dst = self._rank[torch.cat(sources)], self._rank[torch.cat(targets)]
            self.bundles.append(Bundle(blocks[0], torch.cat(weights), src, dst, pieces))
        starts = torch.tensor(self._starts[1:], device=self._rank.device)
        into, out = [[] for _ in self.levels], [[] for _ in self.levels]
        for k, bundle in enumerate(self.bundles):
            by_dst = torch.bucketize(bundle.dst, starts, right=True)
            by_src = torch.bucketize(bundle.src, starts, right=True)
            for i in range(len(self.levels)):
                for table, at in ((into, by_dst), (out, by_src)):
                    rows = (at == i).nonzero()[:, 0]
                    if len(rows):
                        table[i].append((k, rows))
        self._into, self._out = into, out

    def plus(self, states: list[Tensor], seen: list[list[Tensor | None]]) -> list[Tensor]:
        rows = []
        for stack, values in zip(self.stacks, seen, strict=True):
            none = [states[0].new_zeros(stack.size, group.size, states[0].shape[-1]) for group in stack.spec.groups]
            rows.append(torch.cat([z if v is None else v for z, v in zip(none, values, strict=True)], 1).flatten(0, 1))
        added = torch.cat(rows)[self._order].split(self._sizes)
        return [x + v for x, v in zip(states, added, strict=True)]

    # ---- messages by level --------------------------------------------------------------------

    def pull(self, level: int, states: list[Tensor], taps: TapTable, head: Head = identity) -> Tensor:
        start, end = self._starts[level], self._starts[level + 1]
        x = torch.cat(states[:level])
        total = None
        for k, rows in self._into[level]:
            bundle = self.bundles[k]
            weight = (head(bundle.weight[rows]) @ taps.mix(bundle.block)) @ taps.gain(bundle.block)
            index = torch.stack([bundle.src[rows], bundle.dst[rows] - start])
            message = self._sum(x, index, weight, size=(start, end - start))
            total = message if total is None else total + message
        assert total is not None
        return total

    def push(self, level: int, states: list[Tensor], taps: TapTable, head: Head = identity) -> Tensor:
        start, end = self._starts[level], self._starts[level + 1]
        y = torch.cat(states[level + 1 :])
        total = y.new_zeros(end - start, y.shape[-1])
        for k, rows in self._out[level]:
            bundle = self.bundles[k]
            weight = (head(bundle.weight[rows]) @ taps.mix(bundle.block)) @ taps.gain(bundle.block)
            index = torch.stack([bundle.dst[rows] - end, bundle.src[rows] - start])
            total = total + self._sum(y, index, weight, size=(len(y), end - start))
        return total

    def pool(self, level: int, values: Tensor) -> Tensor:
        member, owner = self._pooling[level]
        if self.reference is not None and self.levels[level].role == "hidden":
            return self._pool_as(member, values, len(owner))
        mean = scatter(values, member, 0, len(owner), "mean")
        spread = torch.sqrt(scatter((values - mean[member]) ** 2, member, 0, len(owner), "mean") + 1e-6)
        return torch.cat([mean, spread, scatter(values, member, 0, len(owner), "max")], -1)

    def _pool_as(self, member: Tensor, values: Tensor, groups: int) -> Tensor:
        order, counts = member.argsort(stable=True), member.bincount(minlength=groups)
        starts, out = counts.cumsum(0) - counts, values.new_zeros(groups, 3 * values.shape[-1])
        for n in counts.unique().tolist():
            here = (counts == n).nonzero()[:, 0]
            rows = order[starts[here][:, None] + torch.arange(n, device=order.device)]
            out = out.index_copy(0, here, pooled_as(values[rows], self.reference))
        return out

    def collect(self, level: int, rows: Tensor, *, pooled: bool) -> Tensor:
        owner = self._pooling[level][1] if pooled else self._network[level]
        return scatter(rows, owner, 0, self.networks, "sum")

    # ---- edge features ------------------------------------------------------------------------

    @property
    def num_bundles(self) -> int:
        return len(self.bundles)

    def weights(self, k: int) -> Tensor:
        return self.bundles[k].weight

    def block(self, k: int) -> Block:
        return self.bundles[k].block

    def at_source(self, k: int, states: list[Tensor]) -> Tensor:
        return torch.cat(states)[self.bundles[k].src]

    def at_target(self, k: int, states: list[Tensor]) -> Tensor:
        return torch.cat(states)[self.bundles[k].dst]

    def to_targets(self, values: list[Tensor], reduce: str) -> list[Tensor]:
        return self._to(torch.cat([b.dst for b in self.bundles]), torch.cat(values), reduce)

    def to_sources(self, values: list[Tensor], reduce: str) -> list[Tensor]:
        return self._to(torch.cat([b.src for b in self.bundles]), torch.cat(values), reduce)

    def _to(self, nodes: Tensor, values: Tensor, reduce: str) -> list[Tensor]:
        return list(scatter(values, nodes, 0, self._starts[-1], reduce).split(self._sizes))

    def unbundle(self, edges: list[Tensor], nodes: list[Tensor]) -> list[tuple[list[Tensor], Tensor]]:
        flat = torch.cat(nodes)[self._rank]
        out: list[tuple[list[Tensor], Tensor]] = []
        first = 0
        for stack in self.stacks:
            count = stack.size * stack.spec.num_nodes
            out.append(([torch.empty(0)] * len(stack.blocks), flat[first : first + count].view(stack.size, -1)))
            first += count
        for bundle, values in zip(self.bundles, edges, strict=True):
            start = 0
            for s, b in bundle.pieces:
                shape = self.stacks[s].blocks[b].shape
                count = shape[0] * shape[1] * shape[2]
                out[s][0][b] = values[start : start + count].view(shape)
                start += count
        return out


def _node_table(stacks: list[Stack]) -> dict[str, Tensor]:
    """Facts of every node of every network, network by network."""
    table: dict[str, list[Tensor]] = {}
    network = groups = 0
    kinds: dict[tuple, int] = {}
    for stack in stacks:
        spec, size, device = stack.spec, stack.size, stack.nodes.device
        facts = group_facts(spec, device)
        part = []
        for group in facts:
            code = torch.zeros(len(group.place), dtype=torch.long, device=device)
            for act, sign, rows in group.parts:
                value = kinds.setdefault((act, sign), len(kinds))
                code = torch.full_like(code, value) if rows is None else torch.where(rows[:, 0], value, code)
            part.append(code)
        own = torch.arange(size, device=device)[:, None]
        number = torch.cat([torch.full_like(f.place, g) for g, f in enumerate(facts)])
        columns = {
            name: torch.cat([getattr(f, name) for f in facts]) for name in ("place", "depth_in", "depth_out", "kind")
        }
        for name in ("signed", "periodic"):
            columns[name] = torch.cat(
                [torch.zeros_like(f.place, dtype=torch.bool) | _column(getattr(f, name)) for f in facts]
            )
        columns["part"] = torch.cat(part)
        columns["output"] = (number == len(facts) - 1).long()
        rows_of = {name: value.repeat(size) for name, value in columns.items()}
        rows_of["group"] = (groups + own * len(facts) + number).flatten()
        rows_of["network"] = (network + own).expand(-1, spec.num_nodes).flatten()
        widths = torch.tensor([g.size for g in spec.groups], device=device)
        rows_of["size"] = widths[number].repeat(size)
        rows_of["bias"] = stack.nodes[..., 0].flatten()
        slope = stack.nodes[..., _SLOPE] if stack.nodes.shape[-1] > _SLOPE else torch.zeros_like(stack.nodes[..., 0])
        rows_of["slope"] = slope.flatten()
        for name, value in rows_of.items():
            table.setdefault(name, []).append(value)
        network += size
        groups += size * len(facts)
    return {name: torch.cat(values) for name, values in table.items()}


def _column(mask: Tensor | bool) -> Tensor | bool:
    return mask if isinstance(mask, bool) else mask[:, 0]


def _level(facts: dict[str, Tensor], kinds: list[tuple]) -> Level:
    bias = facts["bias"][:, None]
    here = torch.unique(facts["part"]).tolist()
    parts = [(*kinds[k], None if len(here) == 1 else (facts["part"] == k)[:, None]) for k in here]
    role = "output" if bool(facts["output"][0]) else "hidden" if int(facts["depth_in"][0]) else "input"
    return Level(
        role=role, bias=bias, signed=facts["signed"][:, None], periodic=facts["periodic"][:, None],
        place=facts["place"], depth_in=facts["depth_in"], depth_out=facts["depth_out"], kind=facts["kind"],
        parts=tuple(parts), plain=False, first=int(facts["depth_in"][0]) == 1, slope=facts["slope"][:, None],
        size=facts["size"][:, None].to(bias.dtype),
    )  # fmt: skip
