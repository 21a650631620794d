"""Rules of convolutions, norms, pooling and reductions."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.gauge import algebra, shapes
from converters.gauge.calls import Call, rule
from converters.gauge.rules_contract import with_bias
from converters.gauge.values import Factor, Value, freeze, freeze_all, rows

TAPS = "entries of a kernel have places"
"""Axes of kernels are no neurons."""


@rule("conv1d", "conv2d", "conv3d", "convolution")
def conv(c: Call) -> Value:
    x, weight = c.args[0], c.args[1]
    if c.why == "convolution":
        transposed, groups = c.args[6], c.args[8]
        if transposed:
            return _transposed(c, x, weight, groups)
    else:
        groups = c.get(6, "groups", 1)
    x = _positions(c, _unbatched(c, x), weight)
    c.role(weight, dst=0, src=1)
    f = _dense(c, x, weight) if groups == 1 else _grouped(c, x, weight, groups)
    out = Value(_batched(c), () if f is None else (f,))
    return _outcome(c, with_bias(c, out, c.get(2, "bias")))


def _positions(c: Call, x: Value, weight: Value) -> Value:
    for axis in range(2, len(weight.shape)):
        freeze(c.system, weight.factor(axis), TAPS)
    return algebra.settle(c.system, x, (0, *range(2, len(x.shape))), "a convolution runs over these positions")


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
    source, out, columns = x.factor(1), weight.factor(0), weight.factor(1)
    if out is None or weight.param is None or len(out.axes) > 1 or (source is not None and len(source.axes) > 1):
        for f in (source, out, columns):
            freeze(system, f, "a grouped convolution of other forms")
        return out if out is None else out.on(1)
    each = out.atoms.reshape(groups, -1)
    if source is None:
        freeze(system, columns, "a grouped convolution of fixed channels")
        system.fix(each, "a grouped convolution of fixed channels", np.arange(groups)[:, None])
        system.bend(each, "a grouped convolution")
        return out.on(1)
    inside = source.atoms.reshape(groups, -1)
    if inside.shape[1] == 1:  # depthwise: every output belongs to one input
        return _depthwise(c, source, out, groups)
    system.same(system.bundles(inside), system.bundles(each))
    if columns is not None and columns.axes == (1,):
        cells = system.cells(inside)
        system.balance((cells, 1.0), (source.cells.reshape(groups, -1), 1.0), why="grouped convolution")
        c.split(weight, np.repeat(inside, each.shape[1], 0), np.repeat(cells, each.shape[1], 0))
    return out.on(1)


def _depthwise(c: Call, source: Factor, out: Factor, groups: int) -> Factor:
    system = c.system
    system.same(source.atoms.reshape(groups, 1), out.atoms.reshape(groups, -1))
    cells = system.cells(out.atoms)
    system.balance(
        (cells.reshape(groups, -1), 1.0), (out.cells.reshape(groups, -1), -1.0),
        (source.cells.reshape(groups, 1), -1.0), why="depthwise convolution",
    )  # fmt: skip
    system.bend(out.atoms, "depthwise convolution")
    return Factor((1,), out.atoms, cells)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(c: Call) -> Value:
    return _transposed(c, c.args[0], c.args[1], c.get(6, "groups", 1))


def _transposed(c: Call, x: Value, weight: Value, groups: int) -> Value:
    x = _positions(c, _unbatched(c, x), weight)
    c.role(weight, dst=1, src=0)
    source, into, out = x.factor(1), weight.factor(0), weight.factor(1)
    if groups == 1:
        if into is not None:
            _tie(c, source, into)
        else:
            freeze(c.system, source, "a convolution of one channel")
    elif source is None or into is None or weight.param is None or len(source.axes) > 1 or len(into.axes) > 1:
        for f in (source, into, out):
            freeze(c.system, f, "a grouped transposed convolution of other forms")
        out = None
    else:
        return _outcome(
            c, with_bias(c, Value(_batched(c), (_split(c, weight, source, into, groups),)), c.get(2, "bias"))
        )
    result = Value(_batched(c), () if out is None else (out.on(1),))
    return _outcome(c, with_bias(c, result, c.get(2, "bias")))


def _split(c: Call, weight: Value, source: Factor, into: Factor, groups: int) -> Factor:
    """Outputs of a grouped transposed convolution: its columns mean other channels in every group of rows."""
    system, wide = c.system, weight.shape[1]
    inside = source.atoms.reshape(groups, -1)
    system.same(source.atoms, into.atoms)
    if inside.shape[1] == 1 and wide == 1:
        return _depthwise(c, source, into, groups)
    system.balance((source.cells, 1.0), (into.cells, 1.0), why="convolution")
    if wide == 1:
        atoms = system.bundles(inside)
        cells = system.cells(atoms)
        system.hold(cells, "a convolution of one output per group")
        return Factor((1,), atoms, cells)
    atoms = system.atoms(groups, wide)
    cells = system.cells(atoms)
    system.same(system.bundles(inside), system.bundles(atoms))
    c.split(weight, np.repeat(atoms, inside.shape[1], 0), np.repeat(cells, inside.shape[1], 0))
    return Factor((1,), atoms.reshape(-1), cells.reshape(-1))


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
            if not set(f.axes) <= set(axes):
                c.system.bundles(rows(f, axes))
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
    x = algebra.settle(c.system, c.args[0], range(2, len(c.args[0].shape)), f"{c.why} over these positions")
    if c.why == "native_group_norm":
        weight, bias, groups = c.args[1], c.args[2], c.args[6]
    elif c.why == "group_norm":
        groups, weight, bias = c.args[1], c.get(2, "weight"), c.get(3, "bias")
    else:
        weight, bias, groups = c.args[1], c.args[2], x.shape[1]
        if not c.get(5, "use_input_stats", True):
            moved = Call(c.system, c.name, c.target, c.args[:5], {}, c.shape, c.joint)
            return batch_norm(moved)
    f = x.factor(1)
    if f is not None and len(f.axes) == 1:
        alone = groups == x.shape[1]
        c.system.hold(f.cells, f"{c.why} over these neurons", sign=not alone)
        c.system.bend(f.atoms, f"{c.why} over these neurons")
        if groups > 1 and not alone:
            c.system.bundles(f.atoms.reshape(groups, -1))
    elif f is not None:
        freeze(c.system, f, c.why)
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
    x = algebra.settle(c.system, x, range(first, len(x.shape)), f"{c.why} runs over these positions")
    for f in x.factors if "max" in c.why else ():
        c.system.hold(f.cells, f"{c.why} allows positive scales only", scale=False)
        c.system.bend(f.atoms, c.why)
    many = isinstance(c.shape, list)
    out = Value(c.shape[0] if many else c.shape, x.factors, x.zero)
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
