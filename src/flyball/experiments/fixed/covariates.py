"""Less noise for the same users: CUPED and post-stratification, from sufficient statistics.

Both use what was known of a unit before its first exposure. The surprise: theta is fitted within the arms and shared by
them, so that the adjustment cannot invent an effect; it takes away only what chance put into the split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, Scale
from flyball.experiments.fixed.pivots import NOTHING_SHARED, ArmValue, Shared, mean_of, satterthwaite
from flyball.experiments.fixed.ratios import linearised, on_scale
from flyball.experiments.stats import Stats

__all__ = ["cuped", "post_stratified", "theta"]
_COLLINEAR = 1e-10  # eigenvalues of the correlations below this say nothing new


def theta(
    treatment: Stats, control: Stats, metric: str | Mapping[str, float], covariates: Sequence[str]
) -> tuple[float, ...]:
    """Return the slopes of a metric on covariates, pooled within the arms, shape (k,).

    A covariate that is constant, or a sum of others, gets the slope that adds nothing (minimum norm).
    """
    weights = {metric: 1.0} if isinstance(metric, str) else metric
    return _slopes([(treatment, weights), (control, weights)], covariates)


def cuped(
    treatment: Stats,
    control: Stats,
    metric: str,
    covariates: str | Sequence[str],
    *,
    over: str | None = None,
    scale: Scale | str = Scale.DIFFERENCE,
    method: str = "fieller",
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return the effect on a metric after taking out what covariates from before the experiment explain.

    Reference: Deng, Xu, Kohavi, Walker (2013), "Improving the sensitivity of online controlled experiments by
    utilizing pre-experiment data", with several covariates. Where we differ: theta comes from the products within the
    arms (not of all units together, where an effect would leak into it), and what it costs is paid for: its degrees
    of freedom, its own error where the arms' covariates differ by chance, and, on the relative scale, the noise of
    the covariates' common mean.

    Args:
        treatment: Statistics with metric and covariates, one row per unit.
        control: Likewise.
        metric: Column of the outcome.
        covariates: One or more columns known before the first exposure.
        over: Denominator column of a ratio metric; None for a mean.
        scale: "difference", or "relative" to the control's adjusted value.
        method: For the relative scale, "fieller" or "delta".
        null: The effect under the null hypothesis, on that scale.
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".

    Returns:
        The adjusted effect; a note says which share of the variance the covariates took away.

    Raises:
        InputError: no covariate, too few units, nothing left of the variance, or a relative effect near zero.

    Example:
        >>> t = Stats.of({"spend": [5.0, 7.0, 9.0, 12.0], "before": [4.0, 6.0, 8.5, 10.0]})
        >>> c = Stats.of({"spend": [4.0, 6.0, 7.5, 11.0], "before": [4.0, 6.5, 8.0, 11.0]})
        >>> estimate = cuped(t, c, "spend", "before")
        >>> round(estimate.effect, 3), estimate.notes
        (1.387, ('the covariate takes away 97 % of the variance',))
    """
    names = [covariates] if isinstance(covariates, str) else list(covariates)
    _check_covariates(names, metric, over)
    arms = [
        (treatment, _weights(treatment, metric, over, "treatment")),
        (control, _weights(control, metric, over, "control")),
    ]
    slopes = _slopes(arms, names)
    n = treatment.n + control.n
    if n - 2 - len(names) < 1:
        raise InputError(f"{n} units for {len(names)} covariates; CUPED needs {len(names) + 3} or more")
    paid = (n - 2) / (n - 2 - len(names))
    t, c = (_adjusted(arm, weights, over, metric, names, slopes, (treatment, control), paid) for arm, weights in arms)
    _refuse_explained((t, c), arms)
    shared = _common_mean(treatment, control, names, slopes) + _error_of_slopes(treatment, control, names, (t, c))
    estimate = on_scale(t, c, scale, "CUPED means" if over is None else "CUPED ratios", how=method, null=null,
                        level=level, alternative=alternative, shared=shared)  # fmt: skip
    return estimate.noted(_saved((t, c), arms, len(names)))


