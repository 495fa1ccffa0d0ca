"""Effects without units: Cohen's d, Hedges' g, Cohen's h, each with its interval.

The surprise: the interval of d is not d plus or minus something; it comes from the noncentral t distribution and leans
away from zero.
"""

from __future__ import annotations

import math
from dataclasses import replace

from numpy.typing import ArrayLike
from scipy import optimize, special

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, Scale, alternative_of
from flyball.experiments.fixed.means import pooled_arms
from flyball.experiments.fixed.pivots import ArmValue, critical, p_value, pivot, refuse_constant, tail_of
from flyball.experiments.fixed.shares import Share, count_of
from flyball.experiments.fixed.spreads import spreads
from flyball.experiments.stats import Sample

__all__ = ["cohens_d", "cohens_h", "hedges_g"]
_EXACT_DF = 2_000  # beyond, and for t beyond _EXACT_T, the noncentral t is normal to four digits
_EXACT_T = 30.0


def cohens_d(
    treatment: Sample | ArrayLike,
    control: Sample | ArrayLike,
    *,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return the difference of means in pooled standard deviations.

    References: Cohen (1988); interval by inverting the noncentral t (Steiger and Fouladi 1997), beyond 2,000 degrees
    of freedom by its normal limit (Hedges and Olkin 1985, p. 86).

    Args:
        treatment: Moments, or values of shape (n,); three units in both arms together.
        control: Likewise.
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".

    Returns:
        d on the standardised scale; the p value is Student's.

    Raises:
        InputError: too few units, a missing value, or neither arm varies.

    Example:
        >>> from flyball.experiments.stats import Moments
        >>> estimate = cohens_d(Moments(20, 10.5, 19.0), Moments(20, 10.0, 19.0))
        >>> round(estimate.effect, 3), round(estimate.lower, 3), round(estimate.upper, 3)
        (0.5, -0.133, 1.127)
    """
    side, tail = alternative_of(alternative), tail_of(level, alternative)
    t, c = pooled_arms(treatment, control)
    refuse_constant(t, c)
    se = math.sqrt(t.variance + c.variance)
    statistic, per = (t.value - c.value) / se, math.sqrt(1.0 / t.n + 1.0 / c.n)
    lower, upper = _noncentral(statistic, t.df, per, tail)
    return Estimate(
        statistic * per,
        *side.ends(lower, upper),
        p_value(statistic, side, t.df),
        statistic,
        (t.n, c.n),
        "Cohen's d",
        level=level,
        alternative=side,
        scale=Scale.STANDARDISED,
        treatment=t.value,
        control=c.value,
        df=t.df,
    )


def hedges_g(
    treatment: Sample | ArrayLike,
    control: Sample | ArrayLike,
    *,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return Cohen's d without its bias in small samples: d and its interval times J(df).

    Reference: Hedges (1981), equation 6: J(m) = Gamma(m / 2) / (sqrt(m / 2) Gamma((m - 1) / 2)).

    Args:
        treatment: Moments, or values of shape (n,); four units in both arms together.
        control: Likewise.
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".

    Raises:
        InputError: too few units, a missing value, or neither arm varies.

    Example:
        >>> from flyball.experiments.stats import Moments
        >>> round(hedges_g(Moments(20, 10.5, 19.0), Moments(20, 10.0, 19.0)).effect, 4)
        0.4901
    """
    d = cohens_d(treatment, control, level=level, alternative=alternative)
    df = sum(d.n) - 2
    if df < 2:
        raise InputError(f"{sum(d.n)} units are too few for Hedges' g; it takes 4")
    j = unbias(df)
    return replace(d, effect=d.effect * j, lower=d.lower * j, upper=d.upper * j, method="Hedges' g")


def cohens_h(
    treatment: Share,
    control: Share,
    *,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return the difference of two shares on the arcsine scale, where 0.2 is small and 0.8 large wherever they lie.

    Reference: Cohen (1988), chapter 6: h = 2 arcsin sqrt(p1) - 2 arcsin sqrt(p2), of variance 1/n + 1/m.

    Args:
        treatment: Count, moments of zeros and ones, or zeros and ones of shape (n,).
        control: Likewise.
        level: Confidence level of the interval, which is cut to [-pi, pi].
        alternative: "two-sided", "greater" or "less".

    Example:
        >>> from flyball.experiments.fixed.shares import Count
        >>> round(cohens_h(Count(50, 100), Count(40, 100)).effect, 4)
        0.2014
    """
    t, c = (
        ArmValue(2.0 * math.asin(math.sqrt(count.share)), 1.0 / count.n, count.n, math.inf)
        for count in (count_of(treatment), count_of(control))
    )
    estimate = pivot(
        t.value - c.value,
        math.hypot(1.0 / math.sqrt(t.n), 1.0 / math.sqrt(c.n)),
        math.inf,
        t,
        c,
        "Cohen's h",
        0.0,
        level,
        alternative,
        Scale.STANDARDISED,
    )
    return replace(
        estimate,
        lower=estimate.lower if math.isinf(estimate.lower) else max(estimate.lower, -math.pi),
        upper=estimate.upper if math.isinf(estimate.upper) else min(estimate.upper, math.pi),
        treatment=count_of(treatment).share,
        control=count_of(control).share,
    )


def unbias(df: float) -> float:
    """Return Hedges' J(df), the factor in (0, 1) that takes the bias out of d."""
    return float(special.poch((df - 1.0) / 2.0, 0.5)) / math.sqrt(df / 2.0)


def _noncentral(statistic: float, df: float, per: float, tail: float) -> tuple[float, float]:
    """Return the ends of d's interval: the noncentralities at which t is at its upper and its lower `tail`."""
    if df > _EXACT_DF or abs(statistic) > _EXACT_T:
        se = math.sqrt(per * per + (statistic * per) ** 2 / (2.0 * df))
        reach = critical(1.0 - 2.0 * tail, Alternative.TWO_SIDED) * se
        return statistic * per - reach, statistic * per + reach
    return per * _shift(statistic, df, 1.0 - tail), per * _shift(statistic, df, tail)


def _shift(statistic: float, df: float, below: float) -> float:
    """Return the noncentrality under which t lies below `statistic` with probability `below`."""
    s, weights = spreads(df, 512)

    def excess(shift: float) -> float:
        return float(weights @ special.ndtr(statistic * s - shift)) - below

    reach = 6.0 + abs(float(special.ndtri(below))) + 4.0 * abs(statistic) / math.sqrt(max(df, 1.0))
    low, high = statistic - reach, statistic + reach
    while excess(low) < 0.0:
        low -= reach
    while excess(high) > 0.0:
        high += reach
    return float(optimize.brentq(excess, low, high, xtol=1e-10))
