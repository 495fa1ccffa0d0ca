"""How good a version's answers were on given rows: the metrics, and what an evaluation hands to the gate.

The surprise: every metric is told which way is better (`HIGHER_IS_BETTER`, bias by its size), so nobody downstream
compares with the wrong sign. Pure numpy; a binary classifier's answers are probabilities of the second class.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flyball.errors import UnknownName

__all__ = [
    "CLASSIFICATION", "HIGHER_IS_BETTER", "METRICS", "REGRESSION", "ROW_LOSSES", "Evaluation", "auc", "metrics_of",
    "require_metric", "row_loss",
]  # fmt: skip

REGRESSION = ("mae", "mse", "rmse", "r2", "bias")
CLASSIFICATION = ("accuracy", "auc", "brier", "logloss")
METRICS = REGRESSION + CLASSIFICATION
HIGHER_IS_BETTER = frozenset({"r2", "accuracy", "auc"})
ROW_LOSSES = frozenset({"mae", "mse", "bias", "accuracy", "brier", "logloss"})  # metrics that are means over rows
_EDGE = 1e-15  # probabilities are kept this far from 0 and 1 in logloss, as scikit-learn did


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` found; the gate reads nothing else about quality.

    `y`, `candidate` and `champion` are aligned: the holdout rows that neither version trained on (`paired` of them);
    `champion` is None without a champion or when it could not answer these rows (`reason` says which).
    `metrics` are the candidate's over the whole holdout, `low` and `high` bound its answers there.
    """

    rows: int
    metrics: dict[str, float]
    y: np.ndarray
    candidate: np.ndarray
    champion: np.ndarray | None = None
    champion_version: str | None = None
    champion_metrics: dict[str, float] = field(default_factory=dict)
    paired_metrics: dict[str, float] = field(default_factory=dict)
    left_out: int = 0
    reason: str = ""
    low: float = float("nan")
    high: float = float("nan")
    bad: int = 0  # answers that are NaN or infinite
    classifier: bool = False

    @property
    def paired(self) -> int:
        """Rows on which both are judged."""
        return len(self.y)


def require_metric(name: str) -> str:
    """Return `name` if it is a metric we know; raises UnknownName with the near ones."""
    if name not in METRICS:
        raise UnknownName.of("metric", name, METRICS)
    return name


def row_loss(metric: str, y: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Return each row's part of a metric that is a mean over rows, shape (n,).

    Args:
        metric: One of `ROW_LOSSES`.
        y: True values, shape (n,); class numbers for the classification metrics.
        answer: Predictions (n,), or probabilities (n, c).
    """
    match metric:
        case "mae":
            return np.asarray(np.abs(answer - y))
        case "mse":
            return np.asarray((answer - y) ** 2)
        case "bias":
            return np.asarray(answer - y)
        case "accuracy":
            return np.asarray(_classes(answer) == y, dtype=np.float64)
        case "brier":
            return _brier(y, answer)
        case "logloss":
            return _logloss(y, answer)
    raise UnknownName.of("row metric", metric, ROW_LOSSES)


def metrics_of(y: np.ndarray, answer: np.ndarray, *, classifier: bool) -> dict[str, float]:
    """Return every metric that fits the kind of answer; empty for no rows.

    Args:
        y: True values, shape (n,).
        answer: Predictions (n,) of a regressor; (n,) or (n, c) probabilities of a classifier.
        classifier: Which kind `answer` is.
    """
    if not len(y):
        return {}
    if not classifier:
        mse = float(np.mean((answer - y) ** 2))
        spread = float(np.var(y))
        return {
            "mae": float(np.mean(np.abs(answer - y))),
            "mse": mse,
            "rmse": mse**0.5,
            "r2": 1.0 - mse / spread if spread > 0 else float("nan"),
            "bias": float(np.mean(answer - y)),
        }
    out = {name: float(np.mean(row_loss(name, y, answer))) for name in ("accuracy", "brier", "logloss")}
    if answer.ndim == 1 or answer.shape[1] == 2:
        out["auc"] = auc(y, _positive(answer))
    return out


def auc(y: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the ROC curve by ranks, ties counted half; NaN when one class is absent."""
    positive = y == 1
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    values, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    del values
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    return float((ranks[positive].sum() - n * (n + 1) / 2.0) / (n * m))


def _positive(answer: np.ndarray) -> np.ndarray:
    return answer if answer.ndim == 1 else answer[:, 1]


def _classes(answer: np.ndarray) -> np.ndarray:
    return (answer >= 0.5).astype(np.float64) if answer.ndim == 1 else answer.argmax(axis=1).astype(np.float64)


def _brier(y: np.ndarray, answer: np.ndarray) -> np.ndarray:
    if answer.ndim == 1 or answer.shape[1] == 2:
        return np.asarray((_positive(answer) - y) ** 2)
    return np.asarray(((answer - np.eye(answer.shape[1])[y.astype(np.int64)]) ** 2).sum(axis=1))


def _logloss(y: np.ndarray, answer: np.ndarray) -> np.ndarray:
    full = np.column_stack([1.0 - answer, answer]) if answer.ndim == 1 else answer
    chosen = full[np.arange(len(y)), y.astype(np.int64)]
    return np.asarray(-np.log(np.clip(chosen, _EDGE, 1.0 - _EDGE)))
