"""Exact contributions of linear models: coefficient times distance from the background's mean.

For features taken as independent these are the Shapley values of the margin (Štrumbelj and Kononenko 2014, section 3).
The surprise: a pipeline of scalers and imputers before the model changes nothing, because each works on one column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flyball.serving.contributions.types import Space

__all__ = ["LinearModel", "linear_model", "unwrap"]

_COLUMNWISE = frozenset({
    "StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler", "SimpleImputer", "PowerTransformer",
    "QuantileTransformer",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class LinearModel:
    """`coefficients` (k, c), the background's `mean` (k,) and the `base` (c,) margin there."""

    coefficients: np.ndarray
    mean: np.ndarray
    base: np.ndarray
    space: Space

    def contributions(self, matrix: np.ndarray) -> np.ndarray:
        """Return contributions (n, k, c) of a matrix (n, k)."""
        return np.asarray((matrix - self.mean)[:, :, None] * self.coefficients)


def linear_model(model: Any, background: np.ndarray) -> LinearModel | None:
    """Return a scikit-learn linear model over a background (m, k), None for another kind.

    Args:
        model: A fitted estimator of sklearn.linear_model or a linear support vector machine.
        background: Rows in the model's own columns.
    """
    home = type(model).__module__
    if not home.startswith(("sklearn.linear_model.", "sklearn.svm.")) or not hasattr(model, "coef_"):
        return None
    if getattr(model, "kernel", "linear") != "linear" or not len(background):
        return None
    coefficients = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64)).T
    intercept = np.asarray(model.intercept_, dtype=np.float64).ravel()
    if coefficients.shape[0] != background.shape[1] or intercept.size not in {1, coefficients.shape[1]}:
        return None
    mean = background.mean(axis=0)
    return LinearModel(coefficients, mean, intercept + mean @ coefficients, _space(model, coefficients.shape[1]))


def unwrap(model: Any) -> tuple[list[Any], Any] | None:
    """Return (steps that transform one column each, the last model); None when a step mixes or drops columns."""
    if type(model).__name__ != "Pipeline" or not type(model).__module__.startswith("sklearn."):
        return [], model
    *before, (_, last) = model.steps
    steps = [step for _, step in before if step not in {None, "passthrough"}]
    for step in steps:
        if type(step).__name__ not in _COLUMNWISE or getattr(step, "add_indicator", False):
            return None
    return steps, last


def _space(model: Any, outputs: int) -> Space:
    name = type(model).__name__
    if name in {"PoissonRegressor", "GammaRegressor"}:
        return "log"
    if name == "TweedieRegressor":
        return "log" if type(model._base_loss.link).__name__ == "LogLink" else "prediction"
    if not hasattr(model, "classes_"):
        return "prediction"
    return "log-odds" if name.startswith("LogisticRegression") and outputs == 1 else "score"
