"""The table of rules, and what a rule sees of the operator that it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from converters.gauge.system import Ints, System
from converters.gauge.values import Factor, Value


@dataclass(frozen=True)
class Call:
    """One operator of the program, with what is known of its arguments.

    Args:
        system: takes the constraints.
        name: of the result.
        target: e.g. ``aten.linear.default``.
        args: tensors are Values, everything else is as it is.
        kwargs: likewise.
        shape: of the result, or of every one of several results.
        joint: filled in with second axes of kernels that mean other neurons in other rows (grouped convolutions).
    """

    system: System
    name: str
    target: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: Any
    joint: dict[str, Factor]

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by its place or its name."""
        if place < len(self.args):
            return self.args[place]
        return self.kwargs.get(name, default)

    @property
    def why(self) -> str:
        """The operator in words."""
        return self.target.split(".")[1]

    def role(self, value: Value, dst: int | None = None, src: int | None = None) -> None:
        """Say which axis of a weight leads to neurons and which comes from them, permuted or not."""
        for axis, kind in ((dst, "dst"), (src, "src")):
            f = None if axis is None else value.factor(axis)
            if f is not None:
                self.system.ends.append((f.cells.reshape(-1), kind))

    def split(self, weight: Value, atoms: Ints, cells: Ints) -> None:
        """Say that the columns of a kernel are these neurons, per row."""
        if weight.param is None:
            return
        first = self.joint.setdefault(weight.param, Factor((0, 1), atoms, cells))
        self.system.ends.append((cells.reshape(-1), "src"))
        if first.atoms is not atoms:
            self.system.same(first.atoms, atoms)
            self.system.balance((first.cells, 1.0), (cells, -1.0), why="a kernel is used twice")


Rule = Callable[[Call], Any]
RULES: dict[str, Rule] = {}
"""Operator (``name`` for all overloads, or ``name.overload``) -> rule."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def rule_for(target: str) -> Rule | None:
    """The rule of a target, if there is one."""
    _, _, rest = target.partition(".")
    return RULES.get(rest) or RULES.get(rest.partition(".")[0])
