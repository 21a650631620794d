"""Rules of operators that act on every entry: activations, sums, products, powers."""

from __future__ import annotations

from typing import Any

from converters.gauge import algebra, shapes
from converters.gauge.calls import Call, rule
from converters.gauge.values import Factor, Value, rows


def _bend(c: Call, value: Value) -> None:
    for f in value.factors:
        c.system.bend(f.atoms, c.why)
        c.system.note(f.atoms, c.why)


@rule("relu", "relu_", "leaky_relu", "leaky_relu_", "rrelu")
def homogeneous(c: Call) -> Value:
    """``f(g x) = g f(x)`` for g > 0."""
    value = c.args[0]
    _bend(c, value)
    return _positive(c, value)


def _positive(c: Call, value: Value) -> Value:
    for f in value.factors:
        c.system.hold(f.cells, f"{c.why} allows positive scales only", scale=False)
    return value


def _held(c: Call, value: Value) -> Value:
    for f in value.factors:
        c.system.hold(f.cells, f"{c.why} allows no scale")
    return value


@rule("tanh", "tanh_", "sin", "erf", "asinh", "atan", "softsign", "hardtanh", "softshrink", "sinh", "tan", "arctan",
      "asin", "arcsinh", "hardshrink", "clamp", "clip", "clamp_", "hardtanh_")  # fmt: skip
def odd(c: Call) -> Value:
    """``f(-x) = -f(x)``."""
    value = c.args[0]
    _bend(c, value)
    if c.why in ("hardtanh", "hardtanh_", "clamp", "clip", "clamp_"):
        low, high = (c.get(1, "min_val", -1.0), c.get(2, "max_val", 1.0)) if "hard" in c.why else (
            c.get(1, "min"), c.get(2, "max"))  # fmt: skip
        if isinstance(low, Value) or isinstance(high, Value):
            return _clamped(c, value, [v for v in (low, high) if v is not None])
        if (low, high) in ((0, None), (None, 0)):
            return homogeneous(c)
        if low is None or high is None or low != -high:
            return curved(c)
    for f in value.factors:
        c.system.hold(f.cells, f"{c.why} allows signs only", sign=False)
    return Value(value.shape, value.factors, value.zero)


def _clamped(c: Call, value: Value, limits: list[Any]) -> Value:
    for limit in limits:
        if isinstance(limit, Value):
            value = _positive(c, algebra.add(c.system, value, limit, c.why))
        else:
            value = _held(c, value)
    return value


@rule("eq", "ne", "lt", "gt", "le", "ge", "logical_and", "logical_or", "logical_not", "isnan", "isinf")
def compared(c: Call) -> Value:
    """Signs of the values, or of differences: positive scales change nothing, and nothing of them is left."""
    values = [v for v in c.args if isinstance(v, Value)]
    numbers = [a for a in c.args if isinstance(a, (int, float))]
    for value in values:
        _bend(c, value)
        _positive(c, value) if not any(numbers) else _held(c, value)
    out = values[0]
    for other in values[1:]:
        out = algebra.add(c.system, out, other, c.why)
    return Value(out.shape, tuple(_fresh(c, f) for f in out.factors), flat=out.flat)


@rule("sign", "sgn")
def signs(c: Call) -> Value:
    """The sign passes, the scale ends here."""
    _bend(c, c.args[0])
    out = []
    for f in c.args[0].factors:
        cells = c.system.cells(f.atoms)
        c.system.hold(cells, "sign drops the scale", sign=False)
        c.system.balance((cells, 1.0), (f.cells, 1.0), why="sign", scale=False)
        out.append(Factor(f.axes, f.atoms, cells))
    return Value(c.shape, tuple(out))


def _fresh(c: Call, f: Factor) -> Factor:
    cells = c.system.cells(f.atoms)
    c.system.hold(cells, f"{c.why} leaves no scale")
    return Factor(f.axes, f.atoms, cells)


@rule("cos", "cosh")
def even(c: Call) -> Value:
    """``f(-x) = f(x)``: the sign ends here."""
    value = c.args[0]
    _bend(c, value)
    out = []
    for f in value.factors:
        c.system.hold(f.cells, f"{c.why} allows signs only", sign=False)
        cells = c.system.cells(f.atoms)
        c.system.hold(cells, f"{c.why} is even")
        out.append(Factor(f.axes, f.atoms, cells))
    return Value(value.shape, tuple(out))


