"""Normal-mixture confidence sequences: intervals for means and for the difference of two arms that hold at every look.

Under "the effect is d" the likelihood ratio of effects spread around d as N(0, tau²) is a martingale with mean 1, so
by Ville's inequality it exceeds 1 / alpha at *any* look with a chance of at most alpha; the interval holds the effects
that it does not exclude. The surprise: with a known deviation this is exact for normal values from the first one on,
and with an estimated one it is only asymptotic; each result says in its notes which of the two it is.

References: Robbins (1970); Howard, Ramdas, McAuliffe, Sekhon (2021), propositions 5 and 6; Waudby-Smith, Arbour, Sinha,
Kennedy, Ramdas (2024), theorem 2.2 and proposition B.1.
"""

from __future__ import annotations

import math
from dataclasses import replace

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, alternative_of, check_level
from flyball.experiments.sequential.confidence import BURN, spread_apart
from flyball.experiments.stats import Moments, Sample, moments

__all__ = ["check_sigma", "estimate_at", "interval", "mean_difference_sequence", "mean_sequence", "mixture_p",
           "mixture_radius", "mixture_tau2", "spread_of", "what_holds"]  # fmt: skip

ASYMPTOTIC = f"asymptotic: the level holds for large samples, and nothing is said below {BURN} values an arm"
EXACT = "exact for normal values of the given deviation, at any size"
TOO_FEW = f"fewer than {BURN} values in an arm: no bound yet"
NO_SPREAD = "all values are equal, so they tell nothing of their spread: no bound; use a rate or betting sequence"


def mixture_tau2(variance: float, *, tuned: float, alpha: float, alternative: Alternative) -> float:
    """Return the mixing variance that makes the sequence tightest when `tuned` values were seen.

    Args:
        variance: Variance of one value, > 0.
        tuned: Number of values, > 0.
        alpha: Error over all looks, in (0, 1); a one-sided sequence is tuned as the two-sided one of twice that.
        alternative: Which sides are bounded.
    """
    if not tuned > 0.0:
        raise InputError(f"tuned is {tuned}; it is the number of values at which the sequence is tightest, above 0")
    both = alpha if alternative is Alternative.TWO_SIDED else min(2.0 * alpha, 0.999)
    spent = -2.0 * math.log(both)
    return variance * (spent + math.log1p(spent)) / tuned  # Howard et al. (2021), equation 3.3, without Lambert's W


def mixture_radius(spread: float, *, tau2: float, alpha: float, alternative: Alternative) -> float:
    """Return how far the interval reaches from the estimate.

    Args:
        spread: Squared standard error of the estimate, > 0.
        tau2: Variance of the mixture, > 0.
        alpha: Error over all looks, in (0, 1).
        alternative: Two-sided, or either side alone, which is nearer.
    """
    growth = math.sqrt(1.0 + tau2 / spread)
    log = math.log(growth / alpha) if alternative is Alternative.TWO_SIDED else math.log1p(growth / (2.0 * alpha))
    return math.sqrt(2.0 * spread * (1.0 + spread / tau2) * log)


def mixture_p(effect: float, spread: float, *, tau2: float, alternative: Alternative) -> float:
    """Return the always-valid p value of "no effect": the smallest alpha whose interval leaves 0 out; at most 1.

    Args:
        effect: The estimate.
        spread: Its squared standard error, > 0.
        tau2: Variance of the mixture, > 0.
        alternative: What is looked for.
    """
    toward = alternative.toward(effect)
    if toward <= 0.0:
        return 1.0
    log_growth = 0.5 * math.log1p(tau2 / spread)
    x = toward * (toward / spread) / (2.0 * (1.0 + spread / tau2))
    if alternative is Alternative.TWO_SIDED:
        return math.exp(min(log_growth - x, 0.0))
    log_shrunk = x + math.log(-math.expm1(-x)) if x > 0.0 else -math.inf  # log(e**x - 1) without overflow
    return math.exp(min(log_growth - math.log(2.0) - log_shrunk, 0.0))


def mean_sequence(
    sample: Sample,
    *,
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    sigma: float | None = None,
    tuned: float = 500.0,
) -> Estimate:
    """Return a mean's distance from `null` with an interval that holds at every look.

    Args:
        sample: The values so far, or their moments; for instance of paired differences.
        null: What the mean is compared with.
        level: Confidence over all looks together.
        alternative: "two-sided", "greater" or "less"; a one-sided interval reaches to infinity on the other side.
        sigma: The values' deviation (or sub-Gaussian scale) if it is known; the sequence is then exact.
        tuned: Number of values at which the sequence is tightest; to be chosen before looking.

    Returns:
        `Estimate` with n = (values, 0); unbounded, with p = 1, where nothing can be said yet.

    Raises:
        InputError: a value is missing, or an argument out of its range.

    Example:
        >>> print(mean_sequence(Moments(400, 1.0, 400.0)))
        normal-mixture sequence: +1 [+0.8478, +1.152] at 95%, p = 3.81e-75, n = 400 against 0
          asymptotic: the level holds for large samples, and nothing is said below 50 values an arm
    """
    stream = moments(sample)
    variance = _known(sigma, stream.variance)
    tuning = _tuning(variance, tuned, level, alternative)
    spread = variance / stream.n if stream.n else 0.0
    known = what_holds(sigma, stream.n, spread)
    found = estimate_at(stream.mean - null, spread, (stream.n, 0), level, alternative, tuning, known)
    return replace(found, treatment=stream.mean, control=null)


