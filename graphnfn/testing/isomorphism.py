"""Are two graphs the same network, whatever the order and the names of its neurons, tensors and columns?"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphnfn.graph import NeuralGraph
from graphnfn.topology import node_facts

Hashes = NDArray[np.uint64]
_STEP = np.uint64(0x9E3779B97F4A7C15)


def assert_isomorphic(first: NeuralGraph, second: NeuralGraph) -> Tensor:
    r"""Check that a renaming of neurons turns one graph into the other, with weights equal to the bit.

    A bijection :math:`\pi` of the neurons with the same role and symmetry, the same numbers at neuron v and at
    :math:`\pi(v)`, and the same weights on the edges (u, v) and :math:`(\pi(u), \pi(v))`. Numbers at a neuron, and the
    taps of an edge, are compared as multisets: formats keep biases and gates in other orders. Neurons are told apart
    by colour refinement (Weisfeiler and Leman 1968) along weighted edges, and the bijection found is then checked.

    Args:
        first: one network.
        second: another.

    Returns:
        ``[nodes]``, the neuron of ``second`` for every neuron of ``first``.

    Raises:
        AssertionError: there is no such renaming; for graphs with neurons that only their places tell apart, also
            where none was found.

    Example:
        >>> import graphnfn as gn
        >>> from graphnfn.chain import mlp_spec
        >>> from graphnfn.testing import random_graph
        >>> graph = random_graph(mlp_spec([2, 3, 1], "relu"))
        >>> element = gn.random_element(graph.spec, decades=0.0, seed=0)
        >>> assert_isomorphic(graph, gn.act(element, graph)).shape
        torch.Size([6])
    """
    graphs = (first, second)
    for what, (a, b) in {
        "neurons": [g.num_nodes for g in graphs], "edges": [g.num_edges for g in graphs],
    }.items():  # fmt: skip
        assert a == b, f"{a} {what} in the first graph, {b} in the second"
    colours = [_starts(g) for g in graphs]
    edges = [(g.edge_index.numpy(), _rows(g.edge_attr, g.edge_mask)) for g in graphs]
    known = 0
    while True:
        orders = [np.argsort(c, kind="stable") for c in colours]
        same = np.array_equal(colours[0][orders[0]], colours[1][orders[1]])
        odd = int((~np.isin(colours[0], colours[1])).sum())
        assert same, f"{odd or 'some'} neurons of the first graph have no counterpart in the second"
        count = len(np.unique(colours[0]))
        if count == known:
            break
        known = count
        colours = [_refined(c, *e) for c, e in zip(colours, edges, strict=True)]
    mapping = np.empty(first.num_nodes, dtype=np.int64)
    mapping[orders[0]] = orders[1]
    moved = (mapping[edges[0][0]], edges[0][1])
    listed = [np.stack([i[0].astype(np.uint64), i[1].astype(np.uint64), w]) for i, w in (moved, edges[1])]
    a, b = (e[:, np.lexsort(e)] for e in listed)
    assert np.array_equal(a, b), f"{known} kinds of neurons in both graphs, but their edges differ"
    return torch.from_numpy(mapping)


def _mix(x: Hashes) -> Hashes:
    """The finaliser of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _rows(values: Tensor, mask: Tensor | None = None) -> Hashes:
    """A hash per row of the multiset of its entries; entries outside the mask, and zeros without one, do not count."""
    x = values.detach().double().cpu().numpy() + 0.0  # -0.0 becomes 0.0
    counts = x != 0 if mask is None else mask.cpu().numpy()
    return np.where(counts, _mix(x.view(np.uint64) + _STEP), np.uint64(0)).sum(1, dtype=np.uint64)


def _starts(graph: NeuralGraph) -> Hashes:
    facts = node_facts(graph.spec)
    role, gauge = (t.numpy().astype(np.uint64) for t in (facts.role, facts.gauge))
    return _mix(_rows(graph.x) + _mix(role * _STEP + gauge + np.uint64(1)))


def _refined(colours: Hashes, index: NDArray[np.int64], weights: Hashes) -> Hashes:
    out = _mix(colours + _STEP)
    for here, there, salt in ((index[1], index[0], 1), (index[0], index[1], 2)):
        np.add.at(out, here, _mix(_mix(weights + np.uint64(salt)) ^ _mix(colours[there] * _STEP)))
    return _mix(out)
