"""The fields of a NeuralGraph that follow from its specs, and the checks of all fields.

The only table of derived fields: name -> how it is made of the specs of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from graphnfn import topology
from graphnfn.activations import Gauge
from graphnfn.spec import NetSpec

WEIGHTS = ("x", "edge_attr")
"""The fields that hold weights."""


def places_by_spec(specs: Sequence[NetSpec]) -> dict[NetSpec, Tensor]:
    """Distinct spec, in order of first appearance -> places of its networks in a batch."""
    first = specs[0] if len(specs) else None
    if first is not None and all(spec is first for spec in specs):  # spares comparing specs part by part
        return {first: torch.arange(len(specs))}
    runs: dict[NetSpec, list[int]] = {}
    for place, spec in enumerate(specs):
        runs.setdefault(spec, []).append(place)
    return {spec: torch.tensor(places) for spec, places in runs.items()}


def node_starts(specs: Sequence[NetSpec]) -> Tensor:
    """PyG's ``ptr``: first node of every network, and the number of nodes."""
    return torch.tensor([0, *(s.num_nodes for s in specs)]).cumsum(0)


def common_grid(specs: Sequence[NetSpec]) -> tuple[int, ...]:
    """The tap grid in which the taps of every block of a batch can be centred."""
    grids = {s.tap_grid for s in specs}
    rank = max(len(g) for g in grids)
    return tuple(max(axis) for axis in zip(*((1,) * (rank - len(g)) + g for g in grids), strict=True))


def grid_slots(grid: tuple[int, ...]) -> int:
    """Columns of ``edge_attr`` on a tap grid."""
    return max(1, int(torch.tensor(grid).prod()))


def _edge_index(specs: Sequence[NetSpec]) -> Tensor:
    starts, out = node_starts(specs), []
    for spec, places in places_by_spec(specs).items():
        for block_edges in topology.edges(spec):
            out.append((block_edges[:, None, :] + starts[places][None, :, None]).flatten(1))
    return torch.cat(out, 1)


def _edge_mask(specs: Sequence[NetSpec]) -> Tensor:
    grid, out = common_grid(specs), []
    for spec, places in places_by_spec(specs).items():
        for b in spec.blocks:
            row = torch.zeros(grid_slots(grid), dtype=torch.bool)
            row[topology.tap_slots(b, grid)] = True
            out.append(row.expand(len(places) * b.num_edges, -1))
    return torch.cat(out)


def _per_node(name: str) -> Callable[[Sequence[NetSpec]], Tensor]:
    return lambda specs: torch.cat([getattr(topology.node_facts(s), name) for s in specs])


def _batch(specs: Sequence[NetSpec]) -> Tensor:
    return torch.arange(len(specs)).repeat_interleave(node_starts(specs).diff())


DERIVED: dict[str, Callable[[Sequence[NetSpec]], Tensor]] = {
    "edge_index": _edge_index,
    "edge_mask": _edge_mask,
    "node_group": _per_node("group"),
    "node_level": _per_node("level"),
    "activation": _per_node("activation"),
    "gauge": _per_node("gauge"),
    "batch": _batch,
    "ptr": node_starts,
}
BATCHING = ("batch", "ptr")
"""Derived fields that PyG makes itself when it collates single graphs."""


def first_problem(specs: Sequence[NetSpec], fields: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the fields of a batch, in one sentence, or None."""
    nodes, edges = sum(s.num_nodes for s in specs), sum(s.num_edges for s in specs)
    slots = grid_slots(common_grid(specs))
    for name, want in (("x", (nodes, None)), ("edge_attr", (edges, slots)), ("edge_index", (2, edges))):
        got = tuple(fields[name].shape)
        if len(got) != 2 or any(w is not None and w != g for w, g in zip(want, got, strict=True)):
            return f"{name} has shape {list(got)}; the specs expect {[w or 'fields' for w in want]}"
    for name in WEIGHTS:
        bad = int((~torch.isfinite(fields[name])).sum())
        if bad:
            return f"{name} has {bad} NaN or infinite entries: repair the checkpoint, or drop this network"
    index, gauge = fields["edge_index"], fields["gauge"]
    if int(index.min()) < 0 or int(index.max()) >= nodes:
        return f"edge_index points outside the {nodes} neurons"
    if bool((gauge < 0).any()) or bool((gauge > Gauge.NONZERO.value).any()):
        return "gauge holds values that are no Gauge"
    return None
