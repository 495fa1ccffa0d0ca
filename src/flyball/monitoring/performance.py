"""How good were the predictions of a window, as far as their truth is known (pure).

The surprise: windows are keyed by prediction time, not by when the outcome came. A window's value changes until its
labels have matured, so it carries its coverage and a state: pending (no label yet), provisional, final.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import numpy.typing as npt

from flyball.errors import InputError, UnknownName
from flyball.monitoring.types import PerformanceWindow
from flyball.registry.evaluation import auc

__all__ = ["METRICS", "Labelled", "metric_value", "performance_window"]

_LEAST = 1e-15  # a certain and wrong answer costs about 35 nats, not infinity
Floats = npt.NDArray[np.float64]
Answer = float | list[float]


@dataclass(slots=True)
class Labelled:
    """The answered predictions of one version in one window, by prediction id, and the outcomes known so far."""

    answers: dict[str, Answer] = field(default_factory=dict)
    truths: dict[str, tuple[int, float]] = field(default_factory=dict)  # id -> (revision, value)

    def add(self, prediction: str, value: Answer) -> None:
        """Record an answer; the same id again changes nothing."""
        self.answers.setdefault(prediction, value)

    def label(self, prediction: str, value: float, revision: int) -> bool:
        """Record an outcome if its revision is newer than the known one; return whether anything changed."""
        known = self.truths.get(prediction)
        if known is not None and known[0] >= revision:
            return False
        self.truths[prediction] = (revision, value)
        return True


def performance_window(
    labelled: Labelled,
    metric: str,
    *,
    model: str,
    version: str,
    start: datetime,
    end: datetime,
    matures: timedelta,
    now: datetime,
) -> PerformanceWindow:
    """Return a window's metric over the predictions whose outcome is known at `now`.

    The window is final once `now` >= `end` + `matures`, also when outcomes are missing: `coverage` tells their share.
    """
    ids = list(labelled.truths)
    rows = len(labelled.answers)
    value = None
    if ids:
        truth = np.array([labelled.truths[i][1] for i in ids], dtype=np.float64)
        value = metric_value(metric, truth, [labelled.answers[i] for i in ids])
    state: Literal["pending", "provisional", "final"] = "provisional" if ids else "pending"
    if now >= end + matures:
        state = "final"
    return PerformanceWindow(model, version, metric, start, end, value, rows, len(ids) / rows if rows else 0.0, state)


def metric_value(metric: str, truth: Floats, answers: list[Answer]) -> float | None:
    """Return a metric of n >= 1 labelled answers; None when it is not finite, such as AUC of one class.

    Raises:
        UnknownName: no such metric.
        InputError: a metric of numbers for class probabilities.
    """
    if metric not in METRICS:
        raise UnknownName.of("performance metric", metric, METRICS)
    if metric == "accuracy" and isinstance(answers[0], list) and len(answers[0]) > 2:
        return float(np.mean(np.argmax(np.array(answers), axis=1) == truth))
    if metric == "logloss" and isinstance(answers[0], list) and len(answers[0]) > 2:
        chances = np.array(answers)[np.arange(len(truth)), truth.astype(np.int64)]
        return float(-np.log(np.clip(chances, _LEAST, 1.0)).mean())
    value = METRICS[metric](truth, _scalars(metric, answers))
    return float(value) if np.isfinite(value) else None


def _scalars(metric: str, answers: list[Answer]) -> Floats:
    """Return one number a row: the answer itself, or the probability of the second of two classes."""
    if isinstance(answers[0], list) and len(answers[0]) != 2:
        raise InputError(
            f"{metric} needs one number a prediction, but they have {len(answers[0])}; use accuracy, logloss"
        )
    return np.array([a[1] if isinstance(a, list) else a for a in answers], dtype=np.float64)


def _logloss(truth: Floats, answer: Floats) -> float:
    chance = np.clip(np.where(truth > 0.5, answer, 1.0 - answer), _LEAST, 1.0)
    return float(-np.log(chance).mean())


METRICS: dict[str, Callable[[Floats, Floats], float]] = {
    "accuracy": lambda y, p: float(np.mean((p > 0.5) == (y > 0.5))),
    "auc": lambda y, p: auc((y > 0.5).astype(np.float64), p),
    "bias": lambda y, p: float(np.mean(p - y)),
    "brier": lambda y, p: float(np.mean((p - y) ** 2)),
    "logloss": _logloss,
    "mae": lambda y, p: float(np.mean(np.abs(p - y))),
    "mse": lambda y, p: float(np.mean((p - y) ** 2)),
    "rmse": lambda y, p: float(np.sqrt(np.mean((p - y) ** 2))),
}
