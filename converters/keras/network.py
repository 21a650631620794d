"""A Sequential or functional model: its layers, called in order."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from converters.keras.config import Config
from converters.keras.layer import Layer, build, describe, layer
from converters.keras.merge import Merge
from converters.keras.plan import Call, Ref, calls_of, is_ref, ordered, refs_of, renumber
from graphnfn.errors import ConversionError

_QUIET = ("training", "mask", "name", "constants", "return_attention_scores", "attention_mask")
"""Settings of a call that change nothing while they are None or False; ``training`` and ``name`` never do."""


def snake(kind: str) -> str:
    """The name that Keras 3 gives to layers of a class in its files.

    >>> snake("BatchNormalization"), snake("Conv2D"), snake("PReLU")
    ('batch_normalization', 'conv2d', 'p_re_lu')
    """
    spaced = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()


@layer("Functional", "Model", "Sequential")
class Network(Layer):
    """A model; ``inputs`` are the entries of its input layers, for the shapes that they declare."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        entries = config.values.get("layers")
        if not isinstance(entries, list) or not entries:
            raise ConversionError(f"model {config.name!r}: got layers={repr(entries)[:60]}, expected a list of layers")
        self.entries = [describe(entry, config.version) for entry in entries]
        self.keys: dict[str, str] = {}
        for entry in self.entries:
            if entry.kind != "InputLayer":
                self._add(entry)
        if config.kind == "Sequential":
            self._sequential()
        else:
            self._functional(entries)

    def _add(self, entry: Config) -> None:
        key = re.sub(r"\W", "_", entry.name) or "_"
        while hasattr(self, key):
            key += "_"
        if entry.name in self.keys:
            raise ConversionError(f"two layers are named {entry.name!r}; expected different names")
        self.keys[entry.name] = key
        self.add_module(key, build(entry))

    def _sequential(self) -> None:
        names = list(self.keys)
        declared = next((e for e in self.entries if e.kind == "InputLayer"), self.entries[0])
        self.inputs: list[tuple[Ref, Config]] = [(("", 0, 0), declared)]
        sources = ["", *names]
        self.calls = [Call(name, 0, ((source, 0, 0),), {}) for source, name in zip(sources, names, strict=False)]
        self.outputs: list[Ref] = [(sources[-1], 0, 0)]

    def _functional(self, entries: list[Any]) -> None:
        values, calls = self.config.values, []
        found = {e.name: e for e in self.entries if e.kind == "InputLayer"}
        for entry, config in zip(entries, self.entries, strict=True):
            if config.kind != "InputLayer":
                calls += calls_of(config.name, entry.get("inbound_nodes"))
        outputs = refs_of(self.config.name, values.get("output_layers"))
        nested = {name for name in self.keys if isinstance(self.part(name), Network)}
        calls, self.outputs = renumber(calls, outputs, nested)
        self.inputs = []
        for ref in refs_of(self.config.name, values.get("input_layers")):
            if ref[0] not in found:
                raise ConversionError(f"model {self.config.name!r}: input {ref[0]!r} is no InputLayer of it")
            self.inputs.append((ref, found[ref[0]]))
        self.calls = ordered(calls, [ref for ref, _ in self.inputs])
        made = {(c.layer, c.index) for c in self.calls} | {(r[0], r[1]) for r, _ in self.inputs}
        for ref in self.outputs:
            if ref[:2] not in made:
                raise ConversionError(f"model {self.config.name!r}: output {ref} comes from no call of a layer")

    def part(self, name: str) -> Layer:
        """A layer by its name in the file."""
        found = getattr(self, self.keys[name])
        assert isinstance(found, Layer)
        return found

    def inner(self) -> list[tuple[str, Layer]]:
        seen: dict[str, int] = {}
        named = []
        for entry in self.entries:
            if entry.kind == "InputLayer" or entry.kind.startswith("ops."):
                continue
            base = snake(entry.kind)
            count = seen[base] = seen.get(base, -1) + 1
            named.append((f"layers/{base}_{count}" if count else f"layers/{base}", self.part(entry.name)))
        return named

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs, _ = self.run(inputs, [None] * len(inputs))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def run(self, inputs: tuple[Tensor, ...], masks: list[Tensor | None]) -> tuple[list[Tensor], list[Tensor | None]]:
        """Call the layers; masks go along with the values."""
        if len(inputs) != len(self.inputs):
            raise ConversionError(f"model {self.config.name!r}: got {len(inputs)} inputs, expected {len(self.inputs)}")
        values: dict[Ref, Tensor] = {ref: x for (ref, _), x in zip(self.inputs, inputs, strict=True)}
        known: dict[Ref, Tensor | None] = {ref: m for (ref, _), m in zip(self.inputs, masks, strict=True)}
        for call in self.calls:
            part = self.part(call.layer)
            args, named = _arguments(call, values)
            before = [known.get(ref) for ref in call.refs()]
            if isinstance(part, Network):
                results, after = part.run(tuple(args), before)
            else:
                if part.uses_mask and before and before[0] is not None:
                    named["mask"] = before[0]
                result = part(*args, **named)
                results = list(result) if isinstance(result, tuple) else [result]
                after = [_next_mask(part, args, before)]
            for place, result in enumerate(results):
                values[call.layer, call.index, place] = result
                known[call.layer, call.index, place] = after[place] if place < len(after) else None
        return [_value(values, ref) for ref in self.outputs], [known.get(ref) for ref in self.outputs]


def _value(values: Mapping[Ref, Tensor], ref: Ref) -> Tensor:
    if ref not in values:
        raise ConversionError(f"layer {ref[0]!r} has no output {ref[2]}; expected fewer")
    return values[ref]


def _next_mask(part: Layer, args: list[Any], masks: list[Tensor | None]) -> Tensor | None:
    if not isinstance(part, Merge):
        return part.next_mask(args[0], masks[0] if masks else None)
    there = [m for m in masks if m is not None]
    if len(there) < len(masks) or not there:
        return None
    join = torch.logical_or if part.config.version > 2 else torch.logical_and
    return functools.reduce(join, there)


def _arguments(call: Call, values: Mapping[Ref, Tensor]) -> tuple[list[Any], dict[str, Any]]:
    """What the layer takes; a setting that we do not know is refused."""

    def given(value: Any) -> Any:
        if isinstance(value, list):
            return [given(v) for v in value]
        return _value(values, value) if is_ref(value) else value

    args, named = [given(a) for a in call.args], {}
    for key, value in call.named.items():
        if key == "initial_state" and isinstance(value, list):
            args += given(value)
        elif key in ("value", "key", "y", "x1", "x2") and value is not None:
            named[key] = given(value)
        elif key == "use_causal_mask":
            named.update({"causal": True} if value else {})
        elif not (key in ("training", "name") or value is None or (key in _QUIET and value is False)):
            raise ConversionError(
                f"layer {call.layer!r} is called with {key}={repr(value)[:60]}, which is not supported; "
                "give the model as an nn.Module or ONNX instead"
            )
    return args, named
