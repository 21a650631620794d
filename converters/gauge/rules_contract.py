"""Rules of matrix products, bilinear forms and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from converters.gauge import algebra, shapes
from converters.gauge.calls import Call, rule
from converters.gauge.values import Value


def with_bias(c: Call, out: Value, bias: Any, axis: int = 1) -> Value:
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
    return with_bias(c, out, c.get(2, "bias"), -1)


@rule("addmm")
def addmm(c: Call) -> Value:
    bias, a, b = c.args[:3]
    c.role(b, dst=1, src=0)
    return with_bias(c, algebra.contract(c.system, a, b, 1, 0, [], "addmm"), bias, -1)


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


@rule("bilinear")
def bilinear(c: Call) -> Value:
    """``y_o = sum_ij a_i W_oij b_j``."""
    a, b, weight = c.args[:3]
    c.role(weight, dst=0, src=1)
    c.role(weight, src=2)
    lead = [(k, k) for k in range(len(a.shape) - 1)]
    half = algebra.contract(c.system, a, weight, -1, 1, [], c.why)  # [.., o, j]
    out = algebra.contract(c.system, half, b, -1, -1, lead, c.why)
    return with_bias(c, out, c.get(3, "bias"), -1)


@rule("baddbmm")
def baddbmm(c: Call) -> Value:
    start, a, b = c.args[:3]
    out = algebra.contract(c.system, a, b, 2, 1, [(0, 0)], c.why)
    return out if c.get(3, "beta", 1) == 0 else algebra.add(c.system, out, start, "addition")


@rule("einsum")
def einsum(c: Call) -> Value | None:
    """A sum of products by letters, two operands at a time."""
    text, operands = c.args[0].replace(" ", ""), list(c.args[1])
    left, _, out = text.partition("->")
    parts = left.split(",")
    if "." in text or "->" not in text or any(len(set(p)) < len(p) for p in parts):
        return None
    value, letters = operands[0], parts[0]
    if len(parts) == 1:
        return _ordered(c, _summed(c, value, letters, out), out)
    for k in range(1, len(parts)):
        keep = out if k == len(parts) - 1 else "".join(parts[k + 1 :]) + out
        value, letters = _product(c, (value, letters), (operands[k], parts[k]), keep)
    return _ordered(c, (value, letters), out)


def _summed(c: Call, value: Value, letters: str, keep: str) -> tuple[Value, str]:
    gone = [k for k, letter in enumerate(letters) if letter not in keep]
    if gone:
        value = algebra.reduce(c.system, value, gone, c.why, keepdim=False, linear=True)
    return value, "".join(letter for letter in letters if letter in keep)


def _ordered(c: Call, named: tuple[Value, str], out: str) -> Value:
    return shapes.permute(named[0], [named[1].index(letter) for letter in out])


def _product(c: Call, first: tuple[Value, str], second: tuple[Value, str], keep: str) -> tuple[Value, str]:
    a, la = _summed(c, *first, keep + second[1])
    b, lb = _summed(c, *second, keep + first[1])
    both = [x for x in la if x in lb and x in keep]
    inner = [x for x in la if x in lb and x not in keep]
    rest_a, rest_b = [x for x in la if x not in lb], [x for x in lb if x not in la]
    a = shapes.permute(a, [la.index(x) for x in (*both, *rest_a, *inner)])
    b = shapes.permute(b, [lb.index(x) for x in (*both, *rest_b, *inner)])
    letters = "".join((*both, *rest_a, *rest_b))
    n = len(both)
    if not inner:
        a = shapes.reshape(c.system, a, (*a.shape, *(1 for _ in rest_b)))
        b = shapes.reshape(c.system, b, (*b.shape[:n], *(1 for _ in rest_a), *b.shape[n:]))
        return algebra.mul(c.system, a, b, c.why), letters
    a, b = _merged(c, a, len(inner)), _merged(c, b, len(inner))
    return algebra.contract(c.system, a, b, -1, -1, [(k, k) for k in range(n)], c.why), letters


def _merged(c: Call, value: Value, axes: int) -> Value:
    head: Sequence[int] = value.shape[: len(value.shape) - axes]
    size = int(np.prod(value.shape[len(head) :]))
    return shapes.reshape(c.system, value, (*head, size))


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