def mean_difference_sequence(
    treatment: Sample,
    control: Sample,
    *,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    sigma: float | None = None,
    tuned: float = 1000.0,
) -> Estimate:
    """Return mean(treatment) - mean(control) with an interval that holds at every look.

    The two sizes may differ and the allocation may change, as long as it does not look at the outcomes. Values whose
    mean drifts while the allocation changes belong into strata: see `difference`.

    Args:
        treatment: Values of the treatment, or their moments.
        control: Values of the control, or their moments.
        level: Confidence over all looks together.
        alternative: "two-sided", "greater" or "less".
        sigma: Deviation of a value in either arm if it is known; the sequence is then exact for normal values.
        tuned: Units of both arms together at which the sequence is tightest; to be chosen before looking.

    Returns:
        `Estimate`, whose p value is always valid; unbounded, with p = 1, where nothing can be said yet.

    Raises:
        InputError: a value is missing, or an argument out of its range.

    Example:
        >>> found = mean_difference_sequence(Moments(500, 1.2, 500.0), Moments(500, 1.0, 500.0))
        >>> round(found.lower, 3), round(found.upper, 3), found.significant
        (0.008, 0.392, True)
    """
    one, other = moments(treatment), moments(control)
    variance = _known(sigma, (one.variance + other.variance) / 2.0)
    tuning = _tuning(4.0 * variance, tuned, level, alternative)  # equal arms of n / 2 have a spread of 4 sigma² / n
    spread = spread_of(one, other, sigma=sigma)
    known = what_holds(sigma, min(one.n, other.n), spread)
    found = estimate_at(one.mean - other.mean, spread, (one.n, other.n), level, alternative, tuning, known)
    return replace(found, treatment=one.mean, control=other.mean)


def spread_of(treatment: Moments, control: Moments, *, sigma: float | None = None) -> float:
    """Return the squared standard error of the difference of two means (`spread_apart`); 0 when an arm is empty."""
    if 0 in (treatment.n, control.n):
        return 0.0
    if sigma is not None:
        return sigma * sigma * (1.0 / treatment.n + 1.0 / control.n)
    return spread_apart(treatment, control)


def interval(
    effect: float, spread: float, *, tau2: float, level: float, alternative: Alternative
) -> tuple[float, float, float]:
    """Return (lower, upper, p) of an effect whose squared standard error is `spread` > 0."""
    reach = mixture_radius(spread, tau2=tau2, alpha=1.0 - level, alternative=alternative)
    return *alternative.ends(effect - reach, effect + reach), mixture_p(
        effect, spread, tau2=tau2, alternative=alternative
    )


def estimate_at(
    effect: float,
    spread: float,
    n: tuple[int, int],
    level: float,
    alternative: Alternative | str,
    tau2: float,
    note: str,
) -> Estimate:
    """Return the sequence at one look; unbounded, with p = 1, when the note (see `what_holds`) allows no bound."""
    side, (lower, upper, p) = alternative_of(alternative), (-math.inf, math.inf, 1.0)
    if note in {ASYMPTOTIC, EXACT}:
        lower, upper, p = interval(effect, spread, tau2=tau2, level=level, alternative=side)
    statistic = effect / math.sqrt(spread) if spread > 0.0 else None
    return Estimate(effect, lower, upper, p, statistic, n, "normal-mixture sequence", level, side, notes=(note,))


def check_sigma(sigma: float | None) -> float | None:
    """Return a known deviation, None where it is estimated; raises InputError."""
    if sigma is not None and not 0.0 < sigma < math.inf:
        raise InputError(f"sigma is {sigma}; it is a known deviation above 0, or None to estimate it")
    return sigma


def what_holds(sigma: float | None, smallest: int, spread: float) -> str:
    """Return the note that says what a bound is worth at this look, or why there is none yet.

    Args:
        sigma: Known deviation of a value, None where it is estimated.
        smallest: Values of the smaller arm.
        spread: Squared standard error of the effect.
    """
    if sigma is not None and smallest > 0:
        return EXACT
    if smallest < BURN:
        return TOO_FEW
    return ASYMPTOTIC if spread > 0.0 else NO_SPREAD


def _tuning(variance: float, tuned: float, level: float, alternative: Alternative | str) -> float:
    side, alpha = alternative_of(alternative), 1.0 - check_level(level)
    return mixture_tau2(variance, tuned=tuned, alpha=alpha, alternative=side)


def _known(sigma: float | None, estimated: float) -> float:
    known = check_sigma(sigma)
    return estimated if known is None else known * known
