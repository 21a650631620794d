"""The unknowns of the inference, and the constraints that operators put on them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Equations ``sum_k power[k] log(scale of cells[k]) = 0``, one per entry of the arrays; signs likewise mod 2.

    ``cells`` is ``[terms, n]``; ``scale`` and ``sign`` say for which of the two the equations hold.
    """

    cells: Ints
    powers: tuple[float, ...]
    scale: bool
    sign: bool
    why: str


@dataclass
class System:
    """Atoms (what is permuted), cells (entries of axes, each with a scale and a sign), and constraints on them.

    An atom has many cells: a neuron's row in one matrix and its column in the next. Cells know their atom.
    ``wishes`` are pairs of axes that are used as one, of stacked matrices as a rule: every entry of the first may have
    neurons of its own along the second. ``ends`` are cells of weights that lead to neurons (dst) or come from them
    (src).
    """

    num_atoms: int = 0
    cell_atoms: list[Ints] = field(default_factory=list)
    num_cells: int = 0
    unions: list[tuple[Ints, Ints]] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    fixed: list[tuple[Ints, Ints, str]] = field(default_factory=list)
    bent: list[tuple[Ints, str]] = field(default_factory=list)
    parents: list[tuple[list[Ints], Ints]] = field(default_factory=list)
    notes: list[tuple[Ints, str]] = field(default_factory=list)
    known: dict[bytes, int] = field(default_factory=dict)
    wishes: list[tuple[Ints, Ints]] = field(default_factory=list)
    ends: list[tuple[Ints, str]] = field(default_factory=list)

    def atoms(self, *shape: int) -> Ints:
        """New atoms."""
        n = int(np.prod(shape, dtype=np.int64))
        start, self.num_atoms = self.num_atoms, self.num_atoms + n
        return np.arange(start, start + n, dtype=np.int64).reshape(shape)

    def cells(self, atoms: Ints) -> Ints:
        """A new cell for each entry of an array of atoms."""
        start, self.num_cells = self.num_cells, self.num_cells + atoms.size
        self.cell_atoms.append(atoms.reshape(-1))
        return np.arange(start, start + atoms.size, dtype=np.int64).reshape(atoms.shape)

    def same(self, a: Ints, b: Ints) -> None:
        """These atoms move together."""
        a, b = np.broadcast_arrays(a, b)
        self.unions.append((a.reshape(-1), b.reshape(-1)))

    def fix(self, atoms: Ints, why: str, codes: Ints | None = None) -> None:
        """These atoms do not move, except to atoms of the same code; without codes every place has its own."""
        places = np.arange(atoms.size).reshape(atoms.shape) if codes is None else np.broadcast_to(codes, atoms.shape)
        pairs = np.unique(np.stack([atoms.reshape(-1), places.reshape(-1)]), axis=1)
        self.fixed.append((pairs[0], pairs[1], why))

    def bend(self, atoms: Ints, why: str) -> None:
        """Something acts on each of these atoms alone, so they do not mix linearly."""
        self.bent.append((np.unique(atoms), why))

    def balance(self, *terms: tuple[Ints, float], why: str, scale: bool = True, sign: bool = True) -> None:
        """The product of the terms' scales, to their powers, is 1 (and that of their signs)."""
        arrays = np.broadcast_arrays(*(cells for cells, _ in terms))
        stacked = np.unique(np.stack([a.reshape(-1) for a in arrays]), axis=1)
        self.rows.append(Rows(stacked, tuple(power for _, power in terms), scale, sign, why))

    def hold(self, cells: Ints, why: str, *, scale: bool = True, sign: bool = True) -> None:
        """These cells have scale (and sign) 1."""
        self.balance((cells, 1.0), why=why, scale=scale, sign=sign)

    def bundles(self, atoms: Ints) -> Ints:
        """Per row ``atoms[.., :]`` one atom that stands for all of them, e.g. an attention head for its channels.

        The same row always has the same bundle; a row of one atom is that atom.
        """
        rows = [np.unique(row) for row in atoms.reshape(-1, atoms.shape[-1])]
        outer = np.array([self._bundle(row) for row in rows], dtype=np.int64)
        many = [k for k, row in enumerate(rows) if len(row) > 1]
        if many:
            self.parents.append(([rows[k] for k in many], outer[many]))
        return outer.reshape(atoms.shape[:-1])

    def _bundle(self, row: Ints) -> int:
        if len(row) == 1:
            return int(row[0])
        key = row.tobytes()
        if key not in self.known:
            self.known[key] = int(self.atoms(1)[0])
        return self.known[key]

    def are_bundles(self, atoms: Ints) -> bool:
        """Whether all of these stand for other atoms."""
        return set(atoms.reshape(-1).tolist()) <= set(self.known.values())

    def wish(self, lead: Ints, atoms: Ints) -> None:
        """These go together: where both are axes of one parameter, the second may differ along the first."""
        self.wishes.append((lead, atoms))

    def note(self, atoms: Ints, what: str) -> None:
        """Remember what happens to these atoms, for the reasons in words."""
        self.notes.append((np.unique(atoms), what))

    def roots(self) -> Ints:
        """Per atom, the number of its class of atoms that move together.

        Bundles with the same contents are the same bundle, however often an axis was split; unless one and the same
        split has several such bundles, as where all heads share their channels' weights.
        """
        while True:
            roots = self._components()
            new = self._equal_bundles(roots)
            if not new:
                return roots
            self.unions += new

    def _equal_bundles(self, roots: Ints) -> list[tuple[Ints, Ints]]:
        first: dict[bytes, int] = {}
        unclear: set[bytes] = set()
        pairs: list[tuple[bytes, int]] = []
        for rows, parents in self.parents:
            own: dict[bytes, int] = {}
            for row, parent in zip(rows, parents.tolist(), strict=True):
                key = np.unique(roots[row]).tobytes()
                if roots[own.setdefault(key, parent)] != roots[parent]:
                    unclear.add(key)
                pairs.append((key, parent))
        out = []
        for key, parent in pairs:
            other = first.setdefault(key, parent)
            if key not in unclear and roots[other] != roots[parent]:
                out.append((np.array([other]), np.array([parent])))
        return out

    def strands(self) -> Ints:
        """Per atom, the first atom that it is bound to one to one: tells apart the places where a neuron sits twice.

        Of several entries that are bound to one, each begins a strand of its own, which the same entries of other
        tensors belong to, in whatever order they have them.
        """
        single = []
        for a, b in self.unions:
            pairs = np.unique(np.stack([a, b]), axis=1)
            if all(len(np.unique(side)) == len(side) for side in pairs):
                single.append((pairs[0], pairs[1]))
        parts = self._components(single)
        first = np.full(self.num_atoms, self.num_atoms, dtype=np.int64)
        np.minimum.at(first, parts, np.arange(self.num_atoms))
        return first[parts]

    def _components(self, unions: list[tuple[Ints, Ints]] | None = None) -> Ints:
        unions = self.unions if unions is None else unions
        if not unions:
            return np.arange(self.num_atoms)
        a = np.concatenate([u for u, _ in unions])
        b = np.concatenate([v for _, v in unions])
        links = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(self.num_atoms, self.num_atoms))
        return connected_components(links, directed=False)[1].astype(np.int64)

    def sources(self) -> Ints:
        """Per cell, 1 where it is an end of a weight that comes from neurons, 0 where it leads to them, -1 unknown."""
        out = np.full(self.num_cells, -1, dtype=np.int64)
        for cells, kind in reversed(self.ends):  # the first use counts
            out[cells] = kind == "src"
        return out
