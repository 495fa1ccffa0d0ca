"""XGBoost models as their booster's UBJSON, called without the scikit-learn wrapper.

Loading parses trees and runs nothing. The surprise: binary:logistic answers one column; with classes it becomes two,
like scikit-learn's.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from flyball.errors import InputError, IntegrityError, MissingExtra, first_line
from flyball.registry.formats.types import FILE_NAMES, Call, Scalar, Stored, labels, two_columns

__all__ = ["adapt", "dump", "load"]

_BINARY = frozenset({"binary:logistic"})
_MANY = frozenset({"multi:softprob", "multi:softmax"})


def dump(model: Any, rows: np.ndarray | None = None) -> Stored | None:
    """Return the booster's bytes; None for a wrapper whose null is not NaN, which the booster would not know."""
    del rows
    wrapper = hasattr(model, "get_booster")
    if wrapper and not _is_nan(getattr(model, "missing", np.nan)):
        return None
    booster = model.get_booster() if wrapper else model
    if not hasattr(booster, "save_raw"):
        return None
    classes = labels(getattr(model, "classes_", None)) if hasattr(model, "predict_proba") else _classes(booster, None)
    return Stored("xgboost", {FILE_NAMES["xgboost"]: bytes(booster.save_raw("ubj"))}, classes)


def adapt(model: Any) -> Call | None:
    """Return the call of a bare booster; wrappers answer by themselves."""
    return None if hasattr(model, "get_booster") or not hasattr(model, "inplace_predict") else _call(model, None)


def load(data: bytes, *, classes: tuple[Scalar, ...] | None = None) -> Call:
    """Return a booster as a call on one thread, on CUDA where XGBoost was built for it and a device is there."""
    try:
        import xgboost
    except ImportError as error:
        raise MissingExtra.of("an XGBoost model", "xgboost") from error
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(data))
    except xgboost.core.XGBoostError as error:
        raise IntegrityError(f"the file is no XGBoost model: {first_line(error)}") from error
    booster.set_param({"nthread": 1})
    return _call(booster, classes)


def _call(booster: Any, classes: tuple[Scalar, ...] | None) -> Call:
    objective, width = _objective(booster), booster.num_features()
    classes = _classes(booster, classes)
    best = booster.attr("best_iteration")
    span = (0, 0) if best is None else (0, int(best) + 1)
    ask, soft = booster.inplace_predict, objective == "multi:softmax"
    binary = classes is not None and len(classes) == 2 and objective in _BINARY

    def predict(matrix: np.ndarray) -> np.ndarray:
        if matrix.shape[1] != width:
            raise InputError(f"X has {matrix.shape[1]} features, but the model is expecting {width} features")
        if soft:
            return _softmax(ask(matrix, iteration_range=span, predict_type="margin", validate_features=False))
        out = ask(matrix, iteration_range=span, validate_features=False)
        return two_columns(out) if binary else np.asarray(out, dtype=np.float64)

    return Call(booster, predict, classes, tuple(booster.feature_names) if booster.feature_names else None)


def _classes(booster: Any, given: tuple[Scalar, ...] | None) -> tuple[Scalar, ...] | None:
    """Return the labels: those given, else 0, 1, ... where the objective says that the answers are probabilities."""
    if given is not None:
        return given
    objective = _objective(booster)
    if objective in _BINARY:
        return (0, 1)
    return tuple(range(_config(booster)["num_class"])) if objective in _MANY else None


def _objective(booster: Any) -> str:
    return str(json.loads(booster.save_config())["learner"]["objective"]["name"])


def _config(booster: Any) -> dict[str, int]:
    found = json.loads(booster.save_config())["learner"]["learner_model_param"]
    return {"num_class": int(found["num_class"])}


def _softmax(margin: np.ndarray) -> np.ndarray:
    shifted = np.exp(margin - margin.max(axis=1, keepdims=True), dtype=np.float64)
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _is_nan(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