def post_stratified(
    treatment: Mapping[str, Stats],
    control: Mapping[str, Stats],
    metric: str,
    *,
    over: str | None = None,
    shares: Mapping[str, float] | None = None,
    scale: Scale | str = Scale.DIFFERENCE,
    method: str = "fieller",
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return the effect when each stratum weighs the same in both arms.

    Reference: Miratrix, Sekhon, Yu (2013), "Adjusting treatment effect estimates by post-stratification in randomized
    experiments"; the variance is the one conditional on how many units of each stratum fell into each arm, and, unless
    the shares are given, that of the shares themselves, which counts where strata differ in their effects.

    Args:
        treatment: Statistics by stratum; a stratum is known before the first exposure, such as the country.
        control: Likewise, the same strata.
        metric: Column of the outcome.
        over: Denominator column of a ratio metric, taken within each stratum; None for a mean.
        shares: Weight of each stratum, summing to 1; None takes the units of both arms together.
        scale: "difference", or "relative" to the control's value.
        method: For the relative scale, "fieller" or "delta".
        null: The effect under the null hypothesis, on that scale.
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".

    Raises:
        InputError: strata differ between the arms, one has fewer than two units in an arm, or shares do not sum to 1.

    Example:
        >>> t = {"new": Stats.of({"y": [1.0, 2.0, 3.0]}), "old": Stats.of({"y": [7.0, 9.0]})}
        >>> c = {"new": Stats.of({"y": [1.0, 2.0]}), "old": Stats.of({"y": [6.0, 8.0, 7.0]})}
        >>> round(post_stratified(t, c, "y").effect, 3)
        0.75
    """
    weights = _strata(treatment, control, shares)
    t = _weighted(treatment, weights, metric, over, "treatment")
    c = _weighted(control, weights, metric, over, "control")
    shared = _noise_of_shares(treatment, control, weights, metric, over) if shares is None else NOTHING_SHARED
    return on_scale(t, c, scale, f"values over {len(weights)} strata", how=method, null=null, level=level,
                    alternative=alternative, shared=shared)  # fmt: skip


def _noise_of_shares(
    treatment: Mapping[str, Stats], control: Mapping[str, Stats], weights: Mapping[str, float], metric: str,
    over: str | None,
) -> Shared:  # fmt: skip
    """Return how the strata's values vary over the units' strata, per unit: the noise of shares that were counted."""
    n = sum(treatment[name].n + control[name].n for name in weights)
    share = np.array(list(weights.values()))
    table = np.array([[_value(arm[name], metric, over) for name in weights] for arm in (treatment, control)])
    table = table - (table @ share)[:, None]
    noise = (table * share) @ table.T / n
    return Shared(float(noise[0, 0]), float(noise[1, 1]), float(noise[0, 1]))


def _value(stats: Stats, metric: str, over: str | None) -> float:
    return stats.mean(metric) if over is None else stats.mean(metric) / stats.mean(over)


def _weights(stats: Stats, metric: str, over: str | None, arm: str) -> dict[str, float]:
    mean_of(stats[metric], arm)  # says when there are too few units
    return {metric: 1.0} if over is None else linearised(stats, metric, over, arm)


def _slopes(arms: Sequence[tuple[Stats, Mapping[str, float]]], covariates: Sequence[str]) -> tuple[float, ...]:
    within = _within(arms[0][0], arms[1][0], covariates)
    crossed = sum(_products(stats, covariates, list(w)) @ np.array(list(w.values())) for stats, w in arms)
    size = np.sqrt(np.diag(np.asarray(within)))
    size = np.where(size > 0.0, size, 1.0)
    correlations = np.asarray(within) / np.outer(size, size)
    solved = np.linalg.pinv(correlations, rcond=_COLLINEAR, hermitian=True) @ (np.asarray(crossed) / size)
    return tuple((solved / size).tolist())


def _products(stats: Stats, rows: Sequence[str], columns: Sequence[str]) -> NDArray[np.float64]:
    chosen = stats.select(*rows, *columns).products
    return np.array(chosen, dtype=np.float64)[: len(rows), len(rows) :]


def _adjusted(
    stats: Stats,
    weights: Mapping[str, float],
    over: str | None,
    metric: str,
    covariates: Sequence[str],
    slopes: Sequence[float],
    both: tuple[Stats, Stats],
    paid: float,
) -> ArmValue:
    """Return an arm's value as if its covariates had the mean of both arms together."""
    n = both[0].n + both[1].n
    value = _value(stats, metric, over)
    other = both[1] if stats is both[0] else both[0]
    shift = (
        slope * (stats.mean(name) - other.mean(name)) * (other.n / n)
        for name, slope in zip(covariates, slopes, strict=True)
    )
    combined = dict(weights)
    for name, slope in zip(covariates, slopes, strict=True):
        combined[name] = combined.get(name, 0.0) - slope
    spread = stats.combine(combined)
    return ArmValue(value - math.fsum(shift), spread.variance / stats.n * paid, stats.n, (stats.n - 1.0) / paid)


def _common_mean(treatment: Stats, control: Stats, names: Sequence[str], slopes: Sequence[float]) -> Shared:
    """Return the noise of the covariates' mean over both arms, to which both are moved: it cancels in a difference."""
    n = treatment.n + control.n
    within = _within(treatment, control, names)
    noise = float(np.array(slopes) @ within @ np.array(slopes)) / max(n - 2, 1) / n
    return Shared(noise, noise, noise)


def _error_of_slopes(
    treatment: Stats, control: Stats, names: Sequence[str], adjusted: tuple[ArmValue, ArmValue]
) -> Shared:
    """Return what the slopes' own error adds: the residual variance times gap' W^-1 gap, as analysis of covariance has.

    W are the covariates' products within the arms, the gap is between the arms' means of them. Each arm is moved by
    its part of the gap, in opposite directions.
    """
    n = treatment.n + control.n
    gap = np.array([treatment.mean(name) - control.mean(name) for name in names])
    within = _within(treatment, control, names)
    size = np.sqrt(np.where(np.diag(within) > 0.0, np.diag(within), 1.0))
    lean = float((gap / size) @ np.linalg.pinv(within / np.outer(size, size), rcond=_COLLINEAR, hermitian=True)
                 @ (gap / size))  # fmt: skip
    residual = math.fsum(arm.variance * arm.n * (arm.n - 1) for arm in adjusted) / max(n - 2, 1)
    ours, theirs = control.n / n, treatment.n / n
    noise = residual * max(lean, 0.0)
    return Shared(noise * ours * ours, noise * theirs * theirs, -noise * ours * theirs)


def _within(treatment: Stats, control: Stats, names: Sequence[str]) -> NDArray[np.float64]:
    return _products(treatment, names, names) + _products(control, names, names)


def _check_covariates(names: Sequence[str], metric: str, over: str | None) -> None:
    if not names or len(set(names)) < len(names):
        raise InputError(f"covariates are {list(names)}; give one or more different columns from before the experiment")
    for column in (metric, over):
        if column in names:
            raise InputError(f"{column!r} is both metric and covariate; a covariate is known before the first exposure")


def _raw(arms: Sequence[tuple[Stats, Mapping[str, float]]]) -> float:
    return math.fsum(stats.combine(weights).variance / stats.n for stats, weights in arms)


def _refuse_explained(adjusted: Sequence[ArmValue], arms: Sequence[tuple[Stats, Mapping[str, float]]]) -> None:
    raw = _raw(arms)
    if raw > 0.0 and math.fsum(arm.variance for arm in adjusted) <= 1e-12 * raw:
        raise InputError(
            "the covariates explain the metric without remainder; they may hold the outcome itself: "
            "take columns from before the first exposure"
        )


def _saved(adjusted: Sequence[ArmValue], arms: Sequence[tuple[Stats, Mapping[str, float]]], k: int) -> str:
    raw = _raw(arms)
    saved = 1.0 - math.fsum(arm.variance for arm in adjusted) / raw if raw > 0.0 else 0.0
    who = "the covariate takes" if k == 1 else f"{k} covariates take"
    return f"{who} away {max(saved, 0.0):.0%} of the variance".replace("%", " %")


def _strata(
    treatment: Mapping[str, Stats], control: Mapping[str, Stats], shares: Mapping[str, float] | None
) -> dict[str, float]:
    names = sorted(treatment, key=str)
    if not names or set(names) != set(control):
        raise InputError(
            f"treatment has strata {names} and control has {sorted(control, key=str)}; "
            "both need the same, so merge rare strata first"
        )
    for name in names:
        for arm, stats in (("treatment", treatment[name]), ("control", control[name])):
            if stats.n < 2:
                raise InputError(f"stratum {name!r} has {stats.n} units of {arm}, it needs 2; merge it with another")
    n = sum(treatment[name].n + control[name].n for name in names)
    if shares is None:
        return {name: (treatment[name].n + control[name].n) / n for name in names}
    total = math.fsum(shares.values())
    if set(shares) != set(names) or min(shares.values()) < 0.0 or abs(total - 1.0) > 1e-9:
        raise InputError(f"shares {dict(shares)} for strata {names}; give each its share, 0 or more, summing to 1")
    return dict(shares)


def _weighted(
    strata: Mapping[str, Stats], weights: Mapping[str, float], metric: str, over: str | None, arm: str
) -> ArmValue:
    parts = []
    for name, weight in weights.items():
        stats = strata[name]
        value = _value(stats, metric, over)
        spread = stats.combine(_weights(stats, metric, over, f"{arm} in stratum {name!r}"))
        parts.append(ArmValue(value, spread.variance / stats.n, stats.n, stats.n - 1.0).times(weight))
    variance = math.fsum(part.variance for part in parts)
    df = satterthwaite(*parts) if variance > 0.0 else float(sum(part.n - 1 for part in parts))
    return ArmValue(math.fsum(part.value for part in parts), variance, sum(part.n for part in parts), df)
