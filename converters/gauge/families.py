"""Bundles of groups that may be exchanged as a whole: attention heads, channel groups, experts."""

from __future__ import annotations

from collections.abc import Sequence

from converters.gauge.classes import Classes
from converters.gauge.system import Ints

Family = tuple[tuple[str, ...], ...]


def find_families(classes: Classes, groups: Sequence[Ints], names: Sequence[str]) -> tuple[Family, ...]:
    """Sets of bundles that hold groups of the same parts, bound to the same places, and held by nothing else.

    Args:
        classes: parts, labels and bundles.
        groups: roots per group.
        names: of the groups.
    """
    above: dict[int, set[int]] = {}
    below: dict[int, set[int]] = {}
    for child, parent in classes.bundles.tolist():
        above.setdefault(child, set()).add(parent)
        below.setdefault(parent, set()).add(child)
    group_of = {root: k for k, roots in enumerate(groups) for root in roots.tolist()}
    sorts: dict[tuple, list[list[int]]] = {}
    for parent in below:
        inside = _inside(parent, below)
        members = {group_of[root] for root in inside if root in group_of}
        if not all(set(groups[m].tolist()) <= inside for m in members):
            continue
        key = lambda m: int(classes.plain[groups[m][0]])  # noqa: E731
        ordered = sorted(members, key=key)
        parts = tuple((key(m), tuple(classes.label[groups[m]].tolist())) for m in ordered)
        outside = frozenset(p for root in inside for p in above.get(root, ()) if p not in inside)
        hidden = sorted((int(classes.plain[r]), int(classes.label[r])) for r in inside if r not in group_of)
        if ordered and len({part for part, _ in parts}) == len(parts):
            sign = (int(classes.plain[parent]), int(classes.label[parent]), parts, outside, tuple(hidden))
            if ordered not in sorts.setdefault(sign, []):
                sorts[sign].append(ordered)
    families: list[Family] = []
    for bundles in sorts.values():
        flat = [m for bundle in bundles for m in bundle]
        family = tuple(tuple(names[m] for m in bundle) for bundle in bundles)
        if len(bundles) > 1 and len(set(flat)) == len(flat) and family not in families:
            families.append(family)
    return tuple(families)


def _inside(parent: int, below: dict[int, set[int]]) -> set[int]:
    """A bundle with all that lies in it, at any depth."""
    found, new = {parent}, {parent}
    while new:
        new = {child for root in new for child in below.get(root, ())} - found
        found |= new
    return found