@rule("abs")
def absolute(c: Call) -> Value:
    """``|g x| = |g| |x|``."""
    value = c.args[0]
    _bend(c, value)
    return Value(value.shape, tuple(algebra.powered(c.system, _unsigned(c, f), 1.0, "abs") for f in value.factors))


def _unsigned(c: Call, f: Factor) -> Factor:
    cells = c.system.cells(f.atoms)
    c.system.balance((cells, 1.0), (f.cells, -1.0), why=c.why, sign=False)
    c.system.hold(cells, f"{c.why} drops the sign", scale=False)
    return Factor(f.axes, f.atoms, cells)


@rule("sqrt", "rsqrt", "reciprocal", "square")
def root(c: Call) -> Value:
    value = c.args[0]
    _bend(c, value)
    if c.why == "square":
        return _power(c, value, 2.0)
    if c.why == "reciprocal":
        return _power(c, value, -1.0)
    for f in value.factors:
        c.system.hold(f.cells, f"{c.why} allows positive scales only", scale=False)
    return _power(c, value, 0.5 if c.why == "sqrt" else -0.5)


def _power(c: Call, value: Value, power: float) -> Value:
    return Value(value.shape, tuple(algebra.powered(c.system, f, power, c.why) for f in value.factors))


@rule("pow")
def power(c: Call) -> Value:
    value, exponent = c.args[0], c.args[1]
    if not isinstance(value, Value) or isinstance(exponent, Value):
        return curved(c)
    _bend(c, value)
    if float(exponent) != int(exponent):
        for f in value.factors:
            c.system.hold(f.cells, f"{c.why} allows positive scales only", scale=False)
    return _power(c, value, float(exponent))


@rule(
    "gelu", "silu", "silu_", "sigmoid", "sigmoid_", "softplus", "elu", "elu_", "selu", "celu", "mish", "hardswish",
    "hardsigmoid", "exp", "log", "log1p", "expm1", "relu6", "log_sigmoid", "threshold", "floor", "ceil",
    "round", "hardswish_", "erfc", "acos", "acosh", "trunc", "nan_to_num", "logit", "log2", "log10", "erfinv",
    "remainder", "fmod", "hardsigmoid_", "exp2", "polar", "logaddexp", "atan2",
    "bitwise_left_shift", "clamp_min", "clamp_max", "floor_divide", "selu_", "mish_",
)  # fmt: skip
def curved(c: Call) -> Any:
    """No scale and no sign passes; permutations do."""
    values = [v for v in c.args if isinstance(v, Value)]
    if c.why == "clamp_min" and not isinstance(c.args[1], Value) and c.args[1] == 0:
        return homogeneous(c)
    for value in values:
        _bend(c, value)
        for f in value.factors:
            c.system.hold(f.cells, f"{c.why} allows no scale")
    out = values[0]
    for other in values[1:]:
        out = algebra.add(c.system, out, other, c.why)
    return Value(out.shape, out.factors, flat=out.flat)


@rule("glu")
def gated(c: Call) -> Value:
    """``a sigmoid(b)`` of the two halves of an axis."""
    axis = c.get(1, "dim", -1)
    half = c.shape[axis % len(c.shape)]
    a = shapes.take(c.args[0], axis, lambda x: x[:half], half)
    b = shapes.take(c.args[0], axis, lambda x: x[half:], half)
    _bend(c, b)
    return algebra.mul(c.system, a, _held(c, b), "multiplication")


@rule("maximum", "minimum", "fmax", "fmin")
def larger(c: Call) -> Value:
    """``max(g a, g b) = g max(a, b)`` for g > 0."""
    for value in c.args[:2]:
        _bend(c, value)
        _positive(c, value)
    return algebra.add(c.system, c.args[0], c.args[1], c.why)


@rule("neg", "neg_")
def passed(c: Call) -> Value:
    return c.args[0]


@rule("add", "add_", "sub", "sub_", "rsub")
def added(c: Call) -> Value:
    a, b = c.args[0], c.args[1]
    if isinstance(a, Value) and isinstance(b, Value):
        return algebra.add(c.system, a, b, "addition")
    value, number = (a, b) if isinstance(a, Value) else (b, a)
    if number:
        for f in value.factors:
            c.system.hold(f.cells, f"{c.why} of a number")
            c.system.bend(f.atoms, f"{c.why} of a number")
    return Value(value.shape, value.factors, value.zero and not number)


