"""Rules of operators with weights, contractions, norms, pooling and attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.gauge import algebra, shapes
from converters.gauge.calls import Call, rule
from converters.gauge.values import Factor, Value, freeze, freeze_all


def _bias(c: Call, out: Value, bias: Any, axis: int = 1) -> Value:
    if not isinstance(bias, Value):
        return out
    f = bias.factor(0)
    trailing = len(out.shape) - 1 - (axis % len(out.shape))
    lifted = Value((bias.shape[0], *(1,) * trailing), () if f is None else (f.on(0),), bias.zero)
    return algebra.add(c.system, out, lifted, "a bias")


@rule("linear")
def linear(c: Call) -> Value:
    """``y = x W^T + b``."""
    x, weight = c.args[0], c.args[1]
    c.role(weight, dst=0, src=1)
    out = algebra.contract(c.system, x, weight, -1, 1, [], "linear")
    return _bias(c, out, c.get(2, "bias"), -1)


@rule("addmm")
def addmm(c: Call) -> Value:
    bias, a, b = c.args[:3]
    c.role(b, dst=1, src=0)
    return _bias(c, algebra.contract(c.system, a, b, 1, 0, [], "addmm"), bias, -1)


@rule("mm", "matmul", "bmm", "mv", "dot")
def matmul(c: Call) -> Value:
    a, b = c.args[0], c.args[1]
    if len(b.shape) == 1:
        return algebra.contract(c.system, a, b, -1, 0, [], c.why)
    if len(a.shape) == 1:
        return algebra.contract(c.system, a, b, 0, -2, [], c.why)
    c.role(b, dst=len(b.shape) - 1, src=len(b.shape) - 2)
    n = max(len(a.shape), len(b.shape)) - 2
    if len(b.shape) == 2:
        return algebra.contract(c.system, a, b, -1, 0, [], c.why)
    a = shapes.expand(a, (-1,) * len(a.shape)) if len(a.shape) == n + 2 else _wide(a, n + 2)
    b = b if len(b.shape) == n + 2 else _wide(b, n + 2)
    return algebra.contract(c.system, a, b, n + 1, n, [(k, k) for k in range(n)], c.why)


def _wide(value: Value, rank: int) -> Value:
    return shapes.expand(value, (1,) * (rank - len(value.shape)) + value.shape)


@rule("baddbmm")
def baddbmm(c: Call) -> Value:
    start, a, b = c.args[:3]
    out = algebra.contract(c.system, a, b, 2, 1, [(0, 0)], c.why)
    return out if c.get(3, "beta", 1) == 0 else algebra.add(c.system, out, start, "addition")


@rule("conv1d", "conv2d", "conv3d", "convolution")
def conv(c: Call) -> Value:
    x, weight = c.args[0], c.args[1]
    if c.why == "convolution":
        transposed, groups = c.args[6], c.args[8]
        if transposed:
            return _transposed(c, x, weight, groups)
    else:
        groups = c.get(6, "groups", 1)
    x = _unbatched(c, x)
    for axis in range(2, len(x.shape)):
        freeze(c.system, x.factor(axis), "a convolution runs over these positions")
        freeze(c.system, weight.factor(axis), "entries of a kernel have places")
    c.role(weight, dst=0, src=1)
    f = _dense(c, x, weight) if groups == 1 else _grouped(c, x, weight, groups)
    out = Value(_batched(c), () if f is None else (f,))
    return _outcome(c, _bias(c, out, c.get(2, "bias")))


def _unbatched(c: Call, x: Value) -> Value:
    return x if len(x.shape) == len(c.args[1].shape) else shapes.reshape(c.system, x, (1, *x.shape))


def _batched(c: Call) -> tuple[int, ...]:
    return tuple(c.shape) if len(c.shape) == len(c.args[1].shape) else (1, *c.shape)


def _outcome(c: Call, out: Value) -> Value:
    return out if out.shape == tuple(c.shape) else shapes.reshape(c.system, out, c.shape)


def _dense(c: Call, x: Value, weight: Value) -> Factor | None:
    source, into = x.factor(1), weight.factor(1)
    if into is not None:
        _tie(c, source, into)
    elif source is not None:
        freeze(c.system, source, "a convolution of one channel")
    out = weight.factor(0)
    return None if out is None else out.on(1)


def _tie(c: Call, source: Factor | None, into: Factor) -> None:
    if source is None or len(source.axes) > 1 or len(into.axes) > 1:
        freeze(c.system, source, "fixed channels")
        freeze(c.system, into, "fixed channels")
        return
    c.system.same(source.atoms, into.atoms)
    c.system.balance((source.cells, 1.0), (into.cells, 1.0), why="convolution")


def _grouped(c: Call, x: Value, weight: Value, groups: int) -> Factor | None:
    """Channels of a group stay together; the columns of the kernel mean other channels in every group of rows."""
    system = c.system
    source, rows = x.factor(1), weight.factor(0)
    if rows is None or source is None or len(source.axes) > 1 or len(rows.axes) > 1:
        for f in (source, rows, weight.factor(1)):
            freeze(system, f, "a grouped convolution of fixed channels")
        return None if rows is None else rows.on(1)
    inside = source.atoms.reshape(groups, -1)
    each = rows.atoms.reshape(groups, -1)
    if inside.shape[1] == 1:  # depthwise: every output belongs to one input
        system.same(inside, each)
        cells = system.cells(rows.atoms)
        system.balance(
            (cells.reshape(groups, -1), 1.0), (rows.cells.reshape(groups, -1), -1.0),
            (source.cells.reshape(groups, 1), -1.0), why="depthwise convolution",
        )  # fmt: skip
        for atoms in (rows.atoms,):
            system.bend(atoms, "depthwise convolution")
        return Factor((1,), rows.atoms, cells)
    outer_in, outer_out = shapes.bundle(system, inside), shapes.bundle(system, each)
    system.same(outer_in, outer_out)
    columns = weight.factor(1)
    if columns is not None and columns.axes == (1,):
        joint = system.cells(inside)
        weight_cells = Factor(
            (0, 1),
            np.repeat(inside, each.shape[1], 0),
            np.repeat(joint, each.shape[1], 0),
        )
        system.balance((joint, 1.0), (source.cells.reshape(groups, -1), 1.0), why="grouped convolution")
        c.joint[(str(weight.param), 1)] = weight_cells
    return rows.on(1)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(c: Call) -> Value:
    return _transposed(c, c.args[0], c.args[1], c.get(6, "groups", 1))


def _transposed(c: Call, x: Value, weight: Value, groups: int) -> Value:
    x = _unbatched(c, x)
    for axis in range(2, len(x.shape)):
        freeze(c.system, x.factor(axis), "a convolution runs over these positions")
        freeze(c.system, weight.factor(axis), "entries of a kernel have places")
    c.role(weight, dst=1, src=0)
    source, into, out = x.factor(1), weight.factor(0), weight.factor(1)
    if groups == 1:
        if into is not None:
            _tie(c, source, into)
        else:
            freeze(c.system, source, "a convolution of one channel")
    else:
        for f in (source, into, out):
            freeze(c.system, f, "a grouped transposed convolution")
        out = None
    result = Value(_batched(c), () if out is None else (out.on(1),))
    return _outcome(c, _bias(c, result, c.get(2, "bias")))


@rule("batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm", "cudnn_batch_norm")
def batch_norm(c: Call) -> Any:
    """``y = (x - mean) / sqrt(var + eps) weight + bias``: scales of x and of the mean agree, the variance is kept."""
    x, weight, bias, mean, var = c.args[:5]
    rank = len(x.shape)
    out = x
    if isinstance(mean, Value):
        out = algebra.add(c.system, out, _channels(mean, rank), "the running mean")
        for f in var.factors:
            c.system.hold(f.cells, "a running variance is kept")
        out = algebra.mul(c.system, out, _channels(var, rank), "the running variance", -1.0)
    else:
        freeze_all(c.system, x, "batch norm on the statistics of a batch")
    if isinstance(weight, Value):
        out = algebra.mul(c.system, out, _channels(weight, rank), "the weight of a norm")
    if isinstance(bias, Value):
        out = algebra.add(c.system, out, _channels(bias, rank), "the bias of a norm")
    return out if not isinstance(c.shape, list) else [out, Value(c.shape[1]), Value(c.shape[2])]


def _channels(value: Value, rank: int, axis: int = 1) -> Value:
    f = value.factor(0) if value.shape else None
    return Value((*value.shape, *(1,) * (rank - axis - 1)), () if f is None else (f.on(0),))


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(c: Call) -> Any:
    """Neurons are normalised together: one permutation, no scale (a root mean square lets signs pass)."""
    x, shape = c.args[0], c.args[1]
    weight, bias = c.get(2, "weight"), c.get(3, "bias") if "layer" in c.why else None
    axes = range(len(x.shape) - len(shape), len(x.shape))
    for f in x.factors:
        if set(f.axes) & set(axes):
            c.system.hold(f.cells, f"{c.why} over these neurons", sign="layer" in c.why)
            c.system.bend(f.atoms, f"{c.why} over these neurons")
            c.system.note(f.atoms, c.why)
        else:
            c.system.hold(f.cells, f"{c.why} for each of these")
    out = x
    if isinstance(weight, Value):
        out = algebra.mul(c.system, out, weight, "the weight of a norm")
    if isinstance(bias, Value):
        out = algebra.add(c.system, out, bias, "the bias of a norm")
    return out if not isinstance(c.shape, list) else [out, *(Value(s) for s in c.shape[1:])]


@rule("group_norm", "native_group_norm", "instance_norm")
def group_norm(c: Call) -> Any:
    """Channels of one group are normalised together."""
    x = c.args[0]
    if c.why == "native_group_norm":
        weight, bias, groups = c.args[1], c.args[2], c.args[6]
    elif c.why == "group_norm":
        groups, weight, bias = c.args[1], c.get(2, "weight"), c.get(3, "bias")
    else:
        weight, bias, groups = c.args[1], c.args[2], x.shape[1]
        if not c.get(5, "use_input_stats", True):
            moved = Call(c.system, c.name, c.target, c.args[:5], {}, c.shape, c.roles, c.joint)
            return batch_norm(moved)
    f = x.factor(1)
    if f is not None and len(f.axes) == 1:
        alone = groups == x.shape[1]
        c.system.hold(f.cells, f"{c.why} over these neurons", sign=not alone)
        c.system.bend(f.atoms, f"{c.why} over these neurons")
        if groups > 1 and not alone:
            shapes.bundle(c.system, f.atoms.reshape(groups, -1))
    elif f is not None:
        freeze(c.system, f, c.why)
    for axis in range(2, len(x.shape)):
        freeze(c.system, x.factor(axis), f"{c.why} over these positions")
    out = x
    if isinstance(weight, Value):
        out = algebra.mul(c.system, out, _channels(weight, len(x.shape)), "the weight of a norm")
    if isinstance(bias, Value):
        out = algebra.add(c.system, out, _channels(bias, len(x.shape)), "the bias of a norm")
    return out if not isinstance(c.shape, list) else [out, *(Value(s) for s in c.shape[1:])]


@rule(
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)),
    *(f"_adaptive_avg_pool{n}d" for n in (2, 3)), *(f"max_pool{n}d_with_indices" for n in (2, 3)),
    *(f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "trilinear3d",
      "bicubic2d")),
    *(f"_upsample_{kind}" for kind in ("nearest_exact1d", "nearest_exact2d", "bilinear2d_aa")), "grid_sampler",
)  # fmt: skip
def pooled(c: Call) -> Any:
    """Positions are pooled or interpolated; a maximum allows positive scales only."""
    x = c.args[0]
    first = len(x.shape) - int(next(ch for ch in reversed(c.why.removesuffix("_with_indices").removesuffix("_aa"))
                                    if ch.isdigit())) if c.why != "grid_sampler" else 2  # fmt: skip
    kept = []
    for f in x.factors:
        if max(f.axes) >= first:
            freeze(c.system, f, f"{c.why} runs over these positions")
        else:
            kept.append(f)
            if "max" in c.why:
                c.system.hold(f.cells, f"{c.why} allows positive scales only", scale=False)
                c.system.bend(f.atoms, c.why)
    many = isinstance(c.shape, list)
    out = Value(c.shape[0] if many else c.shape, tuple(kept), x.zero)
    return [out, *(Value(s) for s in c.shape[1:])] if many else out


@rule("mean", "sum", "nansum")
def averaged(c: Call) -> Value:
    return _reduced(c, linear=True)


@rule("amax", "amin", "max", "min", "prod", "var", "std", "any", "all", "median", "var_mean", "std_mean", "topk")
def extreme(c: Call) -> Any:
    if c.why in ("max", "min") and len(c.args) > 1 and isinstance(c.args[1], Value):
        for v in c.args[:2]:
            for f in v.factors:
                c.system.hold(f.cells, f"{c.why} allows positive scales only", scale=False)
                c.system.bend(f.atoms, c.why)
        return algebra.add(c.system, c.args[0], c.args[1], c.why)
    return _reduced(c, linear=False)


def _reduced(c: Call, *, linear: bool) -> Any:
    x = c.args[0]
    shape = c.shape[0] if isinstance(c.shape, list) else c.shape
    if c.why == "topk":
        axes: list[int] = [c.get(2, "dim", -1)]
        freeze(c.system, x.factor(axes[0]), "topk picks these neurons")
        gone = {axes[0] % len(x.shape)}
        kept = tuple(f for f in x.factors if not set(f.axes) & gone)
        for f in kept:
            c.system.hold(f.cells, "topk allows no scale")
        return [Value(s, kept if k == 0 else ()) for k, s in enumerate(c.shape)]
    dims = c.get(1, "dim")
    axes = [] if dims is None else ([dims] if isinstance(dims, int) else list(dims))
    if c.why in ("var", "std", "var_mean", "std_mean", "any", "all", "prod"):
        for f in x.factors:
            c.system.hold(f.cells, f"{c.why} allows no scale")
    keep = len(shape) == len(x.shape)
    out = algebra.reduce(c.system, x, axes, c.why, keepdim=keep, linear=linear)
    if not isinstance(c.shape, list):
        return out
    second = out if c.why in ("var_mean", "std_mean") else Value(c.shape[1])
    return [out, second]


@rule("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")
def attention(c: Call) -> Any:
    """``softmax(q k^T) v`` per head: q and k are contracted, v passes."""
    q, k, v = c.args[:3]
    if c.kwargs.get("enable_gqa") or k.shape[-3:-2] != q.shape[-3:-2]:
        times = q.shape[-3] // k.shape[-3]
        k, v = (shapes.take(t, -3, lambda x: np.repeat(x, times, 0), t.shape[-3] * times) for t in (k, v))
    batch = [(a, a) for a in range(len(q.shape) - 2)]
    rank = len(q.shape)
    scores = algebra.contract(c.system, q, k, rank - 1, rank - 1, batch, "attention scores")
    mask = c.get(3, "attn_mask")
    if isinstance(mask, Value):
        scores = algebra.add(c.system, scores, mask, "an attention mask")
    for f in scores.factors:
        c.system.hold(f.cells, "softmax allows no scale")
    out = algebra.contract(c.system, scores, v, rank - 1, rank - 2, batch, "attention")
    return out if not isinstance(c.shape, list) else [out, *(Value(s) for s in c.shape[1:])]
