"""Sign types of node features, and the conversion between them for every activation.

Under a sign flip s_i (and n_i half turns) a neuron's features are of three types:

- *even*: unchanged;
- *in-typed*: multiplied by s_i, like a pre-activation without its bias, or a message that arrives along w;
- *out-typed*: multiplied by phi(s_i) (-1)^n_i, like an activation, or a message that returns along w.

Products of two features of one type are even.  A scalar per neuron, ``turn``, made of the bias, converts
in-typed to out-typed and back, since it is multiplied by both signs: 1 for odd functions (s = phi(s)),
cos(omega b) for sin, sin(omega b) for cos, b for even functions without a period.  ``turned_bias`` is the bias
as an out-typed feature: b, sin(omega b), cos(omega b) and |b|.  Where no sign is free everything is allowed and
the plain bias is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphnfn.activations import Activation


def turn_and_bias(activation: Activation, signed: bool, bias: Tensor) -> tuple[Tensor, Tensor]:
    """``turn`` and ``turned_bias`` of neurons with one activation; see the module's text.

    Example:
        >>> turn, turned = turn_and_bias(Activation("sin", 2.0), True, torch.zeros(3))
        >>> turn.tolist(), turned.tolist()
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
    """
    if not signed:
        return torch.ones_like(bias), bias
    if activation.rule.half_turns:
        sine, cosine = torch.sin(activation.parameter * bias), torch.cos(activation.parameter * bias)
        return (cosine, sine) if activation.phi_sign else (sine, cosine)
    if activation.phi_sign:
        return torch.ones_like(bias), bias
    return bias, bias.abs()


def even_bias(activation: Activation, signed: bool, bias: Tensor) -> Tensor:
    """What of the bias is even: b itself, or ``|b|``, or ``|sin(omega b)|``."""
    if not signed:
        return bias
    return torch.sin(activation.parameter * bias).abs() if activation.rule.half_turns else bias.abs()


Parts = tuple[tuple[Activation, bool, Tensor | None], ...]
"""The activations of some neurons, whether their sign is free, and the mask of who has them (None: all)."""


def turns_and_biases(parts: Parts, bias: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`turn_and_bias` of neurons with one activation or several."""
    if len(parts) == 1:
        return turn_and_bias(*parts[0][:2], bias)
    turn = turned = torch.zeros_like(bias)
    for act, sign, rows in parts:
        one, two = turn_and_bias(act, sign, bias)
        turn = one if rows is None else torch.where(rows, one, turn)
        turned = two if rows is None else torch.where(rows, two, turned)
    return turn, turned


def even_biases(parts: Parts, bias: Tensor) -> Tensor:
    """:func:`even_bias` of neurons with one activation or several."""
    if len(parts) == 1:
        return even_bias(*parts[0][:2], bias)
    even = torch.zeros_like(bias)
    for act, sign, rows in parts:
        one = even_bias(act, sign, bias)
        even = one if rows is None else torch.where(rows, one, even)
    return even
