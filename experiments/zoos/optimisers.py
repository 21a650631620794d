"""SGD with momentum, Adam and RMSprop as one stacked update in which every network has its own rule and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
        self._rules, self._like = [RULES[kind] for kind in kinds], learning_rate
        self._rate, self._decay = learning_rate[:, None], weight_decay[:, None]
        self._keep = self._column([rule.keep for rule in self._rules])
        self._gain = self._column([rule.gain for rule in self._rules])
        self._second = self._column([rule.second for rule in self._rules])
        self._adaptive = torch.tensor([[rule.adaptive] for rule in self._rules])
        self._steps, self._first_moment, self._second_moment = 0, torch.empty(0), torch.empty(0)

    @torch.no_grad()
    def step(self, theta: Tensor, grad: Tensor) -> None:
        """One step in place; after the first step ``theta`` may hold the first rows only."""
        if self._steps == 0:
            self._first_moment, self._second_moment = torch.zeros_like(theta), torch.zeros_like(theta)
        self._steps += 1
        rows = slice(len(theta))
        keep, second = self._keep[rows], self._second[rows]
        grad = grad + self._decay[rows] * theta
        m, v = self._first_moment[rows], self._second_moment[rows]
        m.mul_(keep).add_(self._gain[rows] * grad)
        v.mul_(second).add_((1 - second) * grad * grad)
        # Powers of Python numbers: a tensor's power is rounded differently at the end of a long tensor.
        rules, n = self._rules[rows], self._steps
        first_sum = self._column([1 - rule.keep**n if rule.corrected else 1.0 for rule in rules])
        second_sum = self._column([1 - rule.second**n if rule.corrected else 1.0 for rule in rules])
        size = torch.where(self._adaptive[rows], (v / second_sum).sqrt() + _EPS, 1.0)
        theta.sub_(self._rate[rows] / first_sum * m / size)

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self._like.dtype, device=self._like.device)[:, None]
