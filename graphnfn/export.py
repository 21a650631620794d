"""A single network as a networkx graph."""

from __future__ import annotations

import networkx as nx
from torch import Tensor

from graphnfn import topology
from graphnfn.activations import NAMES
from graphnfn.spec import NODE_FIELDS, NetSpec


def to_networkx(spec: NetSpec, x: Tensor, edge_index: Tensor, edge_attr: Tensor, edge_mask: Tensor) -> nx.DiGraph:
    """Neurons with group, role, activation, level and parameters; edges with their taps and the taps' norm."""
    out, facts = nx.DiGraph(), topology.node_facts(spec)
    for i in range(spec.num_nodes):
        group = spec.groups[int(facts.group[i])]
        params = {f: float(x[i, c]) for c, f in enumerate(NODE_FIELDS[: x.shape[1]])}
        act, level = NAMES[int(facts.activation[i])], int(facts.level[i])
        out.add_node(i, group=group.id, role=group.role, activation=act, level=level, **params)
    for (src, dst), taps, mask in zip(edge_index.T.tolist(), edge_attr, edge_mask, strict=True):
        out.add_edge(src, dst, taps=taps[mask].tolist(), weight=float(taps[mask].norm()))
    return out
