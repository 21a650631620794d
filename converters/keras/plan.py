"""The calls of a model: which layer runs on which values, in an order that works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from graphnfn.errors import ConversionError

Ref = tuple[str, int, int]
"""A value: (layer, how many calls of it came before, which of its outputs)."""


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Args:
        layer: its name.
        index: how many calls of the layer came before in the file.
        args: values, and numbers that stand in their place.
        named: values and settings given by name.
    """

    layer: str
    index: int
    args: tuple[Any, ...]
    named: Mapping[str, Any]

    def refs(self) -> list[Ref]:
        """All values that it needs."""
        return list(_refs([self.args, list(self.named.values())]))


def is_ref(value: Any) -> bool:
    """Whether something is a value of the model."""
    return isinstance(value, tuple) and len(value) == 3 and isinstance(value[0], str)


def _refs(value: Any) -> Iterator[Ref]:
    if is_ref(value):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _refs(item)


def calls_of(name: str, nodes: Any) -> list[Call]:
    """The calls of a layer from the ``inbound_nodes`` of any version of Keras.

    Raises:
        ConversionError: they have another form.
    """
    if isinstance(nodes, list) and nodes and not isinstance(nodes[0], list | Mapping):
        nodes = [nodes]  # one call of one value, as some versions write operators
    if not isinstance(nodes, list):
        raise _broken(name, nodes)
    calls = []
    for index, node in enumerate(nodes):
        if isinstance(node, Mapping):
            args, named = _modern(node.get("args", [])), _modern(node.get("kwargs", {}))
        elif isinstance(node, list):
            args, named = _legacy(name, node)
        else:
            raise _broken(name, node)
        if not isinstance(args, list) or not isinstance(named, dict):
            raise _broken(name, node)
        flat = args[0] if len(args) == 1 and isinstance(args[0], list) else args
        calls.append(Call(name, index, tuple(flat), named))
    return calls


def _modern(value: Any) -> Any:
    """Keras 3: values are wrapped as ``__keras_tensor__`` with their history."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            return _ref("value", value["config"].get("keras_history"))
        if value.get("class_name") == "__tuple__":
            return _modern(value["config"].get("value"))
        return {key: _modern(item) for key, item in value.items()}
    return [_modern(item) for item in value] if isinstance(value, list) else value


def _legacy(name: str, node: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Keras 2: a list of [layer, call, output, settings by name]."""
    items = [node] if node and isinstance(node[0], str) else node
    args, named = [], {}
    for item in items:
        if not isinstance(item, list) or len(item) < 3:
            raise _broken(name, item)
        args.append(_ref(name, item[:3]))
        settings = item[3] if len(item) > 3 else {}
        if not isinstance(settings, Mapping):
            raise _broken(name, item)
        named |= {key: _legacy_setting(value) for key, value in settings.items()}
    return args, named


def _legacy_setting(value: Any) -> Any:
    if isinstance(value, list):
        shaped = len(value) in (3, 4) and isinstance(value[0], str) and isinstance(value[1], int)
        return _ref("value", value[:3]) if shaped else [_legacy_setting(v) for v in value]
    return value


def _ref(name: str, value: Any) -> Ref:
    if not isinstance(value, list) or len(value) != 3 or [type(v) for v in value] != [str, int, int]:
        raise _broken(name, value)
    return value[0], value[1], value[2]


def _broken(name: str, got: Any) -> ConversionError:
    return ConversionError(
        f"layer {name!r}: got the call {repr(got)[:80]}, expected a list of [layer, call, output]; save the model again"
    )


def refs_of(name: str, value: Any) -> list[Ref]:
    """``input_layers`` or ``output_layers`` of a model: one value, a list of them, or a mapping to them."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list) and value and isinstance(value[0], str):
        value = [value]
    if not isinstance(value, list) or not value:
        raise _broken(name, value)
    return [_ref(name, item) for item in value]


def renumber(calls: list[Call], outputs: list[Ref], nested: set[str]) -> tuple[list[Call], list[Ref]]:
    """Count the calls of nested models from 0: some versions of Keras count the model's own definition as call 0."""
    made = {name: sum(c.layer == name for c in calls) for name in nested}
    used = [ref for call in calls for ref in call.refs()] + outputs
    shift = {name: max((i for n, i, _ in used if n == name), default=0) - count + 1 for name, count in made.items()}

    def moved(value: Any) -> Any:
        if is_ref(value):
            return value[0], value[1] - max(shift.get(value[0], 0), 0), value[2]
        return type(value)(moved(v) for v in value) if isinstance(value, list | tuple) else value

    changed = [replace(c, args=moved(c.args), named={k: moved(v) for k, v in c.named.items()}) for c in calls]
    return changed, [moved(ref) for ref in outputs]


def ordered(calls: list[Call], inputs: list[Ref]) -> list[Call]:
    """The calls, each behind those whose values it needs.

    Raises:
        ConversionError: a value comes from nowhere, or calls wait for each other.
    """
    made = {(call.layer, call.index) for call in calls} | {(name, index) for name, index, _ in inputs}
    ready = {(name, index) for name, index, _ in inputs}
    waiting: dict[tuple[str, int], list[int]] = {}
    missing = []
    for place, call in enumerate(calls):
        needs = {(name, index) for name, index, _ in call.refs()}
        for need in needs - made:
            raise ConversionError(f"layer {call.layer!r} reads call {need[1]} of {need[0]!r}, which the model lacks")
        missing.append(len(needs - ready))
        for need in needs - ready:
            waiting.setdefault(need, []).append(place)
    queue = [place for place, count in enumerate(missing) if count == 0]
    for place in queue:  # grows while it is read
        for follower in waiting.get((calls[place].layer, calls[place].index), []):
            missing[follower] -= 1
            if missing[follower] == 0:
                queue.append(follower)
    if len(queue) < len(calls):
        stuck = sorted({c.layer for c, count in zip(calls, missing, strict=True) if count})
        raise ConversionError(f"layers {stuck[:5]} wait for each other: the model has a cycle; expected none")
    return [calls[place] for place in queue]
