"""Rules of operators that act on every entry: activations, sums, products, powers."""

from __future__ import annotations

from typing import Any

from converters.gauge import algebra
from converters.gauge.calls import Call, rule
from converters.gauge.values import Factor, Value, freeze_all


def _bend(c: Call, value: Value) -> None:
    for f in value.factors:
        c.system.bend(f.atoms, c.why)
        c.system.note(f.atoms, c.why)


@rule("relu", "relu_", "leaky_relu", "leaky_relu_", "rrelu")
def homogeneous(c: Call) -> Value:
    """``f(g x) = g f(x)`` for g > 0."""
    value = c.args[0]
    _bend(c, value)
    for f in value.factors:
        c.system.hold(f.cells, f"{c.why} allows positive scales only", scale=False)
    return Value(value.shape, value.factors, value.zero)


@rule("tanh", "tanh_", "sin", "erf", "asinh", "atan", "softsign", "hardtanh", "softshrink", "sinh", "tan", "arctan",
      "asin", "arcsinh", "hardshrink", "clamp", "clip", "clamp_", "sign", "hardtanh_")  # fmt: skip
def odd(c: Call) -> Value:
    """``f(-x) = -f(x)``."""
    value = c.args[0]
    _bend(c, value)
    if c.why in ("hardtanh", "hardtanh_", "clamp", "clip", "clamp_"):
        low, high = (c.get(1, "min_val", -1.0), c.get(2, "max_val", 1.0)) if "hard" in c.why else (
            c.get(1, "min"), c.get(2, "max"))  # fmt: skip
        one_sided = low == 0 and high is None
        if one_sided:
            return homogeneous(c)
        if low is None or high is None or low != -high:
            return curved(c)
    for f in value.factors:
        c.system.hold(f.cells, f"{c.why} allows signs only", sign=False)
    return Value(value.shape, value.factors, value.zero)


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
        out.append(Factor(f.axes, f.atoms, cells, f.outer))
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
    return Factor(f.axes, f.atoms, cells, f.outer)


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
    "hardsigmoid", "exp", "log", "log1p", "expm1", "relu6", "log_sigmoid", "threshold", "glu", "floor", "ceil",
    "round", "hardswish_", "erfc", "acos", "acosh", "trunc", "nan_to_num", "logit", "log2", "log10", "erfinv",
    "remainder", "fmod", "hardsigmoid_", "exp2", "polar", "logaddexp", "minimum", "maximum", "atan2",
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
    if c.why == "glu":
        axis = c.get(1, "dim", -1)
        from converters.gauge import shapes

        half = c.shape[axis % len(c.shape)]
        left = shapes.take(values[0], axis, lambda x: x[:half], half)
        right = shapes.take(values[0], axis, lambda x: x[half:], half)
        return algebra.mul(c.system, left, right, c.why)
    out = values[0]
    for other in values[1:]:
        out = algebra.add(c.system, out, other, c.why)
    return Value(out.shape, out.factors)


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
    """``mask ? a : b``: both sides alike; a mask that knows neurons fixes them."""
    if c.why == "where":
        mask, a, b = c.args
    elif c.why == "lerp":
        a, b, mask = c.args
    else:
        a, mask, b = c.args
    if isinstance(mask, Value):
        freeze_all(c.system, mask, "a mask reads its values")
    a = a if isinstance(a, Value) else Value((), zero=a == 0)
    b = b if isinstance(b, Value) else Value((), zero=b == 0)
    out = algebra.add(c.system, a, b, c.why)
    if isinstance(mask, Value):
        out = algebra.mul(c.system, out, mask, c.why)
    return out


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "softmin", "normalize", "linalg_vector_norm", "norm",
      "logsumexp", "cdist", "cosine_similarity")  # fmt: skip
def normalised(c: Call) -> Any:
    """Ratios over an axis: no scale there; permutations pass."""
    value = c.args[0]
    _bend(c, value)
    for f in value.factors:
        c.system.hold(f.cells, f"{c.why} allows no scale")
    if tuple(c.shape) == value.shape:
        return value
    if c.why in ("cdist", "cosine_similarity"):
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
    for f in value.factors:
        c.system.hold(f.cells, "prelu allows positive scales only", scale=False)
    for f in slope.factors:
        c.system.hold(f.cells, "slopes have no scale")
    if c.why == "prelu" and slope.shape != (1,) and len(value.shape) > 1:
        f = slope.factor(0)
        lifted = Value((slope.shape[0], *(1,) * (len(value.shape) - 2)), () if f is None else (f.on(0),))
        return algebra.mul(c.system, value, lifted, "prelu")
    return algebra.mul(c.system, value, slope, "prelu")
