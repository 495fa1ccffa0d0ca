"""CatBoost models in its own binary format.

Loading parses trees and runs nothing. The surprise: CatBoost writes an id and the time into every file; they are taken
out, so that equal models give equal bytes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from flyball.errors import InputError, IntegrityError, MissingExtra
from flyball.registry.formats.types import FILE_NAMES, Call, Scalar, Stored, labels

__all__ = ["adapt", "dump", "load"]


def dump(model: Any, rows: np.ndarray | None = None) -> Stored | None:
    """Return the model's bytes without what differs from run to run."""
    del rows
    if not hasattr(model, "get_metadata"):
        return None
    plain = model.copy()
    notes = plain.get_metadata()
    for name in ("model_guid", "train_finish_time"):
        if name in notes:
            del notes[name]
    with tempfile.TemporaryDirectory(prefix="flyball-") as folder:
        path = Path(folder) / "model.cbm"
        plain.save_model(str(path), format="cbm")
        return Stored("catboost", {FILE_NAMES["catboost"]: path.read_bytes()}, _classes(plain))


def adapt(model: Any) -> Call | None:
    """Return the call of a bare CatBoost object; its classifier and regressor answer by themselves."""
    return _call(model, None) if type(model).__name__ == "CatBoost" else None


def load(data: bytes, *, classes: tuple[Scalar, ...] | None = None) -> Call:
    """Return a model as a call on one thread."""
    try:
        import catboost
    except ImportError as error:
        raise MissingExtra.of("a CatBoost model", "catboost") from error
    try:
        bare = catboost.CatBoost()
        bare.load_model(blob=data)
        model = catboost.CatBoostClassifier() if _classes(bare) else catboost.CatBoostRegressor()
        model.load_model(blob=data)
    except catboost.CatBoostError as error:
        raise IntegrityError(f"the file is no CatBoost model: {error}") from error
    return _call(model, classes)


def _call(model: Any, classes: tuple[Scalar, ...] | None) -> Call:
    found = classes or _classes(model)
    names = tuple(model.feature_names_ or ())
    width = len(names)

    def predict(matrix: np.ndarray) -> np.ndarray:
        if matrix.shape[1] != width:
            raise InputError(f"X has {matrix.shape[1]} features, but the model is expecting {width} features")
        if found is None:
            return np.asarray(model.predict(matrix, thread_count=1), dtype=np.float64)
        return np.asarray(model.predict(matrix, prediction_type="Probability", thread_count=1), dtype=np.float64)

    numbered = all(name == str(place) for place, name in enumerate(names))
    return Call(model, _probabilities(model) if found and hasattr(model, "predict_proba") and not width else predict,
                found, None if numbered else names)  # fmt: skip


def _probabilities(model: Any) -> Any:
    return lambda matrix: np.asarray(model.predict_proba(matrix, thread_count=1), dtype=np.float64)


def _classes(model: Any) -> tuple[Scalar, ...] | None:
    found = getattr(model, "classes_", None)
    return None if found is None or not len(found) else labels(list(found))
