"""scikit-learn's linear models, with scalers and an imputer before them, folded into one affine kernel.

The surprise: nothing is imported from scikit-learn; a class is known by its name and its fitted attributes, and parity
with the model itself is measured afterwards anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from flyball.registry.lowering.kernels import Affine, Link

__all__ = ["affine_of"]

_REGRESSORS = frozenset({
    "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "BayesianRidge",
    "ARDRegression", "HuberRegressor", "Lars", "LarsCV", "LassoLars", "LassoLarsCV", "SGDRegressor", "LinearSVR",
    "TheilSenRegressor", "QuantileRegressor", "OrthogonalMatchingPursuit", "PassiveAggressiveRegressor",
})  # fmt: skip
_EXPONENTIAL = frozenset({"PoissonRegressor", "GammaRegressor"})
_LOGISTIC = frozenset({"LogisticRegression", "LogisticRegressionCV"})
_AFFINE_STEPS = frozenset({"StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"})


def affine_of(model: Any) -> Affine | None:
    """Return the affine form of a fitted scikit-learn estimator or pipeline, or None when it has none."""
    if not type(model).__module__.startswith("sklearn."):
        return None
    steps = list(_steps(model))
    final = steps.pop()
    try:
        return _fold(steps, _final(final))
    except (AttributeError, TypeError, ValueError):  # another release names its parts differently
        return None


def _steps(model: Any) -> Iterator[Any]:
    if type(model).__name__ != "Pipeline":
        yield model
        return
    for _, step in model.steps:
        if step is None or step == "passthrough":
            continue
        yield from _steps(step)


def _final(model: Any) -> Affine | None:
    name = type(model).__name__
    link = _link(model, name)
    if link is None:
        return None
    weights = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64)).T
    bias = np.atleast_1d(np.asarray(model.intercept_, dtype=np.float64)).ravel()
    if weights.shape[1] > 1 and link != "softmax":
        return None
    bias = np.broadcast_to(bias, (weights.shape[1],))
    return Affine(link, weights, np.ascontiguousarray(bias))


def _link(model: Any, name: str) -> Link | None:
    if name in _REGRESSORS:
        return "identity"
    if name in _EXPONENTIAL:
        return "exp"
    if name in _LOGISTIC or (name == "SGDClassifier" and model.loss == "log_loss"):
        if len(model.classes_) == 2:
            return "logistic"
        return "softmax" if name in _LOGISTIC else None  # SGDClassifier divides by the sum of logistic values
    return None


def _fold(steps: list[Any], end: Affine | None) -> Affine | None:
    """Push scale and shift of the steps, last first, into the weights; an imputer may only come first."""
    if end is None:
        return None
    weights, bias, fill = end.weights, end.bias, None
    for place, step in reversed(list(enumerate(steps))):
        name = type(step).__name__
        if name == "SimpleImputer" and place == 0:
            fill = _fill(step, len(weights))
            if fill is None:
                return None
            continue
        if name not in _AFFINE_STEPS or getattr(step, "clip", False):
            return None
        scale, shift = _scale(step, name, len(weights))
        bias = bias + shift @ weights
        weights = weights * scale[:, None]
    return Affine(end.link, weights, bias, fill)


def _scale(step: Any, name: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, shift) of x * scale + shift."""
    if name == "MinMaxScaler":
        return np.asarray(step.scale_), np.asarray(step.min_)
    scale = 1.0 / np.asarray(step.scale_) if getattr(step, "scale_", None) is not None else np.ones(width)
    center = {"StandardScaler": "mean_", "RobustScaler": "center_"}.get(name)
    middle = getattr(step, center, None) if center else None
    if name == "StandardScaler" and not step.with_mean:
        middle = None
    return scale, np.zeros(width) if middle is None else -np.asarray(middle) * scale


def _fill(step: Any, width: int) -> np.ndarray | None:
    """Return what an imputer puts in place of NaN; None when it does anything else."""
    missing = step.missing_values
    fill = np.asarray(step.statistics_, dtype=np.float64)
    plain = isinstance(missing, float) and np.isnan(missing) and not step.add_indicator
    return fill if plain and fill.shape == (width,) and np.isfinite(fill).all() else None
