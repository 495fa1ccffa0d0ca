"""Permutation and bootstrap: tests that ask for no distribution, only for a seeded generator.

The surprise: the permutation test has an interval, too. Under a shift each reshuffling turns significant at one shift
that follows from two sums, so the interval costs no more than the p value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from flyball.errors import InputError, UnknownName
from flyball.experiments.estimate import Alternative, Estimate, alternative_of, check_level
from flyball.experiments.fixed.clusters import by_cluster
from flyball.experiments.fixed.pivots import check_null, null_note, tail_of, values_of
from flyball.experiments.stats import Missing

__all__ = ["Statistic", "bootstrap", "permutation"]

Statistic = Callable[[NDArray[np.float64]], float]
_NAMED: dict[str, Any] = {"mean": np.mean, "median": np.median}
_METHODS: dict[str, Any] = {"bca": "BCa", "percentile": "percentile"}  # ours and scipy's name
_CELLS = 1 << 22  # resampled values held at a time


def permutation(
    treatment: ArrayLike,
    control: ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int = 9_999,
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    missing: Missing = "refuse",
) -> Estimate:
    """Return the difference of means with the p value and interval of reshuffling the units over the arms.

    Exact when all splits are no more than `resamples` (all are looked at then, without dice). The two-sided p value is
    twice the smaller tail; the interval holds the shifts that the same reshufflings do not reject (Pitman 1937; one
    pass as in Garthwaite 1996, remark on linear statistics).

    Args:
        treatment: Values, shape (n,), n >= 2.
        control: Values, shape (m,), m >= 2.
        rng: Seeded generator.
        resamples: Reshufflings; the smallest p value is 1 / (resamples + 1).
        null: The shift under the null hypothesis.
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".
        missing: What to do with NaN: refuse, or drop the unit.

    Raises:
        InputError: fewer than two units, a missing value, or too few resamples for the level.

    Example:
        >>> rng = np.random.default_rng(7)
        >>> estimate = permutation([5.1, 4.9, 6.2, 5.8], [4.1, 4.4, 5.0, 4.6], rng=rng)
        >>> round(estimate.p, 4), round(estimate.lower, 3), round(estimate.upper, 3)
        (0.0571, -0.1, 2.1)
    """
    side, tail = alternative_of(alternative), tail_of(level, alternative)
    t = values_of(treatment, "treatment", least=2, missing=missing)
    c = values_of(control, "control", least=2, missing=missing)
    effect = float(t.mean() - c.mean())
    exact = math.comb(len(t) + len(c), len(t)) <= resamples
    turns = _turning_points(t, c, effect, rng, None if exact else resamples)
    least = 0 if exact else 1  # sampled reshufflings count the one that was seen, too
    total = len(turns[0]) + least
    tails = _tail_counts(turns, check_null(null), least, side) / total
    lower, upper = _shifts(turns, tail, least, total, side)
    what = f"all {total:,} splits" if exact else f"{resamples:,} reshufflings"
    return Estimate(
        effect,
        lower,
        upper,
        min(1.0, float(tails)),
        None,
        (len(t), len(c)),
        "permutation test of means",
        level=level,
        alternative=side,
        treatment=float(t.mean()),
        control=float(c.mean()),
        notes=(what, *null_note(null)),
    )


def bootstrap(
    treatment: ArrayLike,
    control: ArrayLike,
    *,
    rng: np.random.Generator,
    statistic: str | Statistic = "mean",
    method: str = "bca",
    resamples: int = 9_999,
    clusters: tuple[ArrayLike, ArrayLike] | None = None,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    missing: Missing = "refuse",
) -> Estimate:
    """Return the difference of a statistic between two arms with a bootstrap interval; it has no p value.

    References: Efron and Tibshirani (1993), sections 13.3 and 14.3; computed by scipy.stats.bootstrap.

    Args:
        treatment: Values, shape (n,), n >= 2.
        control: Values, shape (m,), m >= 2.
        rng: Seeded generator.
        statistic: "mean", "median", or a function of values of shape (k,) that returns one number.
        method: "bca" (bias-corrected and accelerated) or "percentile". BCa leaves each row or cluster out once,
            which takes time in the square of their number: beyond 10,000 take "percentile".
        resamples: Bootstrap samples, >= 100.
        clusters: Per arm, which cluster (such as the user) each row belongs to, shapes (n,) and (m,); whole clusters
            are drawn then, since rows of one user are not independent.
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".
        missing: What to do with NaN: refuse, or drop the row.

    Raises:
        InputError: too few units or clusters, a missing value, or a statistic that does not vary.

    Example:
        >>> rng = np.random.default_rng(7)
        >>> estimate = bootstrap(rng.normal(1, 1, 200), rng.normal(0, 1, 200), rng=rng, resamples=999)
        >>> estimate.lower < 1 < estimate.upper
        True
    """
    side, _ = alternative_of(alternative), check_level(level)
    _check_bootstrap(method, resamples, statistic)
    t, c = _Rows.of(treatment, clusters, 0, missing), _Rows.of(control, clusters, 1, missing)
    draws = [arm.drawn(statistic) for arm in (t, c)]
    result = stats.bootstrap(
        [np.arange(arm.size) for arm in (t, c)],
        lambda a, b, axis=-1: draws[0](a) - draws[1](b),
        n_resamples=resamples,
        batch=max(1, _CELLS // max(len(t.values), len(c.values))),
        vectorized=True,
        confidence_level=level,
        alternative=str(side),
        method=_METHODS[method],
        rng=rng,
    )
    own = [float(draw(np.arange(arm.size))) for draw, arm in zip(draws, (t, c), strict=True)]
    lower, upper = map(float, result.confidence_interval)
    if math.isnan(lower) or math.isnan(upper):
        raise InputError("the statistic does not vary over the bootstrap samples; BCa needs some variation")
    return Estimate(
        own[0] - own[1],
        lower,
        upper,
        None,
        None,
        (t.size, c.size),
        f"{_METHODS[method]} bootstrap",
        level=level,
        alternative=side,
        treatment=own[0],
        control=own[1],
        notes=(f"{resamples:,} resamples", *(("n counts clusters",) if clusters is not None else ())),
    )


def _check_bootstrap(method: str, resamples: int, statistic: str | Statistic) -> None:
    if method not in _METHODS:
        raise UnknownName.of("bootstrap", method, _METHODS)
    if resamples < 100:
        raise InputError(f"resamples is {resamples}; an interval needs 100 or more, 9999 is usual")
    if isinstance(statistic, str) and statistic not in _NAMED:
        raise UnknownName.of("statistic", statistic, _NAMED)


class _Rows:
    """An arm's rows sorted by cluster, and where each cluster starts; without clusters each row is its own."""

    def __init__(self, values: NDArray[np.float64], starts: NDArray[np.intp] | None) -> None:
        self.values, self.starts = values, starts
        self.size = len(values) if starts is None else len(starts) - 1

    @classmethod
    def of(cls, sample: ArrayLike, clusters: tuple[ArrayLike, ArrayLike] | None, arm: int, missing: Missing) -> _Rows:
        name = ("treatment", "control")[arm]
        if clusters is None:
            return cls(values_of(sample, name, least=2, missing=missing), None)
        values, starts = by_cluster(sample, clusters[arm], name, missing)
        return cls(values, starts)

    def drawn(self, statistic: str | Statistic) -> Callable[[NDArray[np.intp]], NDArray[np.float64]]:
        """Return the statistic of samples given as indices of rows or clusters, shape (..., size)."""
        if statistic == "mean":
            return self._means()
        values, starts = self.values, self.starts
        if starts is None:
            if statistic == "median":
                return lambda at: np.asarray(np.median(values[at], axis=-1))
            return lambda at: np.apply_along_axis(_called(statistic), -1, values[at])
        pieces = np.split(values, starts[1:-1])
        one = _called(statistic)
        return lambda at: np.apply_along_axis(lambda row: one(np.concatenate([pieces[i] for i in row])), -1, at)

    def _means(self) -> Callable[[NDArray[np.intp]], NDArray[np.float64]]:
        values, starts = self.values, self.starts
        if starts is None:
            return lambda at: np.asarray(values[at].mean(axis=-1))
        center = values.mean()
        sums, counts = np.add.reduceat(values - center, starts[:-1]), np.diff(starts).astype(np.float64)
        return lambda at: np.asarray(center + sums[at].sum(axis=-1) / counts[at].sum(axis=-1))


