"""What a guardrail's metric makes of one row, such that more is always worse or always better."""

from __future__ import annotations

import math

from msgspec.structs import replace

from flyball.rollout.evidence.closed import CANDIDATE, Answer, Row

__all__ = ["judged_by", "value_of"]

_LEAST = 1e-15  # a probability of 0 has no logarithm


def judged_by(metric: str, row: Row) -> Row:
    """Return the row as a metric sees it: what followed says something of the answer that the caller got, only."""
    if metric != "outcome" or row.served < 0:
        return row
    if row.served == CANDIDATE:
        return row if row.control is None else replace(row, control=None)
    return row if row.candidate is None else replace(row, candidate=None)


def value_of(metric: str, row: Row, answer: Answer | None) -> float | None:
    """Return the metric of one answer in its own unit; None when the answer is missing or cannot be judged.

    Classes are whole numbers from 0 on; an answer is one probability of class 1, one per class, or (for "accuracy")
    the class itself.
    """
    if answer is None:
        return None
    if metric == "outcome":
        return row.truth
    value = _of(metric, row, answer)
    return value if value is not None and math.isfinite(value) else None


def _of(metric: str, row: Row, answer: Answer) -> float | None:
    if isinstance(answer, list):
        return _of_classes(metric, row.truth, answer)
    match metric:
        case "mae":
            return abs(row.truth - answer)
        case "mse" | "brier":
            far = row.truth - answer
            return far * far
        case "logloss":
            return _logloss(row.truth, answer)
        case "accuracy":
            likely = answer if answer.is_integer() or row.truth not in (0.0, 1.0) else float(answer >= 0.5)
            return float(likely == row.truth)
        case "prediction":
            return answer
        case _:
            return None


def _logloss(truth: float, answer: float) -> float | None:
    if truth not in (0.0, 1.0) or not 0.0 <= answer <= 1.0:
        return None
    return -math.log(max(answer if truth else 1.0 - answer, _LEAST))


def _of_classes(metric: str, truth: float, answer: list[float]) -> float | None:
    if not truth.is_integer() or not 0 <= truth < len(answer):
        return None
    at = int(truth)
    match metric:
        case "logloss":
            return -math.log(max(answer[at], _LEAST)) if 0.0 <= answer[at] <= 1.0 else None
        case "brier":
            return math.fsum((p - (k == at)) ** 2 for k, p in enumerate(answer))
        case "accuracy":
            return float(max(range(len(answer)), key=answer.__getitem__) == at)
        case _:
            return None
