"""Compare what a version would have answered with what was answered: pure arithmetic on arrays.

The surprise: intervals are over units, not rows. Rows of one unit resemble each other, and treating them as independent
would call a handful of busy callers a trend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from flyball.registry.evaluation import metrics_of

__all__ = ["Group", "Replay", "Shift", "Worst", "compare", "shift_of"]

_Z = 1.959963984540054  # normal quantile of 97.5 %
_QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Shift:
    """Mean of (new - logged) answers with a 95 % interval over units; None where fewer than two units say anything."""

    mean: float
    low: float | None
    high: float | None
    units: int


@dataclass(frozen=True, slots=True)
class Group:
    """Part of the traffic: an arm or an hour."""

    by: str
    name: str
    rows: int
    agreement: float
    shift: float


@dataclass(frozen=True, slots=True)
class Worst:
    """A prediction whose answer moved far."""

    id: str
    logged: float
    new: float


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found.

    `agreement` is the share of rows with the same class, or with answers no further apart than `tolerance`. For a
    classifier of two classes answers are the probability of the second one, for more classes that of the logged class.
    `difference` are quantiles (50 %, 90 %, 99 %, largest) of |new - logged|; `micros` those of one row's call.
    """

    model: str
    version: str
    rows: int
    answered: int
    failed: int
    logged_failed: int
    agreement: float
    tolerance: float
    shift: Shift
    difference: tuple[float, ...]
    micros: tuple[float, ...]
    logged_micros: tuple[float, ...]
    groups: tuple[Group, ...] = ()
    worst: tuple[Worst, ...] = ()
    labelled: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    logged_metrics: dict[str, float] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    left_out: int = 0  # rows of other versions whose features do not fit

    @property
    def worse(self) -> bool:
        """Whether it failed more rows than were failed at the time."""
        return self.failed > self.logged_failed


def compare(
    *,
    model: str,
    version: str,
    ids: Sequence[str],
    units: Sequence[str],
    arms: Sequence[str],
    at: np.ndarray,
    logged: np.ndarray,
    new: np.ndarray,
    errors: dict[str, int],
    logged_failed: int,
    classifier: bool,
    tolerance: float,
    micros: np.ndarray,
    logged_micros: np.ndarray,
    outcome: np.ndarray,
    left_out: int = 0,
    worst: int = 10,
) -> Replay:
    """Return the comparison of a replay.

    Args:
        model: The model.
        version: The version that answered anew.
        ids: Prediction ids, n of them.
        units: Randomised unit per row.
        arms: Arm per row.
        at: T per row, int64 µs.
        logged: What was answered, float64 (n,) or (n, c); NaN where nothing was.
        new: What the version answers now, of the same shape; NaN where it failed.
        errors: Causes of the failed rows, with how many.
        logged_failed: Rows that had no answer at the time.
        classifier: Whether answers are probabilities.
        tolerance: |new - logged| up to which two numbers agree.
        micros: Times of single-row calls now.
        logged_micros: Times that the model took then, per row.
        outcome: What came true, float64 (n,), NaN where it is not known.
        left_out: Rows whose features did not fit.
        worst: How many of the largest differences are named.
    """
    was, now = _scores(logged, new) if classifier else (_flat(logged), _flat(new))
    both = ~(np.isnan(was) | np.isnan(now))
    same = _same(logged, new, classifier=classifier, tolerance=tolerance)[both]
    difference = (now - was)[both]
    far = np.argsort(-np.abs(difference), kind="stable")[:worst]
    place: list[int] = np.flatnonzero(both).tolist()
    known = both & ~np.isnan(outcome)
    return Replay(
        model=model, version=version, rows=len(ids), answered=int((~np.isnan(now)).sum()),
        failed=int(np.isnan(now).sum()), logged_failed=logged_failed, agreement=_mean(same), tolerance=tolerance,
        shift=shift_of(difference, [units[k] for k in place]), difference=_quantiles(np.abs(difference)),
        micros=_quantiles(micros), logged_micros=_quantiles(logged_micros),
        groups=tuple(_groups([arms[k] for k in place], at[both], same, difference)),
        worst=tuple(
            Worst(ids[place[k]], float(was[place[k]]), float(now[place[k]]))
            for k in far if abs(difference[k]) > tolerance
        ),
        labelled=int(known.sum()), metrics=metrics_of(outcome[known], new[known], classifier=classifier),
        logged_metrics=metrics_of(outcome[known], logged[known], classifier=classifier), errors=errors,
        left_out=left_out,
    )  # fmt: skip


def shift_of(difference: np.ndarray, units: Sequence[str]) -> Shift:
    """Return the mean difference with an interval that takes each unit's rows together.

    The variance is that of a ratio of unit sums (Cochran 1977, eq. 6.13): rows of a unit may depend on each other.
    """
    n = len(difference)
    if not n:
        return Shift(0.0, None, None, 0)
    _, place = np.unique(np.asarray(units, dtype=object).astype(str), return_inverse=True)
    count = int(place.max()) + 1
    mean = float(difference.mean())
    if count < 2:
        return Shift(mean, None, None, count)
    residual = np.bincount(place, weights=difference - mean, minlength=count)
    error = math.sqrt(count / (count - 1) * float((residual**2).sum())) / n
    return Shift(mean, mean - _Z * error, mean + _Z * error, count)


def _flat(values: np.ndarray) -> np.ndarray:
    """Return one number a row; of several the first stands for the row."""
    return values if values.ndim == 1 else values[:, 0]


def _scores(logged: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if logged.ndim == 1:
        return logged, new
    if logged.shape[1] == 2:
        return logged[:, 1], new[:, 1]
    rows, chosen = np.arange(len(logged)), np.nan_to_num(logged, nan=-1.0).argmax(axis=1)
    return logged[rows, chosen], new[rows, chosen]


def _same(logged: np.ndarray, new: np.ndarray, *, classifier: bool, tolerance: float) -> np.ndarray:
    if not classifier:
        near = np.abs(new - logged) <= tolerance
        return np.asarray(near if near.ndim == 1 else near.all(axis=1))
    if logged.ndim == 1:
        return np.asarray((logged >= 0.5) == (new >= 0.5))
    return np.asarray(np.nan_to_num(logged, nan=-1.0).argmax(axis=1) == np.nan_to_num(new, nan=-1.0).argmax(axis=1))


def _groups(arms: Sequence[str], at: np.ndarray, same: np.ndarray, difference: np.ndarray) -> list[Group]:
    hours = [f"{int(t) // 3_600_000_000 % 24:02d}" for t in at]
    found = []
    for by, names in (("arm", arms), ("hour (UTC)", hours)):
        labels = np.asarray(names, dtype=str)
        for name in np.unique(labels):
            rows = labels == name
            found.append(Group(by, str(name), int(rows.sum()), _mean(same[rows]), _mean(difference[rows])))
    return found


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in np.quantile(values, _QUANTILES)) if len(values) else ()
