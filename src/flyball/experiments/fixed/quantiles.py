"""Effects on quantiles, such as the p99 of latency, without guessing a density.

The textbook's standard error divides by the density at the quantile, which nobody knows. Here the distance between two
order statistics around the quantile plays that part. The surprise: far quantiles need many units (a p99 about 600 an
arm), and clusters widen them as much as they widen a mean.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, Scale
from flyball.experiments.fixed.clusters import by_cluster
from flyball.experiments.fixed.pivots import ArmValue, values_of
from flyball.experiments.fixed.ratios import on_scale
from flyball.experiments.stats import Missing, Stats

__all__ = ["quantile_effect"]
_REACH = 1.959963984540054  # standard errors of the share on either side, where the order statistics are taken


def quantile_effect(
    treatment: ArrayLike,
    control: ArrayLike,
    q: float,
    *,
    clusters: tuple[ArrayLike, ArrayLike] | None = None,
    scale: Scale | str = Scale.DIFFERENCE,
    method: str = "fieller",
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    missing: Missing = "refuse",
) -> Estimate:
    """Return the difference of a quantile between two arms.

    References: Price and Bonett (2002), "Distribution-free confidence intervals for difference and ratio of medians",
    for the standard error from two order statistics with their exact binomial coverage; with clusters, the ranks come
    from the cluster-robust error of the share below the quantile, as the outer interval of Deng, Knoblich, Lu (2018)
    and Liu, Sun, Varshney, Xu (2019).

    Args:
        treatment: Values, shape (n,).
        control: Values, shape (m,).
        q: The quantile, in (0, 1), such as 0.99.
        clusters: Per arm, the unit of assignment of each row, shapes (n,) and (m,), when a unit has several rows.
        scale: "difference", or "relative" to the control's quantile.
        method: For the relative scale, "fieller" or "delta".
        null: The effect under the null hypothesis, on that scale.
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".
        missing: What to do with NaN: refuse, or drop the row.

    Raises:
        InputError: q outside (0, 1), too few units around the quantile, or the same value all around it in both arms.

    Example:
        >>> rng = np.random.default_rng(7)
        >>> slow, fast = rng.lognormal(0.4, 1, 4000), rng.lognormal(0, 1, 4000)
        >>> quantile_effect(slow, fast, 0.9).significant
        True
    """
    if not 0.0 < q < 1.0:
        raise InputError(f"q is {q}; a quantile lies between 0 and 1, such as 0.5 for the median or 0.99")
    labels = (None, None) if clusters is None else clusters
    t = _quantile(treatment, "treatment", q, labels[0], missing)
    c = _quantile(control, "control", q, labels[1], missing)
    if t.variance == 0.0 and c.variance == 0.0:
        raise InputError(
            f"around the {q:g} quantile all values are equal in both arms ({t.value:g} and {c.value:g}): "
            "the metric is too coarse for a quantile, compare means or shares"
        )
    estimate = on_scale(t, c, scale, f"{q:g} quantiles", how=method, null=null, level=level, alternative=alternative)
    return estimate if clusters is None else estimate.noted("n counts clusters")


def _quantile(sample: ArrayLike, arm: str, q: float, clusters: ArrayLike | None, missing: Missing) -> ArmValue:
    if clusters is None:
        values = values_of(sample, arm, least=2, missing=missing)
        return _from_ranks(values, arm, q, math.sqrt(q * (1.0 - q) / len(values)), None)
    values, starts = by_cluster(sample, clusters, arm, missing)
    return _from_ranks(values, arm, q, _clustered_error(values, starts, q), len(starts) - 1)


def _from_ranks(values: NDArray[np.float64], arm: str, q: float, error: float, clusters: int | None) -> ArmValue:
    """Return the quantile with its squared standard error, from the order statistics `_REACH` errors off."""
    n = len(values)
    low, high = math.floor(n * (q - _REACH * error)), math.ceil(n * (q + _REACH * error)) + 1  # ranks from 1
    if low < 1 or high > n:
        rare = min(q, 1.0 - q)
        needed = math.ceil((_REACH**2 + 2.0) / rare * max(1.0, error * error * n / (q * (1.0 - q))))
        raise InputError(f"{arm} has {n} rows, too few for the {q:g} quantile; it takes about {max(needed, n + 1):,}")
    around = math.floor(q * (n - 1))
    parts = np.partition(values, sorted({low - 1, around, min(around + 1, n - 1), high - 1}))
    value = _interpolated(parts, q * (n - 1) - around, around)
    width = float(parts[high - 1] - parts[low - 1])
    if clusters is None:
        covered = float(special.bdtr(high - 1, n, q) - special.bdtr(low - 1, n, q))
        reach, units = -float(special.ndtri((1.0 - covered) / 2.0)), n
    else:
        reach, units = (high - low) / (2.0 * n * error), clusters
    df = math.inf if clusters is None else clusters - 1.0
    return ArmValue(value, (width / (2.0 * reach)) ** 2, units, df)


def _interpolated(parts: NDArray[np.float64], part: float, at: int) -> float:
    below = float(parts[at])
    return below if part == 0.0 else below + part * (float(parts[at + 1]) - below)


def _clustered_error(values: NDArray[np.float64], starts: NDArray[np.intp], q: float) -> float:
    """Return the standard error of the share of rows at or below the quantile, by the delta method over clusters."""
    at = np.partition(values, max(math.ceil(q * len(values)) - 1, 0))[max(math.ceil(q * len(values)) - 1, 0)]
    rows = np.diff(starts).astype(np.float64)
    below = np.add.reduceat((values <= at).astype(np.float64), starts[:-1])
    stats = Stats.of({"below": below, "rows": rows})
    share, mean = stats.mean("below") / stats.mean("rows"), stats.mean("rows")
    return math.sqrt(stats.combine({"below": 1.0 / mean, "rows": -share / mean}).variance / stats.n)
