"""Numbers that say how good predictions are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import r2_score
from torch import Tensor

TITLES = {"tau": "Kendall τ", "r2": "R²", "accuracy": "accuracy", "mse": "MSE", "gain": "share of MSE removed"}
"""Measures, as people read them."""

SMALLER = frozenset({"mse"})
"""Measures of which less is better; of all others more is."""


def goodness(measure: str) -> float:
    """The factor that makes more better, -1 or 1.

    Example:
        >>> goodness("mse"), goodness("tau")
        (-1.0, 1.0)
    """
    return -1.0 if measure in SMALLER else 1.0


def written(measure: str, value: float) -> str:
    """A value as people read it: three decimals, four of R², which comes close to 1, or powers of ten towards 0.

    Example:
        >>> written("tau", 0.81234), written("r2", 0.99921), written("mse", 0.0012345)
        ('0.812', '0.9992', '1.23e-03')
    """
    return f"{value:.2e}" if measure in SMALLER else f"{value:.{4 if measure == 'r2' else 3}f}"


def finite(predictions: Tensor) -> Tensor:
    """Predictions of which overflow counts as an extreme one, and NaN as a useless one.

    Example:
        >>> import torch
        >>> finite(torch.tensor([1.0, float("nan")])).tolist()
        [1.0, 0.0]
    """
    return torch.nan_to_num(predictions, nan=0.0, posinf=1e30, neginf=-1e30)


def kendall_tau(prediction: Tensor, label: Tensor) -> float:
    """Kendall's tau-b; 0 where all predictions are equal, because they order nothing.

    Example:
        >>> import torch
        >>> kendall_tau(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0]))
        1.0
    """
    found: Any = stats.kendalltau(prediction.numpy(), label.numpy())
    return 0.0 if math.isnan(found.statistic) else float(found.statistic)


def tie_fraction(label: Tensor) -> float:
    """Share of the pairs whose labels are equal.

    Example:
        >>> import torch
        >>> round(tie_fraction(torch.tensor([1.0, 1.0, 2.0])), 3)
        0.333
    """
    counts = np.unique(label.numpy(), return_counts=True)[1].astype(float)
    return float((counts * (counts - 1)).sum() / (len(label) * (len(label) - 1)))


def tie_ceiling(label: Tensor) -> float:
    """The best tau-b that predictions without ties can reach, ``(1 - tie_fraction)^(1/2)``.

    Example:
        >>> import torch
        >>> round(tie_ceiling(torch.tensor([1.0, 1.0, 2.0])), 3)
        0.816
    """
    return math.sqrt(1 - tie_fraction(label))


def r_squared(prediction: Tensor, label: Tensor) -> float:
    """Share of the labels' variance that the predictions explain."""
    return float(r2_score(label.numpy(), prediction.numpy()))


def accuracy(prediction: Tensor, label: Tensor) -> float:
    """Share of equal entries."""
    return float((prediction == label).float().mean())