@rule("mul", "mul_", "div", "div_")
def multiplied(c: Call) -> Value:
    a, b = c.args[0], c.args[1]
    sign = 1.0 if c.why.startswith("mul") else -1.0
    if c.get(2, "rounding_mode"):
        return curved(c)
    if isinstance(a, Value) and isinstance(b, Value):
        if a is b:
            _bend(c, a)
            return _power(c, a, 2.0) if sign > 0 else curved(c)
        return algebra.mul(c.system, a, b, "multiplication" if sign > 0 else "division", sign)
    return a if isinstance(a, Value) else (b if sign > 0 else _power(c, b, -1.0))


@rule("where", "masked_fill", "masked_fill_", "lerp")
def chosen(c: Call) -> Value:
    """``mask ? a : b``: both sides alike, and the mask with them."""
    if c.why == "where":
        mask, a, b = c.args
    elif c.why == "lerp":
        a, b, mask = c.args
    else:
        a, mask, b = c.args
    a = a if isinstance(a, Value) else Value((), zero=a == 0)
    b = b if isinstance(b, Value) else Value((), zero=b == 0)
    out = algebra.add(c.system, a, b, c.why)
    if not isinstance(mask, Value):
        return out
    for value in (out, mask):
        _bend(c, value)
    _held(c, mask)
    return algebra.mul(c.system, out, mask, c.why) if not out.zero else Value(c.shape, zero=True)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "linalg_vector_norm", "norm",
      "logsumexp", "cdist", "cosine_similarity")  # fmt: skip
def normalised(c: Call) -> Any:
    """Ratios over an axis: no scale there; permutations pass."""
    value = c.args[0]
    _bend(c, value)
    if "norm" in c.why:
        value = absolute(c)
        _bend(c, value)
    else:
        _held(c, value)
    if "softm" in c.why:
        for f in value.factors:
            if len(f.axes) > 1 and c.args[1] % len(value.shape) in f.axes:
                c.system.bundles(rows(f, [c.args[1] % len(value.shape)]))
        return value
    if c.why in ("cdist", "cosine_similarity") or isinstance(c.shape, list):
        return None
    axes = c.get(2, "dim") if c.why != "logsumexp" else c.get(1, "dim")
    axes = [] if axes is None else ([axes] if isinstance(axes, int) else list(axes))
    keep = len(c.shape) == len(value.shape)
    return algebra.reduce(c.system, value, axes, c.why, keepdim=keep, linear=False)


@rule("prelu", "_prelu_kernel")
def prelu(c: Call) -> Value:
    """``max(x, 0) + slope min(x, 0)`` with a slope per channel or one for all."""
    value, slope = c.args
    _bend(c, value)
    _positive(c, value)
    for f in slope.factors:
        c.system.hold(f.cells, "slopes have no scale")
    if c.why == "prelu" and slope.shape != (1,) and len(value.shape) > 1:
        f = slope.factor(0)
        lifted = Value((slope.shape[0], *(1,) * (len(value.shape) - 2)), () if f is None else (f.on(0),))
        return algebra.mul(c.system, value, lifted, "prelu")
    return algebra.mul(c.system, value, slope, "prelu")


@rule("_weight_norm_interface", "_weight_norm")
def weight_norm(c: Call) -> Any:
    """``g v / |v|`` per row: scales of the direction end here, its signs pass."""
    v, g, axis = c.args[0], c.args[1], c.get(2, "dim", 0)
    factors = []
    for f in v.factors:
        c.system.bend(f.atoms, "a weight norm")
        if f.axes != (axis % len(v.shape),):
            c.system.hold(f.cells, "a weight norm over these neurons", sign=False)
            factors.append(f)
            continue
        cells = c.system.cells(f.atoms)
        c.system.hold(cells, "a weight norm", sign=False)
        c.system.balance((cells, 1.0), (f.cells, 1.0), why="a weight norm", scale=False)
        factors.append(Factor(f.axes, f.atoms, cells))
    c.role(v, dst=0, src=1)
    out = algebra.mul(c.system, Value(v.shape, tuple(factors)), g, "a weight norm")
    return [out, Value(c.shape[1])] if isinstance(c.shape, list) else out
