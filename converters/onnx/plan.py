"""The graph of an ONNX file: checked, in an order that can be computed, constants told from weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from converters.onnx.calls import HOST, OPERATORS, SHAPES, Node
from converters.onnx.order import ordered, title_of
from converters.onnx.tensors import array_of
from graphnfn.errors import ConversionError

_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_CONSTANT = ("value", "value_float", "value_floats", "value_int", "value_ints")
_WEIGHTS = ("float16", "float32", "float64", "bfloat16", "int8", "uint8")
"""Types of tensors that may be weights; all other integers are indices and shapes."""


@dataclass(frozen=True)
class Plan:
    """What to compute.

    Args:
        inputs: the graph's inputs without those that have a value in the file.
        outputs: names of the results.
        nodes: in an order that can be computed; only what the outputs need.
        weights: tensors that networks learn, by their names in the file.
        statistics: those among them that are no parameters.
        literals: settings, indices and shapes.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    weights: dict[str, np.ndarray]
    statistics: frozenset[str]
    literals: dict[str, np.ndarray]


def plan_of(graph: GraphProto, opset: int, folder: Path) -> Plan:
    """Check and order a graph.

    Args:
        graph: of the file.
        opset: version of the operators.
        folder: where the file lies.

    Raises:
        ConversionError: a cycle, a value that is missing or made twice, an operator that is not supported.
    """
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ConversionError(f"initialiser {name!r} is sparse, which is not supported; save it as a dense tensor")
    stored: dict[str, TensorProto] = {}
    for tensor in graph.initializer:
        if tensor.name in stored:
            raise ConversionError(f"two initialisers are named {tensor.name!r}; expected different names")
        stored[tensor.name] = tensor
    inputs = tuple(i.name for i in graph.input if i.name not in stored)
    outputs = tuple(o.name for o in graph.output)
    if not outputs:
        raise ConversionError("the graph has no output; expected one at least")
    order = ordered(graph, set(stored) | set(inputs), outputs)
    constants = {n.output[0]: _constant(n, folder) for n in order if n.op_type == "Constant"}
    nodes = tuple(_node(n, opset, folder) for n in order if n.op_type != "Constant")
    readers = _readers(nodes)
    settings = _upstream(nodes, readers, outputs, _static)
    zeros = _upstream(nodes, readers, outputs, _absent)
    numbers = {name for name, value in constants.items() if value.ndim == 0}
    constants.update((name, array_of(t, folder)) for name, t in stored.items() if name in readers or name in outputs)
    weights = {}
    for name, value in constants.items():
        places = readers.get(name, [])
        fixed = any(_static(n, k) or settings.issuperset(n.outputs) for n, k in places)
        resting = frozenset() if value.any() else zeros
        free = all(_literal(n, k, value) or resting.issuperset(n.outputs) for n, k in places) and name not in outputs
        if value.dtype.name in _WEIGHTS and name not in numbers and not fixed and not free:
            weights[name] = value
    statistics = frozenset(name for name in weights if all(_statistic(n, k) for n, k in readers.get(name, [])))
    literals = {name: value for name, value in constants.items() if name not in weights}
    return Plan(inputs, outputs, nodes, weights, statistics, literals)


def _node(node: NodeProto, opset: int, folder: Path) -> Node:
    title = title_of(node)
    if any(a.type in _SUBGRAPHS for a in node.attribute):
        raise ConversionError(
            f"{title} holds graphs of its own, which are not supported: what they compute depends on values. "
            "Export the model without control flow (constant conditions folded, loops unrolled)"
        )
    if node.domain not in ("", "ai.onnx"):
        raise ConversionError(f"{title} is from domain {node.domain!r}; only standard operators are supported")
    if not any(node.op_type in table for table in (OPERATORS, HOST, SHAPES)):
        raise ConversionError(f"{title}: operator {node.op_type!r} is not supported in ONNX files")
    attrs = {a.name: _attribute(a, title, folder) for a in node.attribute}
    return Node(title, node.op_type, tuple(node.input), tuple(node.output), attrs, opset)


def _attribute(attribute: AttributeProto, title: str, folder: Path) -> Any:
    if attribute.type == AttributeProto.TENSOR:
        return array_of(attribute.t, folder)
    kinds = (AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.STRING)
    lists = (AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRINGS)
    if attribute.type not in kinds + lists:
        raise ConversionError(f"{title}: attribute {attribute.name!r} is of a kind that is not supported")
    value = helper.get_attribute_value(attribute)
    return [_text(v) for v in value] if attribute.type in lists else _text(value)


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _constant(node: NodeProto, folder: Path) -> np.ndarray:
    given = [a for a in node.attribute if a.name in _CONSTANT]
    if len(given) != 1 or len(node.output) != 1:
        raise ConversionError(f"{title_of(node)} must have one value, a dense tensor or numbers")
    value = _attribute(given[0], title_of(node), folder)
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(value, np.float32 if "float" in given[0].name else np.int64)


Readers = dict[str, list[tuple[Node, int]]]


def _readers(nodes: tuple[Node, ...]) -> Readers:
    """Value -> the nodes that read it, and where."""
    found: Readers = {}
    for node in nodes:
        for place, name in enumerate(node.inputs):
            found.setdefault(name, []).append((node, place))
    return found


def _upstream(
    nodes: tuple[Node, ...], readers: Readers, outputs: tuple[str, ...], end: Callable[[Node, int], bool]
) -> frozenset[str]:
    """Values that reach such ends only, directly or through other nodes."""
    found: set[str] = set()
    for node in reversed(nodes):
        for name in node.outputs:
            places = readers.get(name, [])
            if places and name not in outputs and all(end(n, k) or found.issuperset(n.outputs) for n, k in places):
                found.add(name)
    return frozenset(found)


def _static(node: Node, place: int) -> bool:
    """Who makes this must be known from the file and the shapes."""
    return node.op in OPERATORS and place in OPERATORS[node.op].static


def _absent(node: Node, place: int) -> bool:
    return node.op in OPERATORS and place in OPERATORS[node.op].absent


def _literal(node: Node, place: int, value: np.ndarray) -> bool:
    return node.op not in OPERATORS or OPERATORS[node.op].literal(place, value)


def _statistic(node: Node, place: int) -> bool:
    return node.op in OPERATORS and place in OPERATORS[node.op].statistics
