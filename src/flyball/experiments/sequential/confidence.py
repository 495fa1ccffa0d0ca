"""Bounds on means and rates that hold at every look.

Means: the one-sided normal-mixture confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024),
asymptotic, so no bound is given below `BURN` values. Rates: Robbins' beta-binomial mixture, exact, because a rate of
zero failures has no variance to go by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flyball.experiments.sequential.beta import rate_bound
from flyball.experiments.stats import Moments

__all__ = ["BURN", "Bounds", "difference", "mean_bounds", "radius", "rate_lower", "rate_upper", "spread_apart"]

BURN = 50
_TUNED_FOR = 500.0  # the number of values at which the sequence is tightest
_PRIOR = (0.5, 10.0)  # beta prior of the rate mixture: most of its weight on small rates


@dataclass(frozen=True, slots=True)
class Bounds:
    """An estimate between two one-sided bounds, each of which holds at every look, at a level of its own.

    This is what a release asks for: harm beyond the margin and safety within it have errors of their own. An interval
    of one level is an `Estimate`, or of one arm an `Interval`.

    Args:
        estimate: The point estimate.
        lower: Lower bound; -inf while nothing can be said.
        upper: Upper bound; inf while nothing can be said.
        n: Values it rests on; of a difference, the candidate's.
        error: The estimate's standard error; inf while it is unknown.
    """

    estimate: float
    lower: float
    upper: float
    n: int
    error: float = math.inf


def radius(n: float, variance: float, *, alpha: float, tuned: float = _TUNED_FOR) -> float:
    """Return the half-width of the one-sided sequence (Waudby-Smith et al. 2024, proposition B.1).

    Args:
        n: Number of values, > 0.
        variance: Their variance, >= 0.
        alpha: One-sided error over all looks, in (0, 0.5).
        tuned: Number of values at which the sequence is tightest.
    """
    spent = -2.0 * math.log(2.0 * alpha)
    rho2 = (spent + math.log(spent) + 1.0) / tuned if spent > 1.0 else 1.0 / tuned
    grown = n * rho2 + 1.0
    return math.sqrt(variance * 2.0 * grown / (n * n * rho2) * math.log1p(math.sqrt(grown) / (2.0 * alpha)))


def mean_bounds(moments: Moments, *, lower: float, upper: float) -> Bounds:
    """Return bounds on the mean of a stream, for instance of paired differences.

    Asymptotic: of skewed values the bound on the side of the rare ones is too near while few of those were seen. Looked
    at from 50 values on with alpha 1 %, the upper bound fell below a rate of 2 % in 11 % of 400 simulated runs, below
    the mean of exponential values in 3.5 %. Take `rate_upper` for rates, and `Betting` for bounded values.

    Args:
        moments: The stream so far.
        lower: Error level of the lower bound.
        upper: Error level of the upper bound.

    Returns:
        Bounds, infinite below `BURN` values, and while all values are equal: 50 times 0 tell nothing of a rate of 1 %.

    Example:
        >>> bounds = mean_bounds(Moments(400, 1.0, 400.0), lower=0.01, upper=0.05)
        >>> round(bounds.lower, 3), round(bounds.upper, 3)
        (0.832, 1.139)
    """
    if moments.n < BURN or moments.m2 <= 0.0:
        return Bounds(moments.mean, -math.inf, math.inf, moments.n)
    below = radius(moments.n, moments.variance, alpha=lower)
    above = radius(moments.n, moments.variance, alpha=upper)
    error = math.sqrt(moments.variance / moments.n)
    return Bounds(moments.mean, moments.mean - below, moments.mean + above, moments.n, error)


def difference(strata: Sequence[tuple[Moments, Moments]], *, lower: float, upper: float) -> Bounds:
    """Return bounds on mean(candidate) - mean(control), unpaired, weighted by the candidate's count per stratum.

    A stratum is a stretch of constant allocation: pooling them would compare a candidate's Tuesday with a control's
    Monday. The variance is that of the influence function of Waudby-Smith et al. (2024), section 3, with known shares;
    where we differ, a small arm does not judge itself (see `spread_apart`), and arms without spread have no bounds.

    Args:
        strata: (candidate, control) moments of each stretch.
        lower: Error level of the lower bound.
        upper: Error level of the upper bound.
    """
    usable = [(c, b) for c, b in strata if c.n >= 2 and b.n >= 2]
    total = sum(c.n for c, _ in usable)
    if not usable:
        return Bounds(0.0, -math.inf, math.inf, 0)
    shares = [c.n / total for c, _ in usable]
    estimate = math.fsum(w * (c.mean - b.mean) for w, (c, b) in zip(shares, usable, strict=True))
    if total < BURN or sum(b.n for _, b in usable) < BURN:
        return Bounds(estimate, -math.inf, math.inf, total)
    spread = math.fsum(w * w * spread_apart(c, b) for w, (c, b) in zip(shares, usable, strict=True))
    if spread <= 0.0:
        return Bounds(estimate, -math.inf, math.inf, total)
    n = total + sum(b.n for _, b in usable)
    below, above = radius(n, n * spread, alpha=lower), radius(n, n * spread, alpha=upper)
    return Bounds(estimate, estimate - below, estimate + above, total, math.sqrt(spread))


def spread_apart(one: Moments, other: Moments) -> float:
    """Return the squared standard error of the difference of two means: each arm's own, or the pooled if larger.

    A small arm of skewed values that missed the rare large ones has a low mean *and* a low variance, so it would call
    itself surely lower: at 50 of 5,000 units with a rate of 2 %, in a third of all A/A runs. The other knows better.
    Of equal arms the two are the same.

    Args:
        one: An arm of one value or more, two in both together being needed to tell anything.
        other: Likewise.
    """
    own = one.variance / one.n + other.variance / other.n
    pooled = (one.m2 + other.m2) / max(one.n + other.n - 2, 1)
    return max(own, pooled * (1.0 / one.n + 1.0 / other.n))


def rate_upper(events: int, n: int, *, alpha: float) -> float:
    """Return an upper bound on a rate that holds at every look; 1 when nothing was seen.

    Example:
        >>> 0.004 < rate_upper(0, 1000, alpha=0.05) < 0.007
        True
    """
    return 1.0 if n == 0 else rate_bound(events, n, prior=_PRIOR, alpha=alpha, outside=1.0)


def rate_lower(events: int, n: int, *, alpha: float) -> float:
    """Return a lower bound on a rate that holds at every look; 0 when no event was seen."""
    return 0.0 if events == 0 else rate_bound(events, n, prior=_PRIOR, alpha=alpha, outside=0.0)
