"""Rules of operators that move, repeat or select entries, and of those that make constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.gauge import shapes
from converters.gauge.calls import Call, rule
from converters.gauge.values import Value, freeze, freeze_all


@rule(
    "clone", "contiguous", "detach", "alias", "dropout", "dropout_", "alpha_dropout", "feature_dropout", "to",
    "_to_copy", "type_as", "lift_fresh_copy", "native_dropout", "float", "double", "feature_alpha_dropout", "copy",
)  # fmt: skip
def passed(c: Call) -> Value:
    """The values stay as they are (in eval mode)."""
    return c.args[1] if c.why == "copy" else c.args[0]


@rule(
    "zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones", "full", "full_like", "new_full", "empty",
    "arange", "scalar_tensor", "rand", "randn", "eye", "linspace", "tril_indices", "triu_indices", "empty_like",
    "eq", "ne", "lt", "gt", "le", "ge", "logical_and", "logical_or", "logical_not", "isnan", "isinf", "argmax",
    "argmin", "bitwise_and", "bitwise_or", "bitwise_not", "sym_size", "tensor", "_assert_tensor_metadata",
    "_assert_scalar", "full.default", "rand_like", "randn_like", "one_hot", "bucketize",
)  # fmt: skip
def constant(c: Call) -> Any:
    """The result depends on no scale; what it was made from must not move."""
    if c.why not in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "empty_like"):
        for value in c.args:
            if isinstance(value, Value):
                freeze_all(c.system, value, f"{c.why} reads its values")
    if c.shape is None:
        return None
    return Value(c.shape, zero="zeros" in c.why or (c.why in ("full", "new_full", "full_like") and c.get(1, "v") == 0))


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
        if n > 1:
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
    return shapes.take(c.args[0], c.args[1], lambda x: x[c.args[2]], None)


@rule("split", "split_with_sizes", "chunk", "unbind", "tensor_split", "unsafe_split", "unsafe_chunk", "hsplit")
def split(c: Call) -> list[Value]:
    value = c.args[0]
    if c.why == "unbind":
        axis = c.get(1, "dim", 0)
        return [shapes.take(value, axis, lambda x, i=i: x[i], None) for i in range(len(c.shape))]
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


@rule("flip", "roll", "cumsum", "cumprod", "sort", "tril", "triu", "constant_pad_nd", "pad", "reflection_pad1d",
      "reflection_pad2d", "replication_pad1d", "replication_pad2d", "pixel_shuffle", "unfold", "im2col",
      "diff", "fft_rfft")  # fmt: skip
def along(c: Call) -> Any:
    """These act along positions; neurons on those axes would be tied to their places."""
    value = c.args[0]
    rank = len(value.shape)
    if c.why == "constant_pad_nd" or c.why == "pad":
        axes = [rank - 1 - k // 2 for k, n in enumerate(c.args[1]) if n]
        if c.get(2, "value", 0) not in (0, 0.0, None) and c.get(2, "mode", "constant") == "constant":
            freeze_all(c.system, value, "padding with a constant")
    elif c.why.startswith(("reflection_pad", "replication_pad")):
        axes = [rank - 1 - k for k in range(int(c.why[-2]))]
    elif c.why in ("flip", "roll"):
        dims = c.args[-1]
        axes = [dims] if isinstance(dims, int) else list(dims)
    elif c.why in ("cumsum", "cumprod"):
        axes = [c.args[1]]
    else:
        axes = list(range(rank)) if c.why not in ("tril", "triu") else [rank - 1, rank - 2]
    gone = {a % rank for a in axes}
    for f in value.factors:
        if set(f.axes) & gone:
            freeze(c.system, f, f"{c.why} along these neurons")
    if len(c.shape) != rank or isinstance(c.shape, list):
        return None
    kept = tuple(f for f in value.factors if not set(f.axes) & gone)
    return Value(c.shape, kept, value.zero)


@rule("embedding")
def embedded(c: Call) -> Value:
    """``weight[index]``: the vocabulary is fixed, the channels are free."""
    weight, index = c.args[0], c.args[1]
    freeze(c.system, weight.factor(0), "rows of an embedding belong to tokens")
    c.role(weight, dst=1, src=0)
    f = weight.factor(1)
    return Value(c.shape, () if f is None else (f.on(len(index.shape)),))


@rule("index", "index_select", "gather", "take_along_dim", "_unsafe_index")
def indexed(c: Call) -> Value:
    """Picking entries by number along axes without neurons leaves the others alone."""
    value = c.args[0]
    if c.why == "index_select":
        axes, moved = [c.args[1] % len(value.shape)], False
    elif c.why in ("gather", "take_along_dim"):
        axes, moved = list(range(len(value.shape))), False
    else:
        axes = [a for a, i in enumerate(c.args[1]) if i is not None]
        moved = len(axes) > 1 or any(len(i.shape) != 1 for i in c.args[1] if i is not None)
    for f in value.factors:
        if set(f.axes) & set(axes):
            freeze(c.system, f, f"{c.why} picks these neurons by number")
    kept = [f for f in value.factors if not set(f.axes) & set(axes)]
    if moved:
        contiguous = axes == list(range(axes[0], axes[-1] + 1))
        extra = len(c.shape) - (len(value.shape) - len(axes))
        start = axes[0] if contiguous else 0
        place = {}
        rest = [a for a in range(len(value.shape)) if a not in axes]
        for k, a in enumerate(rest):
            place[a] = k + extra if k >= start else k
        kept = [f.on(*(place[a] for a in f.axes)) for f in kept]
    return Value(c.shape, tuple(kept), value.zero)
