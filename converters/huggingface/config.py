"""``config.json``, read with types and limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphnfn.errors import ConversionError

MAX_JSON = 1 << 26
"""Largest configuration or index in bytes."""
MAX_SIZE = 1 << 24
"""Largest number of units, tokens or positions."""


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        ConversionError: it is damaged, too large, or holds something else.
    """
    if path.stat().st_size > MAX_JSON:
        raise ConversionError(f"{path} has {path.stat().st_size} bytes; expected at most {MAX_JSON}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: damaged JSON ({str(error)[:200]}); download or save it again") from error
    if not isinstance(values, dict):
        raise ConversionError(f"{path}: holds a {type(values).__name__}; expected a mapping of names to values")
    return values


class Config:
    """The values of a configuration; every question states what is expected.

    Args:
        values: name -> value.
        where: what an error calls it.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def fail(self, name: str, value: Any, expected: str) -> ConversionError:
        """The error for a value."""
        return ConversionError(f"{self.where}: {name} is {str(value)[:60]!r}; expected {expected}")

    def size(self, name: str, default: int | None = None) -> int:
        """A positive number of something; without a default it must be there."""
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIZE:
            raise self.fail(name, value, f"a whole number from 1 to {MAX_SIZE}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < float("inf"):
            raise self.fail(name, value, "a number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.fail(name, value, "true or false")
        return default if value is None else value

    def text(self, name: str, default: str) -> str:
        """A word."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self.fail(name, value, "a text")
        return default if value is None else value

    def part(self, name: str) -> Config:
        """A mapping inside; empty where there is none."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.fail(name, value, "a mapping")
        return Config(value or {}, f"{self.where}: {name}")

    @property
    def architecture(self) -> str:
        """The class that it was saved from, e.g. ``BertForMaskedLM``; empty where it is not told."""
        names = self.values.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else ""

    def heads(self, width: int, name: str) -> int:
        """The number of attention heads, which divides the width."""
        heads = self.size(name)
        if width % heads:
            raise self.fail(name, heads, f"a divisor of the width {width}")
        return heads
