"""An order in which the nodes of an ONNX graph can be computed."""

from __future__ import annotations

from collections import deque

from onnx import GraphProto, NodeProto

from graphnfn.errors import ConversionError


def ordered(graph: GraphProto, known: set[str], outputs: tuple[str, ...]) -> list[NodeProto]:
    """The nodes that the outputs need, each after those that it reads.

    Args:
        graph: of the file.
        known: names of inputs and initialisers.
        outputs: names of the results.

    Raises:
        ConversionError: a value is made twice or never, or depends on itself.
    """
    maker = _makers(graph, known)
    needed = _needed(graph, maker, known, outputs)
    readers: dict[int, list[int]] = {place: [] for place in needed}
    waiting = dict.fromkeys(needed, 0)
    for place in needed:
        for source in {maker[name] for name in graph.node[place].input if name and name not in known}:
            readers[source].append(place)
            waiting[place] += 1
    ready = deque(place for place in needed if not waiting[place])
    order = []
    while ready:
        place = ready.popleft()
        order.append(graph.node[place])
        for reader in readers[place]:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    if len(order) < len(needed):
        stuck = next(place for place in needed if waiting[place])
        raise ConversionError(f"{title_of(graph.node[stuck])} depends on its own result; a graph has no cycles")
    return order


def title_of(node: NodeProto) -> str:
    """A node in words."""
    made = next(iter(node.output), "")
    return f"node {node.name!r} ({node.op_type})" if node.name else f"the {node.op_type} node that makes {made!r}"


def _makers(graph: GraphProto, known: set[str]) -> dict[str, int]:
    """Value -> the place of the node that makes it."""
    maker: dict[str, int] = {}
    for place, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in maker or name in known:
                raise ConversionError(f"value {name!r} is made twice; expected one maker for every value")
            maker[name] = place
    return maker


def _needed(graph: GraphProto, maker: dict[str, int], known: set[str], outputs: tuple[str, ...]) -> list[int]:
    """Places of the nodes that the outputs need, as in the file."""
    needed: set[int] = set()
    todo = list(outputs)
    while todo:
        name = todo.pop()
        if name in known:
            continue
        if name not in maker:
            raise ConversionError(f"value {name!r} is read but nothing makes it; the file is damaged")
        if maker[name] not in needed:
            needed.add(maker[name])
            todo.extend(filter(None, graph.node[maker[name]].input))
    return sorted(needed)