def _called(statistic: str | Statistic) -> Statistic:
    return _NAMED[statistic] if isinstance(statistic, str) else statistic


_Turns = tuple[NDArray[np.float64], NDArray[np.float64]]


def _turning_points(
    t: NDArray[np.float64], c: NDArray[np.float64], effect: float, rng: np.random.Generator, resamples: int | None
) -> _Turns:
    """Return per reshuffling the shift at which it is as extreme as what was seen, sorted: (for greater, for less).

    With a shift d taken off the treatment, a reshuffling that keeps k of n treated units where they were has the
    difference a - d b with b = k / n - (n - k) / m, and ours has effect - d. It is at least ours where
    d >= (effect - a) / (1 - b), and at most ours where d is at most that.
    """
    n, m = len(t), len(c)
    pool = np.concatenate((t, c))
    pool = pool - pool.mean()
    own = pool[:n].mean() - pool[n:].mean()
    chunks = _all_splits(n, n + m) if resamples is None else _random_splits(n, n + m, resamples, rng)
    points = []
    for chosen in chunks:
        sums, kept = pool[chosen].sum(axis=-1), (chosen < n).sum(axis=-1)
        a = sums / n - (pool.sum() - sums) / m
        b = kept / n - (n - kept) / m
        moved = 1.0 - b
        same = moved <= 1e-12  # the split that was seen: as extreme as ours at every shift
        with np.errstate(divide="ignore", invalid="ignore"):
            points.append(np.where(same, np.nan, (own - a) / moved))
    found = np.concatenate(points)
    slack = 1e-12 * (abs(effect) + float(np.abs(pool).max()))
    greater, less = found - slack, found + slack  # equal differences are ties, whatever the rounding
    return np.sort(np.where(np.isnan(found), -np.inf, greater)), np.sort(np.where(np.isnan(found), np.inf, less))


