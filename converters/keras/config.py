"""Settings of a Keras layer, read with checks: what a file says is not trusted to have the right type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphnfn.errors import ConversionError

MAX_SIZE = 1 << 31
"""Largest size that a layer may name: units, filters, strides, crops."""


@dataclass(frozen=True)
class Config:
    """The configuration of one layer.

    Args:
        kind: the class of the layer, e.g. ``Conv2D``.
        name: of the layer in its model.
        values: its settings.
        version: major version of the Keras that wrote them; some settings changed their meaning.
    """

    kind: str
    name: str
    values: Mapping[str, Any]
    version: int

    def wrong(self, key: str, expected: str) -> ConversionError:
        """The error for a setting of the wrong kind."""
        got = repr(self.values.get(key))[:80]
        return ConversionError(
            f"layer {self.name!r} ({self.kind}): got {key}={got}, expected {expected}; save the model again"
        )

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_SIZE:
            raise self.wrong(key, f"a whole number up to {MAX_SIZE}")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.integer(key, default)
        if value < 1:
            raise self.wrong(key, "a positive whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number; Keras 2 wraps some as ``{"value": 0.3}``."""
        value = self.values.get(key, default)
        if isinstance(value, Mapping):
            value = value.get("value")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        return float(value)

    def optional(self, key: str) -> float | None:
        """A number, or nothing."""
        return None if self.values.get(key) is None else self.number(key)

    def flag(self, key: str, default: bool) -> bool:
        """True or False."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def choice(self, key: str, default: str | None, *allowed: str) -> str:
        """One of a few words."""
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, str) or value not in allowed:
            raise self.wrong(key, f"one of {', '.join(allowed)}")
        return value

    def integers(self, key: str, default: list[int] | None = None) -> list[int]:
        """A list of whole numbers; a single one counts as a list of one."""
        value = self.values.get(key, default)
        items = list(value) if isinstance(value, list | tuple) else [value]
        if not all(isinstance(v, int) and not isinstance(v, bool) and abs(v) <= MAX_SIZE for v in items):
            raise self.wrong(key, "whole numbers")
        return items

    def sizes(self, key: str, rank: int, default: int | None = None) -> list[int]:
        """``rank`` positive numbers; a single one stands for all."""
        value = self.integers(key, None if default is None else [default] * rank)
        value = value * rank if len(value) == 1 else value
        if len(value) != rank or min(value) < 1:
            raise self.wrong(key, f"{rank} positive whole numbers")
        return value

    def margins(self, key: str, rank: int, default: int) -> list[tuple[int, int]]:
        """(before, after) for each of ``rank`` axes; one number an axis, or one for all, stands for both."""
        value = self.values.get(key, default)
        items = list(value) if isinstance(value, list | tuple) else [value] * rank
        if rank == 1 and len(items) == 2 and not isinstance(items[0], list | tuple):
            items = [items]
        pairs = [tuple(i) if isinstance(i, list | tuple) else (i, i) for i in items]
        flat = [v for pair in pairs for v in pair]
        good = all(isinstance(v, int) and 0 <= v <= MAX_SIZE for v in flat)
        if len(pairs) != rank or any(len(p) != 2 for p in pairs) or not good:
            raise self.wrong(key, f"{rank} pairs of whole numbers")
        return [(pair[0], pair[1]) for pair in pairs]

    @property
    def rank(self) -> int:
        """Number of spatial axes, from a class such as ``Conv2D``."""
        digits = [c for c in self.kind if c in "123"]
        return int(digits[-1])

    @property
    def channels_first(self) -> bool:
        """Whether values are [batch, channels, ...positions] rather than [batch, ...positions, channels]."""
        return self.choice("data_format", "channels_last", "channels_last", "channels_first") == "channels_first"

    def refuse(self, key: str, *fine: Any) -> None:
        """A setting that we do not read must have a harmless value."""
        if key in self.values and self.values[key] not in fine:
            got = repr(self.values[key])[:80]
            raise ConversionError(
                f"layer {self.name!r} ({self.kind}): {key}={got} is not supported; give the model as an nn.Module "
                "or ONNX instead"
            )
