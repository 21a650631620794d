"""Rules of operators that move, repeat or select entries, and of those that make constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from converters.gauge import algebra, shapes
from converters.gauge.calls import Call, rule
from converters.gauge.values import Factor, Value, freeze, freeze_all
from graphnfn.program import DType


@rule(
    "clone", "contiguous", "detach", "alias", "dropout", "dropout_", "alpha_dropout", "feature_dropout", "to",
    "_to_copy", "type_as", "lift_fresh_copy", "native_dropout", "float", "double", "feature_alpha_dropout",
)  # fmt: skip
def passed(c: Call) -> Any:
    """The values stay as they are (in eval mode); whole numbers allow no scale."""
    value = c.args[0]
    kinds = [a.name for a in (*c.args, *c.kwargs.values()) if isinstance(a, DType)]
    if any("float" not in kind for kind in kinds):
        for f in value.factors:
            c.system.hold(f.cells, "rounding allows no scale")
            c.system.bend(f.atoms, "rounding")
    return value if not isinstance(c.shape, list) else [value, Value(c.shape[1])]


@rule("zeros", "new_zeros", "zeros_like", "ones", "ones_like", "new_ones", "full", "full_like", "new_full",
      "empty", "empty_like", "scalar_tensor")  # fmt: skip
def filled(c: Call) -> Value:
    """One number everywhere."""
    number = c.get({"new_full": 2, "scalar_tensor": 0}.get(c.why, 1), "fill_value")
    zero = "zeros" in c.why or ("full" in c.why and number == 0)
    return Value(c.shape, zero=zero, flat=frozenset(a for a, size in enumerate(c.shape) if size > 1))


@rule("arange", "rand", "randn", "eye", "linspace", "tril_indices", "triu_indices", "sym_size", "tensor",
      "_assert_tensor_metadata", "rand_like", "randn_like")  # fmt: skip
def constant(c: Call) -> Any:
    """The result depends on no weight, at most on shapes."""
    return None if c.shape is None else Value(c.shape)


@rule("fill")
def overwritten(c: Call) -> Value:
    value, number = c.args
    flat = frozenset(a for a, size in enumerate(value.shape) if size > 1)
    return Value(value.shape, zero=not isinstance(number, Value) and number == 0, flat=flat)


@rule("copy")
def copied(c: Call) -> Value:
    return shapes.expand(c.args[1], c.shape)


@rule("slice_scatter", "select_scatter")
def inserted(c: Call) -> Value | None:
    """Some entries of an axis come from another tensor."""
    value, part, axis = c.args[0], c.args[1], c.get(2, "dim", 0) % len(c.shape)
    size = value.shape[axis]
    if c.why == "select_scatter":
        start = c.args[3] % size
        part = shapes.reshape(c.system, part, (*part.shape[:axis], 1, *part.shape[axis:]))
    else:
        start = slice(c.get(3, "start"), None).indices(size)[0]
        if c.get(5, "step", 1) != 1:
            return None
    end = start + part.shape[axis]
    pieces = [_cut(value, axis, 0, start), part, _cut(value, axis, end, size)]
    return shapes.cat(c.system, [p for p in pieces if p.shape[axis]], axis)


def _cut(value: Value, axis: int, start: int, end: int) -> Value:
    return shapes.take(value, axis, lambda x: x[start:end], end - start)


@rule("argmax", "argmin", "bitwise_and", "bitwise_or", "bitwise_not", "_assert_scalar", "one_hot", "bucketize",
      "scatter", "scatter_add", "scatter_reduce", "index_put", "index_add", "index_copy")  # fmt: skip
def read(c: Call) -> Any:
    """What it was made from must not move."""
    values = [v for v in c.args if isinstance(v, Value)]
    for value in values:
        freeze_all(c.system, value, f"{c.why} reads its values")
    return None if c.shape is None else Value(c.shape)


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as")
def reshaped(c: Call) -> Value:
    """All of these only group the same entries differently."""
    return shapes.reshape(c.system, c.args[0], c.shape)


@rule("permute", "transpose", "t", "numpy_T", "movedim", "swapaxes", "mT")
def permuted(c: Call) -> Value:
    value = c.args[0]
    rank = len(value.shape)
    if c.why == "permute":
        order = list(c.args[1])
    elif c.why == "movedim":
        source = [c.args[1]] if isinstance(c.args[1], int) else list(c.args[1])
        target = [c.args[2]] if isinstance(c.args[2], int) else list(c.args[2])
        order = [a for a in range(rank) if a not in [s % rank for s in source]]
        for t, s in sorted(zip([t % rank for t in target], [s % rank for s in source], strict=True)):
            order.insert(t, s)
    else:
        a, b = (c.args[1], c.args[2]) if len(c.args) > 2 else (rank - 2, rank - 1)
        order = list(range(rank))
        if rank > 1:
            order[a], order[b] = order[b], order[a]
    return shapes.permute(value, order)


@rule("expand", "expand_as", "broadcast_to")
def expanded(c: Call) -> Value:
    return shapes.expand(c.args[0], c.shape)


@rule("repeat", "tile")
def repeated(c: Call) -> Value:
    times = list(c.args[1])
    value = shapes.expand(c.args[0], (1,) * (len(times) - len(c.args[0].shape)) + c.args[0].shape)
    for axis, n in enumerate(times):
        if n > 1 and value.shape[axis] == 1:
            value = shapes.expand(value, [n if a == axis else -1 for a in range(len(value.shape))])
        elif n > 1:
            value = shapes.cat(c.system, [value] * n, axis)
    return value


@rule("repeat_interleave.self_int")
def interleaved(c: Call) -> Value:
    value, n, axis = c.args[0], c.args[1], c.get(2, "dim")
    return shapes.take(value, axis, lambda x: np.repeat(x, n, 0), value.shape[axis] * n)


@rule("slice", "narrow")
def sliced(c: Call) -> Value:
    axis = c.get(1, "dim", 0)
    value = c.args[0]
    if c.why == "narrow":
        entries = slice(c.args[2], c.args[2] + c.args[3])
    else:
        start, end, step = c.get(2, "start"), c.get(3, "end"), c.get(4, "step", 1)
        entries = slice(start, end, step)
    return shapes.take(value, axis, lambda x: x[entries], c.shape[axis % len(value.shape)])


@rule("select")
def selected(c: Call) -> Value:
    return _one(c, c.args[0], c.args[1], c.args[2])


def _one(c: Call, value: Value, axis: int, place: int) -> Value:
    """One entry of an axis; a neuron that is picked by number alone does not move."""
    f = value.factor(axis)
    if f is not None and len(f.axes) == 1:
        why = f"{c.why} picks this neuron by number"
        c.system.fix(f.atoms[[place]], why)
        c.system.hold(f.cells[[place]], why)
    return shapes.take(value, axis, lambda x: x[place], None)


@rule("split", "split_with_sizes", "chunk", "unbind", "tensor_split", "unsafe_split", "unsafe_chunk", "hsplit")
def split(c: Call) -> list[Value]:
    value = c.args[0]
    if c.why == "unbind":
        axis = c.get(1, "dim", 0)
        return [_one(c, value, axis, i) for i in range(len(c.shape))]
    axis = c.get(2, "dim", 0) % len(value.shape)
    out, start = [], 0
    for shape in c.shape:
        end = start + shape[axis]
        out.append(shapes.take(value, axis, lambda x, s=start, e=end: x[s:e], end - start))
        start = end
    return out


@rule("cat", "concat", "concatenate")
def concatenated(c: Call) -> Value:
    return shapes.cat(c.system, list(c.args[0]), c.get(1, "dim", 0))


@rule("stack")
def stacked(c: Call) -> Value:
    axis = c.get(1, "dim", 0)
    parts = list(c.args[0])
    axis %= len(parts[0].shape) + 1
    wide = [shapes.reshape(c.system, p, (*p.shape[:axis], 1, *p.shape[axis:])) for p in parts]
    return shapes.cat(c.system, wide, axis)


@rule("pixel_shuffle", "channel_shuffle")
def shuffled(c: Call) -> Value | None:
    """Channels become positions: the channels that make one channel of the result move together."""
    value, n = c.args[0], c.args[1]
    axis = len(value.shape) - 3
    lead, size, rest = value.shape[:axis], value.shape[axis], value.shape[axis + 1 :]
    if c.why == "channel_shuffle":
        apart = shapes.reshape(c.system, value, (*value.shape[:1], n, value.shape[1] // n, *value.shape[2:]))
        order = [0, 2, 1, *range(3, len(apart.shape))]
        return shapes.reshape(c.system, shapes.permute(apart, order), c.shape)
    apart = shapes.reshape(c.system, value, (*lead, size // n**2, n**2, *rest))
    apart = algebra.settle(c.system, apart, [axis + 1, axis + 2, axis + 3], "pixel_shuffle makes positions of these")
    factors = tuple(f for f in apart.factors if max(f.axes) <= axis)
    return Value(c.shape, factors, value.zero)


@rule("flip", "roll")
def turned(c: Call) -> Value:
    """Entries in another order."""
    value = c.args[0]
    axes = c.get(2 if c.why == "roll" else 1, "dims", ())
    axes = [axes] if isinstance(axes, int) else list(axes)
    if not axes:
        return algebra.settle(c.system, value, range(len(value.shape)), "roll over all axes")
    steps = c.args[1] if c.why == "roll" else 0
    steps = [steps] * len(axes) if isinstance(steps, int) else list(steps)
    for axis, step in zip(axes, steps, strict=True):
        pick = (lambda x: x[::-1]) if c.why == "flip" else (lambda x, n=step: np.roll(x, n, 0))
        value = shapes.take(value, axis, pick, value.shape[axis])
    return value


@rule("cumsum", "cumprod", "tril", "triu", "constant_pad_nd", "pad", "reflection_pad1d",
      "reflection_pad2d", "replication_pad1d", "replication_pad2d", "diff", "unfold")  # fmt: skip
def along(c: Call) -> Any:
    """These act along positions; neurons on those axes would be tied to their places."""
    value = c.args[0]
    rank = len(value.shape)
    if c.why in ("constant_pad_nd", "pad"):
        axes = [rank - 1 - k // 2 for k, n in enumerate(c.args[1]) if n]
        number = c.get(2, "value", 0) if c.why == "constant_pad_nd" else c.get(3, "value", 0)
        if number not in (0, 0.0, None):
            for f in value.factors:
                c.system.hold(f.cells, "padding with a number")
                c.system.bend(f.atoms, "padding with a number")
    elif c.why.startswith(("reflection_pad", "replication_pad")):
        axes = [rank - 1 - k for k in range(int(c.why[-2]))]
    elif c.why in ("cumsum", "cumprod", "unfold"):
        axes = [c.get(1, "dim")]
    else:
        axes = [rank - 1, rank - 2] if c.why in ("tril", "triu") else list(range(rank))
    if c.why == "cumprod":
        freeze_all(c.system, value, "cumprod allows no scale")
    value = algebra.settle(c.system, value, axes, f"{c.why} along these neurons")
    return Value(c.shape, tuple(f for f in value.factors if not _touches(f, axes, rank)), value.zero)


def _touches(f: Factor, axes: Sequence[int], rank: int) -> bool:
    return bool(set(f.axes) & {a % rank for a in axes})


@rule("embedding", "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedded(c: Call) -> Any:
    """``weight[index]``: the vocabulary is fixed, the channels are free."""
    weight, index = c.args[0], c.args[1]
    f = weight.factor(1)
    freeze(c.system, weight.factor(0), "rows of an embedding belong to tokens")
    c.role(weight, dst=1, src=0)
    many = isinstance(c.shape, list)
    axis = len(c.shape[0] if many else c.shape) - 1
    kept = () if f is None or len(f.axes) > 1 else (f.on(axis),)
    if many and c.get(4, "mode", 0) == 2:
        for g in kept:
            c.system.hold(g.cells, "a maximum allows positive scales only", scale=False)
            c.system.bend(g.atoms, "a maximum")
    if isinstance(weights := c.get(6, "per_sample_weights"), Value):
        freeze_all(c.system, weights, "weights of an embedding bag")
    freeze_all(c.system, index, "it is read as numbers of tokens")
    return [Value(c.shape[0], kept), *(Value(s) for s in c.shape[1:])] if many else Value(c.shape, kept)


@rule("index", "index_select", "gather", "take_along_dim", "_unsafe_index")
def indexed(c: Call) -> Value:
    """Picking entries by number along axes without neurons leaves the others alone."""
    value = c.args[0]
    rank = len(value.shape)
    if c.why == "index_select":
        axes, moved = [c.args[1] % rank], False
    elif c.why in ("gather", "take_along_dim"):
        axes, moved = list(range(rank)), False
    else:
        axes = [a for a, i in enumerate(c.args[1]) if i is not None]
        moved = len(axes) > 1 or any(len(i.shape) != 1 for i in c.args[1] if i is not None)
    for index in (i for a in c.args[1:] for i in (a if isinstance(a, tuple) else (a,))):
        if isinstance(index, Value):
            freeze_all(c.system, index, "it is read as numbers of places")
    value = algebra.settle(c.system, value, axes, f"{c.why} picks these neurons by number")
    kept = [f for f in value.factors if not _touches(f, axes, rank)]
    if moved:
        contiguous = axes == list(range(axes[0], axes[-1] + 1))
        extra = len(c.shape) - (rank - len(axes))
        start = axes[0] if contiguous else 0
        rest = [a for a in range(rank) if a not in axes]
        place = {a: k + extra if k >= start else k for k, a in enumerate(rest)}
        kept = [f.on(*(place[a] for a in f.axes)) for f in kept]
    return Value(c.shape, tuple(kept), value.zero)
