"""Contributions as XGBoost, LightGBM and CatBoost compute them themselves: their own TreeSHAP, in C++.

The surprise: XGBoost adds in float32, so base and contributions meet its margin to about 1e-6 of it, not to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["booster"]

Contributions = Callable[[np.ndarray], np.ndarray]


def booster(model: Any) -> Contributions | None:
    """Return what gives (n, k + 1, c) for a matrix (n, k), the last row of k + 1 being the base; None for others."""
    match type(model).__module__.partition(".")[0]:
        case "xgboost":
            return _xgboost(model)
        case "lightgbm":
            return _lightgbm(model)
        case "catboost":
            return _catboost(model)
        case _:
            return None


def _xgboost(model: Any) -> Contributions:
    from xgboost import DMatrix

    native = model.get_booster() if hasattr(model, "get_booster") else model
    stop = getattr(native, "best_iteration", None) if native.attr("best_iteration") is not None else None
    trees = (0, 0) if stop is None else (0, stop + 1)

    def contributions(matrix: np.ndarray) -> np.ndarray:
        found = native.predict(
            DMatrix(matrix, nthread=1), pred_contribs=True, validate_features=False, iteration_range=trees
        )
        return _last_axis_first(np.asarray(found, dtype=np.float64))

    return contributions


def _lightgbm(model: Any) -> Contributions:
    native = getattr(model, "booster_", model)

    def contributions(matrix: np.ndarray) -> np.ndarray:
        found = np.asarray(native.predict(matrix, pred_contrib=True, num_threads=1), dtype=np.float64)
        return _last_axis_first(found.reshape(len(matrix), -1, matrix.shape[1] + 1))

    return contributions


def _catboost(model: Any) -> Contributions:
    from importlib import import_module

    pool = import_module("catboost").Pool  # it has no types

    def contributions(matrix: np.ndarray) -> np.ndarray:
        found = model.get_feature_importance(pool(matrix), type="ShapValues", thread_count=1)
        return _last_axis_first(np.asarray(found, dtype=np.float64))

    return contributions


def _last_axis_first(found: np.ndarray) -> np.ndarray:
    """Return (n, k + 1, c) of (n, k + 1) or (n, c, k + 1)."""
    return found[:, :, None] if found.ndim == 2 else found.transpose(0, 2, 1)
