"""Power of tests of means: Welch's t, with covariates that explain a part and units that come in clusters.

The surprise: with clusters the degrees of freedom count clusters, so ten schools of a thousand pupils are judged by a t
with few degrees of freedom, however many pupils there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as sp

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative
from flyball.experiments.power.clusters import Clusters, check_r2, clusters_note, noise_factor
from flyball.experiments.power.plan import PowerPlan, absolute, solve
from flyball.experiments.stats import Stats

__all__ = ["Means", "r_squared", "plan_means", "t_power", "z_power"]

_LARGE = 20_000  # degrees of freedom from which t is taken as normal


@dataclass(frozen=True, slots=True)
class Means:
    """The difference of two means.

    Args:
        sd: Deviations of a unit in (treatment, control), > 0.
        base: The control's mean, to give effects as shares of it; None if unknown.
        r2: Share of the variance that covariates explain, in [0, 1).
        clusters: How units are clustered; None if they are not.
        kind: What the values are.
    """

    sd: tuple[float, float]
    base: float | None = None
    r2: float = 0.0
    clusters: Clusters | None = None
    kind: str = "means"

    def __post_init__(self) -> None:
        if not all(0.0 < sd < math.inf for sd in self.sd):
            raise InputError(f"sd is {self.sd}; a unit's deviation is above 0 and finite")
        check_r2(self.r2)

    @property
    def scale(self) -> float:
        """The deviations' quadratic mean."""
        return math.hypot(*self.sd) / math.sqrt(2.0)

    @property
    def largest(self) -> float:
        """No bound."""
        return math.inf

    def power(self, effect: float, n: tuple[float, float], *, alpha: float, alternative: Alternative) -> float:
        """Return the power of Welch's t; degrees of freedom count clusters where there are some."""
        inflation, unit = noise_factor(self.r2, self.clusters), self.scale
        parts = [(sd / unit) ** 2 * inflation / size for sd, size in zip(self.sd, n, strict=True)]
        independent = [max(size / self.clusters.size if self.clusters else size, 2.0) for size in n]
        df = sum(parts) ** 2 / sum(part**2 / (m - 1.0) for part, m in zip(parts, independent, strict=True))
        return t_power(effect / unit / math.sqrt(sum(parts)), df, alpha=alpha, alternative=alternative)

    def standardised(self, effect: float) -> float:
        """Return Cohen's d, by a unit's own deviation (before covariates)."""
        return effect / self.scale

    def describe(self) -> dict[str, Any]:
        """Return plain data."""
        return {"sd": list(self.sd), "base": self.base, "r2": self.r2,
                "clusters": self.clusters and self.clusters.to_dict()}  # fmt: skip


def plan_means(
    *,
    sd: float | tuple[float, float],
    effect: float | None = None,
    relative: float | None = None,
    base: float | None = None,
    n: int | tuple[int, int] | None = None,
    power: float | None = None,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    ratio: float = 1.0,
    comparisons: int = 1,
    r2: float = 0.0,
    clusters: Clusters | None = None,
) -> PowerPlan:
    """Return the missing one of effect, units and power for the difference of two means.

    Args:
        sd: Deviation of a unit, or of one in (treatment, control).
        effect: Treatment less control, in the metric's unit.
        relative: The same as a share of `base`: 0.05 is 5 % more.
        base: The control's mean.
        n: Units of the control, or of (treatment, control).
        power: Chance to find the effect; 0.8 unless both others are given.
        level: Confidence of the whole experiment.
        alternative: "two-sided", "greater" or "less".
        ratio: Units of a treatment for each of the control.
        comparisons: Treatments compared with the control, each tested at alpha / comparisons.
        r2: Share of the variance that covariates explain (CUPED); see `r_squared`.
        clusters: How units are clustered.

    Returns:
        `PowerPlan`; n counts units, not clusters.

    Raises:
        InputError: a value is out of its range, or too many or too few are given.

    Example:
        >>> plan_means(sd=10.0, effect=5.0).n  # d = 0.5, Cohen's (1988) table: 64
        (64, 64)
        >>> plan_means(sd=10.0, effect=0.5).n[0], plan_means(sd=10.0, effect=0.5, r2=0.5).n[0]
        (6281, 3141)
    """
    problem = Means(sd if isinstance(sd, tuple) else (sd, sd), base, r2, clusters)
    return solve(problem, effect=absolute(effect, relative, base), n=n, power=power, level=level,
                 alternative=alternative, ratio=ratio, comparisons=comparisons,
                 notes=clusters_note(clusters))  # fmt: skip


def r_squared(stats: Stats, outcome: str, *covariates: str) -> float:
    """Return R², the share of the outcome's variance that covariates explain; what CUPED takes away.

    Args:
        stats: Statistics of past units.
        outcome: Column of the metric.
        covariates: Columns known before the assignment.

    Raises:
        InputError: below len(covariates) + 2 units, or an outcome that does not vary.

    Example:
        >>> round(r_squared(Stats.of({"y": [1.0, 2.0, 3.0, 5.0], "x": [1.0, 2.0, 3.0, 4.0]}), "y", "x"), 3)
        0.966
    """
    if stats.n < len(covariates) + 2 or stats.variance(outcome) == 0.0:
        raise InputError(f"{stats.n} units with a variance of {stats.variance(outcome)} in {outcome!r} tell no R²; "
                         "give more units")  # fmt: skip
    cross = np.array([stats.covariance(outcome, name) for name in covariates])
    table = np.array([[stats.covariance(a, b) for b in covariates] for a in covariates])
    fitted = float(cross @ np.linalg.lstsq(table, cross, rcond=None)[0])
    return min(max(fitted / stats.variance(outcome), 0.0), 1.0)


def t_power(shift: float, df: float, *, alpha: float, alternative: Alternative) -> float:
    """Return the power of a t test whose statistic is shifted by `shift` standard errors."""
    if df >= _LARGE:
        return z_power(shift, alpha=alpha, alternative=alternative)
    if alternative is not Alternative.TWO_SIDED:
        return float(sp.nct.sf(sp.t.isf(alpha, df), df, alternative.toward(shift)))
    critical = sp.t.isf(alpha / 2.0, df)
    found = float(sp.nct.sf(critical, df, abs(shift)))
    other = float(sp.nct.cdf(-critical, df, abs(shift)))
    return found + (other if math.isfinite(other) else 0.0)


def z_power(shift: float, *, alpha: float, alternative: Alternative, widened: float = 1.0) -> float:
    """Return the power of a z test whose statistic is shifted by `shift` of its own standard errors.

    Args:
        shift: Effect over the statistic's standard error.
        alpha: Error of the test.
        alternative: What it looks for.
        widened: The standard error that the test assumes, over the true one.
    """
    if alternative is Alternative.TWO_SIDED:
        critical = sp.norm.isf(alpha / 2.0) * widened
        return float(sp.norm.sf(critical - shift) + sp.norm.cdf(-critical - shift))
    return float(sp.norm.sf(sp.norm.isf(alpha) * widened - alternative.toward(shift)))
