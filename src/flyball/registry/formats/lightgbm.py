"""LightGBM models as their booster's text, called without the scikit-learn wrapper.

Loading parses numbers and runs nothing. The surprise: with the booster's own shape check off, a matrix that is too
narrow would be read beyond its end; we check the width ourselves, which is cheaper.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from flyball.errors import InputError, IntegrityError, MissingExtra
from flyball.registry.formats.types import FILE_NAMES, Call, Scalar, Stored, labels, two_columns

__all__ = ["adapt", "dump", "load"]

_OBJECTIVE = re.compile(rb"^objective=(\S+)(.*)$", re.MULTILINE)
_DEFAULT = re.compile(r"Column_\d+")


def dump(model: Any, rows: np.ndarray | None = None) -> Stored | None:
    """Return the booster's text, cut at the best iteration when training stopped early."""
    del rows
    booster = model.booster_ if hasattr(model, "booster_") else model
    if not hasattr(booster, "model_to_string"):
        return None
    text = booster.model_to_string().encode()
    own = labels(getattr(model, "classes_", None)) if hasattr(model, "predict_proba") else None
    return Stored("lightgbm", {FILE_NAMES["lightgbm"]: text}, _classes(text, own))


def adapt(model: Any) -> Call | None:
    """Return the call of a bare booster; wrappers answer by themselves."""
    if hasattr(model, "booster_") or not hasattr(model, "model_to_string"):
        return None
    return _call(model, model.model_to_string().encode(), None)


def load(data: bytes, *, classes: tuple[Scalar, ...] | None = None) -> Call:
    """Return a booster as a call on one thread."""
    try:
        import lightgbm
    except ImportError as error:
        raise MissingExtra.of("a LightGBM model", "lightgbm") from error
    try:
        booster = lightgbm.Booster(model_str=data.decode())
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
        raise IntegrityError(f"the file is no LightGBM model: {error}") from error
    return _call(booster, data, classes)


def _call(booster: Any, text: bytes, classes: tuple[Scalar, ...] | None) -> Call:
    width, ask, classes = booster.num_feature(), booster.predict, _classes(text, classes)
    binary = classes is not None and len(classes) == 2

    def predict(matrix: np.ndarray) -> np.ndarray:
        if matrix.shape[1] != width:
            raise InputError(f"X has {matrix.shape[1]} features, but the model is expecting {width} features")
        out = ask(matrix, num_threads=1, predict_disable_shape_check=True)
        return two_columns(out) if binary and out.ndim == 1 else np.asarray(out, dtype=np.float64)

    names = tuple(booster.feature_name())
    return Call(booster, predict, classes, None if all(_DEFAULT.fullmatch(name) for name in names) else names)


def _classes(text: bytes, given: tuple[Scalar, ...] | None) -> tuple[Scalar, ...] | None:
    found = _OBJECTIVE.search(text)
    kind = found[1].decode() if found else ""
    if kind == "binary":
        return given or (0, 1)
    if kind in {"multiclass", "multiclassova"}:
        many = re.search(rb"num_class:(\d+)", found[2]) if found else None
        return given or tuple(range(int(many[1]) if many else 0)) or None
    return given