def _all_splits(n: int, total: int) -> Sequence[NDArray[np.intp]]:
    return [np.array(list(itertools.combinations(range(total), n)), dtype=np.intp)]


def _random_splits(n: int, total: int, resamples: int, rng: np.random.Generator) -> Any:
    """Yield random choices of n of all units, in chunks of shape (r, n)."""
    size = max(1, _CELLS // total)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        order = rng.permuted(np.broadcast_to(np.arange(total, dtype=np.int32), (rows, total)), axis=1)
        yield order[:, :n]


def _tail_counts(turns: _Turns, shift: float, least: int, side: Alternative) -> float:
    greater = least + int(np.searchsorted(turns[0], shift, side="right"))
    less = least + len(turns[1]) - int(np.searchsorted(turns[1], shift, side="left"))
    if side is Alternative.GREATER:
        return greater
    return less if side is Alternative.LESS else 2 * min(greater, less)


def _shifts(turns: _Turns, tail: float, least: int, total: int, side: Alternative) -> tuple[float, float]:
    """Return the shifts that are not rejected: p of each tail above `tail`."""
    out = math.floor(tail * total + 1e-9) - least  # so many reshufflings may be as extreme
    if out < (1 if least == 0 else 0):
        raise InputError(
            f"{total:,} splits are too few for an interval at this level; collect more units or take more resamples"
        )
    lower = float(turns[0][out]) if out < len(turns[0]) else math.inf
    upper = float(turns[1][len(turns[1]) - 1 - out]) if out < len(turns[1]) else -math.inf
    return side.ends(lower, upper)
