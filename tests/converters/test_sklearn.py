"""scikit-learn's perceptrons: the module computes what the estimator predicts, and weights go back."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor

from converters.sklearn import load_sklearn, restore_sklearn
from graphnfn.errors import ConversionError


def data(dtype="f8"):
    return np.random.default_rng(0).normal(size=(60, 5)).astype(dtype)


def fitted(kind, target, dtype="f8", **settings):
    estimator = kind(hidden_layer_sizes=(7, 6), max_iter=5, random_state=0, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(data(dtype), target(data(dtype)))


def several(x):
    return np.digitize(x[:, 0], [-0.5, 0.5])


CASES = {
    "classes": lambda: fitted(MLPClassifier, several, activation="relu"),
    "two classes": lambda: fitted(MLPClassifier, lambda x: x[:, 0] > 0, activation="tanh"),
    "labels": lambda: fitted(MLPClassifier, lambda x: (x[:, :3] > 0).astype(int), activation="logistic"),
    "regression": lambda: fitted(MLPRegressor, lambda x: x[:, :2], activation="identity"),
    "float32": lambda: fitted(MLPRegressor, lambda x: x[:, 0], "f4", activation="tanh"),
    "poisson": lambda: fitted(MLPRegressor, lambda x: np.exp(x[:, 0]), loss="poisson"),
}


def predicted(estimator, x):
    if isinstance(estimator, MLPRegressor):
        return np.asarray(estimator.predict(x)).reshape(len(x), -1)
    out = np.asarray(estimator.predict_proba(x))
    return out[:, 1:] if out.shape[1] == 2 else out


@pytest.mark.parametrize("case", CASES)
def test_module_predicts_what_the_estimator_predicts(case):
    estimator = CASES[case]()
    loaded = load_sklearn(estimator)
    dtype = loaded.inputs[0].dtype
    x = data("f4" if dtype == torch.float32 else "f8")
    exported = torch.export.export(loaded.module, (torch.from_numpy(x),), strict=False).module()
    for network in (loaded.module, exported):
        error = np.abs(network(torch.from_numpy(x)).numpy() - predicted(estimator, x)).max()
        assert error <= (1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_weights_go_back_to_the_bit(case):
    estimator = CASES[case]()
    loaded = load_sklearn(estimator)
    tensors = {loaded.names[name]: value for name, value in loaded.module.state_dict().items()}
    assert len(tensors) == 6
    back = restore_sklearn(estimator, tensors)
    for part in ("coefs_", "intercepts_"):
        for old, new in zip(getattr(estimator, part), getattr(back, part), strict=True):
            assert old.dtype == new.dtype
            assert old.tobytes() == new.tobytes()
    moved = restore_sklearn(estimator, {"coefs_[0]": 2 * tensors["coefs_[0]"]})
    assert not np.allclose(predicted(moved, data()), predicted(estimator, data()))
    assert np.array_equal(predicted(back, data()), predicted(estimator, data()))


def test_permuted_neurons_predict_the_same():
    estimator = CASES["classes"]()
    order = torch.randperm(7)
    first, bias, second = (
        torch.from_numpy(a) for a in (*estimator.coefs_[:1], estimator.intercepts_[0], estimator.coefs_[1])
    )
    moved = {"coefs_[0]": first[:, order], "intercepts_[0]": bias[order], "coefs_[1]": second[order]}
    assert np.allclose(predicted(restore_sklearn(estimator, moved), data()), predicted(estimator, data()), atol=1e-12)
    del moved["coefs_[1]"]  # half a permutation is another function
    assert not np.allclose(predicted(restore_sklearn(estimator, moved), data()), predicted(estimator, data()))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (MLPClassifier(), "not fitted"),
        (LogisticRegression(), "got a LogisticRegression, expected an MLPClassifier"),
    ],
)
def test_other_estimators_are_refused(bad, message):
    with pytest.raises(ConversionError, match=message):
        load_sklearn(bad)


@pytest.mark.parametrize("name", ["coefs_[9]", "coefs_[0]", "classes_[0]", "__class__"])
def test_weights_that_do_not_fit_are_refused(name):
    with pytest.raises(ConversionError, match="the estimator has"):
        restore_sklearn(CASES["classes"](), {name: torch.zeros(2, 2)})
