"""The models of a run, fitted once from a seed: the same files for us and for every peer.

`lr` is a logistic regression of 30 columns, `onnx` the same regression through ONNX, `hgb` boosted trees (100 rounds).
The target depends on all columns, so no model is trivially small.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = 30
KINDS = ("lr", "hgb", "onnx")
ROWS = 5_000


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return X of shape (5000, 30) and a score (5000,)."""
    rng = np.random.default_rng(7)
    X = rng.normal(size=(ROWS, COLUMNS))
    return X, X @ rng.normal(size=COLUMNS) + rng.normal(size=ROWS)


def fit() -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression

    X, score = data()
    return {
        "lr": LogisticRegression().fit(X, score > 0),
        "hgb": HistGradientBoostingRegressor(max_iter=100, random_state=1).fit(X, score),
    }


def write(folder: Path) -> dict[str, Path]:
    """Fit and write all models as files; return the file of each kind, `onnx` only where skl2onnx is installed."""
    import joblib

    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for kind, model in fit().items():
        files[kind] = folder / f"{kind}.joblib"
        if hasattr(model, "_feature_subsample_rng"):  # of fitting only; an older numpy (pytriton's) cannot read it
            model._feature_subsample_rng = None
        joblib.dump(model, files[kind])
        if kind == "lr":
            converted = onnx_of(model)
            if converted:
                files["onnx"] = folder / "lr.onnx"
                files["onnx"].write_bytes(converted)
    return files


def onnx_of(model: Any) -> bytes:
    """Return a scikit-learn classifier as ONNX with plain arrays as outputs; b"" without skl2onnx."""
    try:
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError:
        return b""
    shape = [("input", FloatTensorType([None, COLUMNS]))]
    return bytes(convert_sklearn(model, initial_types=shape, options={"zipmap": False}).SerializeToString())


def answers(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each kind has to answer: probability of class 1, or the value."""
    fitted = fit()
    probability = fitted["lr"].predict_proba(rows)[:, 1]
    return {"lr": probability, "onnx": probability, "hgb": fitted["hgb"].predict(rows)}
