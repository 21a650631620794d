"""SGD with momentum, Adam and RMSprop as one stacked update in which every network has its own rule and settings."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.zoos.compiled import INT, REAL, call, can_compile, fields
from graphnfn.errors import ZooError


@dataclass(frozen=True)
class Rule:
    """m <- keep m + gain g, v <- second v + (1 - second) g^2, step m, over v^(1/2) where adaptive.

    Args:
        corrected: whether m and v are divided by what their weights sum to so far.
    """

    keep: float
    gain: float
    second: float
    adaptive: bool
    corrected: bool


RULES = {
    "sgd": Rule(keep=0.9, gain=1.0, second=0.0, adaptive=False, corrected=False),
    "adam": Rule(keep=0.9, gain=0.1, second=0.999, adaptive=True, corrected=True),
    "rmsprop": Rule(keep=0.0, gain=1.0, second=0.99, adaptive=True, corrected=False),
}
"""The settings of torch.optim's defaults, SGD with momentum 0.9."""

_EPS = 1e-8
_AHEAD = 50
"""Steps whose corrections are worked out at once."""


class _Task(ctypes.Structure):
    _fields_ = [
        *fields(INT, "columns decays"),
        ("most", REAL),
        *fields(INT, "theta grad m v decay keep gain second add least rate adaptive"),
    ]


class StackedOptimiser:
    """Updates the flat parameters of many networks, ``[B, P]``, each row by its own rule.

    Args:
        kinds: per network, a key of :data:`RULES`.
        learning_rate: per network.
        weight_decay: per network; the gradient of ``weight_decay / 2 |theta|^2`` is added to the gradient.

    Raises:
        ZooError: a kind is unknown.

    Example:
        >>> theta = torch.ones(2, 3)
        >>> StackedOptimiser(["sgd", "adam"], torch.tensor([0.1, 0.1]), torch.zeros(2)).step(theta, torch.ones(2, 3))
        >>> theta[:, 0]
        tensor([0.9000, 0.9000])
    """

    def __init__(self, kinds: Sequence[str], learning_rate: Tensor, weight_decay: Tensor) -> None:
        unknown = [kind for kind in kinds if kind not in RULES]
        if unknown:
            raise ZooError(f"unknown optimiser {unknown[0]!r}; known: {', '.join(RULES)}")
        self._like = learning_rate
        self._kinds = torch.tensor([list(RULES).index(kind) for kind in kinds])
        self._rate, self._decay = learning_rate[:, None], weight_decay[:, None]
        self._decays = bool((weight_decay != 0).any())
        rules = RULES.values()
        self._keep, self._gain = self._column([r.keep for r in rules]), self._column([r.gain for r in rules])
        self._second = self._column([r.second for r in rules])
        self._new = self._column([1 - r.second for r in rules])
        self._least = self._column([_EPS if r.adaptive else 1.0 for r in rules])
        self._steps, self._compiled = 0, False
        self._moments: tuple[Tensor, ...] = ()
        self._rows: tuple[Tensor, ...] = ()
        self._corrections: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def step(self, theta: Tensor, grad: Tensor, most: float = math.inf) -> None:
        """One step in place; after the first step ``theta`` may hold the first rows only.

        Args:
            theta: ``[k, P]``.
            grad: of the same shape; it is overwritten, as every operation writes into memory that is there.
            most: gradients of networks that are longer are shortened to this norm.
        """
        if not self._moments:
            self._moments = torch.zeros_like(theta), torch.zeros_like(theta), torch.empty_like(theta)
            self._compiled = can_compile(theta) and theta.dtype == self._rate.dtype
        if not self._rows or len(self._rows[0]) != len(theta) or not self._corrections:
            columns = (self._decay, self._keep, self._gain, self._second, self._new, self._least)
            self._rows = tuple(t[: len(theta)] for t in (*self._moments, *columns))
            self._corrections = self._ahead(len(theta))
        m, v, size, decay, keep, gain, second, new, least = self._rows
        rate, adaptive = self._corrections.pop()
        self._steps += 1
        if self._compiled and theta.is_contiguous() and grad.is_contiguous():
            numbers = (theta, grad, m, v, decay, keep, gain, second, new, least, rate, adaptive)
            task = _Task(theta.shape[1], self._decays, most, *(t.data_ptr() for t in numbers))
            call("optimise", task, theta, len(theta))
            return
        if most < math.inf:
            grad.div_(torch.linalg.vector_norm(grad, dim=1, keepdim=True).clamp_(min=most).div_(most))
        if self._decays:
            grad.addcmul_(theta, decay)
        m.mul_(keep).addcmul_(grad, gain)
        v.mul_(second).addcmul_(torch.mul(grad, grad, out=size), new)
        torch.sqrt(v, out=size).mul_(adaptive).add_(least)
        theta.addcmul_(torch.div(m, size, out=size), rate)

    def _ahead(self, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Of the next steps, the last one first: minus the rate over the first sum, 1 over the root of the second.

        Powers of Python numbers: a tensor's power is rounded differently at the end of a long tensor.
        """
        found = []
        for n in range(self._steps + _AHEAD, self._steps, -1):
            first = [1 - r.keep**n if r.corrected else 1.0 for r in RULES.values()]
            second = [(1 - r.second**n) ** -0.5 if r.corrected else float(r.adaptive) for r in RULES.values()]
            found.append((-(self._rate / self._column(first))[:rows], self._column(second)[:rows]))
        return found

    def _column(self, by_rule: Sequence[float]) -> Tensor:
        """A value per network from a value per rule."""
        values = torch.tensor(by_rule, dtype=self._like.dtype, device=self._like.device)
        return values[self._kinds][:, None]
