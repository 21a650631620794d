"""Which operators of a program matter, and which values share memory."""

from __future__ import annotations

from graphnfn.program import Op, Program, Ref

_VIEWS = frozenset(
    "view reshape flatten unflatten squeeze unsqueeze permute transpose t mT numpy_T movedim swapaxes expand expand_as "
    "broadcast_to select slice narrow split split_with_sizes chunk unbind tensor_split hsplit detach alias contiguous "
    "view_as reshape_as getitem diagonal unfold to type_as dropout float double".split()
)
"""Their results may be the same memory as their first argument."""


def packet(op: Op) -> str:
    """The operator's name without library and overload."""
    return op.target.removeprefix("aten.").partition(".")[0]


def in_place(op: Op) -> bool:
    """Whether it writes to its first argument."""
    return packet(op).endswith("_")


def live(program: Program) -> list[Op]:
    """The operators that the results depend on, and those that work in place."""
    needed, out = set(program.outputs), []
    for op in reversed(program.ops):
        if op.name in needed or in_place(op):
            needed.update(op.refs())
            out.append(op)
    return out[::-1]


def stale(program: Program, written: Op) -> set[str]:
    """Other names of the memory that an operator writes to, if they are read afterwards."""
    memory: dict[str, str] = {}
    later: set[str] = set(program.outputs)
    seen = False
    for op in program.ops:
        if seen:
            later.update(op.refs())
            continue
        first = op.args[0] if op.args else None
        if isinstance(first, Ref) and (packet(op) in _VIEWS or in_place(op)):
            memory[op.name] = memory.get(first.name, first.name)
        seen = op.name == written.name
    first = written.args[0].name
    root = memory.get(first, first)
    return {n for n in later if memory.get(n, n) == root} - {first, written.name}
