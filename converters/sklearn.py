"""Fitted multilayer perceptrons of scikit-learn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import Tensor, nn

from converters.loaded import Loaded
from converters.npz import cast
from graphnfn.errors import ConversionError

Estimator = MLPClassifier | MLPRegressor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "logistic": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softmax": lambda x: torch.softmax(x, -1),
    "exp": torch.exp,
}
"""Names that scikit-learn uses -> functions; ``softmax`` and ``exp`` on outputs only."""


class Perceptron(nn.Module):
    """h -> activation(h coefs_[i] + intercepts_[i]), with coefs_[i] of shape [in, out], for every layer i.

    Args:
        estimator: fitted.
    """

    def __init__(self, estimator: Estimator) -> None:
        super().__init__()
        self.coefs = nn.ParameterList(_parameter(a) for a in estimator.coefs_)
        self.intercepts = nn.ParameterList(_parameter(a) for a in estimator.intercepts_)
        self.hidden = ACTIVATIONS[str(estimator.activation)]
        self.output = ACTIVATIONS[str(estimator.out_activation_)]

    def forward(self, x: Tensor) -> Tensor:
        for coef, intercept in zip(self.coefs[:-1], self.intercepts[:-1], strict=True):
            x = self.hidden(x @ coef + intercept)
        return self.output(x @ self.coefs[-1] + self.intercepts[-1])


def _parameter(array: Any) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(array.copy()), requires_grad=False)


def load_sklearn(estimator: Estimator) -> Loaded:
    """A fitted MLPClassifier or MLPRegressor; the module computes ``predict_proba`` or ``predict``.

    Of two classes it gives the probability of the second, [batch, 1], as the network itself does.

    Raises:
        ConversionError: it is another estimator, or not fitted.

    Example:
        >>> from sklearn.neural_network import MLPRegressor
        >>> x = torch.randn(32, 3).numpy()
        >>> fitted = MLPRegressor(hidden_layer_sizes=(4,), solver="lbfgs", max_iter=2000).fit(x, x[:, 0])
        >>> loaded = load_sklearn(fitted)
        >>> list(loaded.names.values())
        ['coefs_[0]', 'coefs_[1]', 'intercepts_[0]', 'intercepts_[1]']
    """
    if not isinstance(estimator, Estimator):
        raise ConversionError(f"got a {type(estimator).__name__}, expected an MLPClassifier or MLPRegressor")
    if "coefs_" not in vars(estimator):
        raise ConversionError(f"this {type(estimator).__name__} is not fitted; call fit first")
    for name in (estimator.activation, estimator.out_activation_):
        if name not in ACTIVATIONS:
            raise ConversionError(f"got the activation {str(name)[:40]!r}, expected one of {', '.join(ACTIVATIONS)}")
    module = Perceptron(estimator).eval()
    generator, first = torch.Generator().manual_seed(0), module.coefs[0]
    inputs = torch.randn(2, first.shape[0], dtype=first.dtype, generator=generator)
    return Loaded(module, (inputs,), {name: _source_name(name) for name in module.state_dict()})


def _source_name(name: str) -> str:
    part, _, index = name.partition(".")
    return f"{part}_[{index}]"


def restore_sklearn(estimator: Estimator, tensors: Mapping[str, Any]) -> Estimator:
    """A copy of a fitted estimator in which some weights have other values; their dtypes stay.

    Args:
        estimator: left alone.
        tensors: name such as ``coefs_[0]`` -> tensor or array of the same shape.

    Raises:
        ConversionError: the estimator has no weight of such a name and shape.
    """
    known = set(load_sklearn(estimator).names.values())
    made = copy.deepcopy(estimator)
    for name, value in tensors.items():
        part, _, index = name.rstrip("]").partition("[")
        old = getattr(made, part)[int(index)] if name in known else None
        if old is None or old.shape != tuple(value.shape):
            got = "no such weight" if old is None else old.shape
            raise ConversionError(f"{name!r} has shape {tuple(value.shape)}; the estimator has {got} there")
        getattr(made, part)[int(index)] = cast(name, value, old.dtype)
    return made
