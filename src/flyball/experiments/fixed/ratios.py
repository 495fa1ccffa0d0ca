"""Ratios: metrics that are a sum over a sum, and effects relative to the control.

Both arms' ratios are linearised on the unit of assignment (the delta method), so ten clicks of one user count as one
user's. The surprise: relative effects use Fieller's interval unless asked otherwise; it stays right when the control
is noisy, and turns exactly upside down when the arms are swapped.
"""

from __future__ import annotations

import math
from dataclasses import replace

from numpy.typing import ArrayLike

from flyball.errors import InputError, UnknownName
from flyball.experiments.estimate import Alternative, Estimate, Scale, alternative_of
from flyball.experiments.fixed.pivots import (
    NOTHING_SHARED,
    ArmValue,
    Shared,
    check_null,
    critical,
    difference,
    mean_of,
    null_note,
    p_value,
    refuse_constant,
    satterthwaite,
    scale_of,
)
from flyball.experiments.stats import Sample, Stats

__all__ = ["ratio_metric", "relative_effect"]
CLEAR_OF_ZERO = 3.0  # standard errors that a denominator must lie from zero


def relative_effect(
    treatment: Sample | ArrayLike,
    control: Sample | ArrayLike,
    *,
    method: str = "fieller",
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return the difference of means relative to the control's mean: 0.05 is 5 % more.

    Args:
        treatment: Moments, or values of shape (n,), n >= 2.
        control: Likewise; its mean must lie three standard errors from zero, or it has no sensible relative effect.
        method: "fieller" (Fieller 1954) inverts the test of treatment less (1 + effect) times control; "delta" takes
            the log of the ratio of means as normal, which needs both means on the same side, clear of zero.
        null: The relative effect under the null hypothesis, > -1.
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".

    Returns:
        (treatment - control) / |control|: of negative metrics, too, a plus means that the treatment's is larger.

    Raises:
        InputError: the control lies too near zero, fewer than two units, or neither arm varies.

    Example:
        >>> from flyball.experiments.stats import Moments
        >>> estimate = relative_effect(Moments(1000, 10.5, 3996.0), Moments(1000, 10.0, 3996.0))
        >>> round(estimate.effect, 3), round(estimate.lower, 4), round(estimate.upper, 4)
        (0.05, 0.0322, 0.0681)
    """
    arms = mean_of(treatment, "treatment"), mean_of(control, "control")
    return relative(*arms, "means", how=method, null=null, level=level, alternative=alternative)


def ratio_metric(
    treatment: Stats,
    control: Stats,
    numerator: str,
    denominator: str,
    *,
    scale: Scale | str = Scale.DIFFERENCE,
    method: str = "fieller",
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return the effect on a ratio metric, sum(numerator) / sum(denominator) over the units of an arm.

    Reference: Deng, Knoblich, Lu (2018), "Applying the delta method in metric analytics", equation 4.

    Args:
        treatment: Statistics with both columns, one row per unit of assignment.
        control: Likewise.
        numerator: Column, such as "clicks".
        denominator: Column, such as "views"; its mean must lie clear of zero in both arms.
        scale: "difference" of the ratios, or "relative" to the control's.
        method: For the relative scale, "fieller" or "delta" as in `relative_effect`.
        null: The effect under the null hypothesis, on that scale.
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".

    Raises:
        UnknownName: a column that the statistics do not have.
        InputError: a denominator near zero, fewer than two units, or neither arm varies.

    Example:
        >>> t = Stats.of({"clicks": [2, 1, 0, 3], "views": [10, 8, 5, 9]})
        >>> c = Stats.of({"clicks": [1, 0, 1, 1], "views": [9, 7, 8, 11]})
        >>> round(ratio_metric(t, c, "clicks", "views").effect, 4)
        0.1018
    """
    t = ratio_of(treatment, numerator, denominator, "treatment")
    c = ratio_of(control, numerator, denominator, "control")
    return on_scale(t, c, scale, "ratios", how=method, null=null, level=level, alternative=alternative)


def ratio_of(stats: Stats, numerator: str, denominator: str, arm: str) -> ArmValue:
    """Return an arm's ratio with its standard error by the delta method."""
    weights = linearised(stats, numerator, denominator, arm)
    spread = stats.combine(weights)
    return ArmValue(stats.mean(numerator) / stats.mean(denominator), spread.variance / stats.n, stats.n, stats.n - 1.0)


def linearised(stats: Stats, numerator: str, denominator: str, arm: str) -> dict[str, float]:
    """Return the weights of the columns whose sum varies per unit as the ratio does: (y - R x) / mean(x)."""
    below = mean_of(stats[denominator], arm)
    refuse_near_zero(below, f"the {denominator} of {arm}", "compare the columns by themselves with welch_t")
    ratio = stats.mean(numerator) / below.value
    if numerator == denominator:
        return {numerator: 0.0}
    return {numerator: 1.0 / below.value, denominator: -ratio / below.value}


def on_scale(
    treatment: ArmValue,
    control: ArmValue,
    scale: Scale | str,
    what: str,
    *,
    how: str = "fieller",
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    shared: Shared = NOTHING_SHARED,
) -> Estimate:
    """Return the effect between two arms' values as a difference or relative to the control."""
    if scale_of(scale, Scale.DIFFERENCE, Scale.RELATIVE) is Scale.RELATIVE:
        return relative(
            treatment, control, what, how=how, null=null, level=level, alternative=alternative, shared=shared
        )
    return difference(
        treatment, control, f"difference of {what}", null=null, level=level, alternative=alternative, shared=shared
    )


def relative(
    treatment: ArmValue,
    control: ArmValue,
    what: str,
    *,
    how: str = "fieller",
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    shared: Shared = NOTHING_SHARED,
) -> Estimate:
    """Return the effect between two arms' values relative to the control's, by Fieller or delta."""
    if how not in {"fieller", "delta"}:
        raise UnknownName.of("method of relative effects", how, ["fieller", "delta"])
    if check_null(null) <= -1.0:
        raise InputError(f"null is {null}; a relative effect under the null must lie above -1")
    refuse_constant(treatment, control)
    advice = "report the difference, or wait for more units"
    refuse_near_zero(control.noisier(shared.control), "the control", advice)
    if control.value < 0.0:
        return _of_negatives(treatment, control, what, how, null, level, alternative_of(alternative), shared)
    if how == "delta":
        refuse_near_zero(treatment.noisier(shared.treatment), "the treatment", 'use method="fieller"')
    side = alternative_of(alternative)
    ends = (_fieller if how == "fieller" else _delta)(treatment, control, shared, null, level, side)
    return Estimate(
        (treatment.value - control.value) / control.value,
        *side.ends(ends.lower, ends.upper),
        p_value(ends.statistic, side, ends.df),
        ends.statistic,
        (treatment.n, control.n),
        f"relative difference of {what} ({how})",
        level=level,
        alternative=side,
        scale=Scale.RELATIVE,
        treatment=treatment.value,
        control=control.value,
        df=ends.df if math.isfinite(ends.df) else None,
        notes=null_note(null),
    )


def _of_negatives(
    treatment: ArmValue, control: ArmValue, what: str, how: str, null: float, level: float, side: Alternative,
    shared: Shared,
) -> Estimate:  # fmt: skip
    """Return the effect relative to the size of a negative control: that of the negated arms, turned round."""
    if null >= 1.0:
        raise InputError(f"null is {null}; relative to a negative control an effect under the null lies below 1")
    found = relative(
        treatment.times(-1.0), control.times(-1.0), what, how=how, null=-null, level=level, alternative=side.swapped,
        shared=shared,
    )  # fmt: skip
    assert found.statistic is not None
    return replace(
        found,
        effect=-found.effect,
        lower=-found.upper,
        upper=-found.lower,
        statistic=-found.statistic,
        alternative=side,
        treatment=treatment.value,
        control=control.value,
        notes=(*null_note(null), "the control is negative: relative to its absolute value, plus is still more"),
    )


def refuse_near_zero(arm: ArmValue, what: str, advice: str) -> None:
    """Raise InputError when a value that is divided by lies within three standard errors of zero."""
    se = math.sqrt(arm.variance)
    if abs(arm.value) <= CLEAR_OF_ZERO * se or arm.value == 0.0:
        away = abs(arm.value) / se if se > 0.0 else 0.0
        raise InputError(
            f"{what} is {arm.value:.4g}, {away:.1f} standard errors from zero; "
            f"to divide by it takes more than {CLEAR_OF_ZERO:g}: {advice}"
        )


class _Ends:
    __slots__ = ("df", "lower", "statistic", "upper")

    def __init__(self, lower: float, upper: float, statistic: float, df: float) -> None:
        self.lower, self.upper, self.statistic, self.df = lower, upper, statistic, df


def _fieller(t: ArmValue, c: ArmValue, shared: Shared, null: float, level: float, side: Alternative) -> _Ends:
    """Solve (d - r c)^2 = k (v_t - 2 (1 + r) s + (1 + r)^2 v_c) for r.

    Here d = t - c, k is the squared quantile, and s the covariance of the two values, 0 unless they share noise.
    """
    unit = 1.0 / c.value  # so that neither values of 1e200 nor of 1e-200 vanish when squared
    t, c, shared = t.times(unit), c.times(unit), shared.times(unit)
    scaled = c.times(1.0 + null)
    df = satterthwaite(t, scaled)
    statistic = (t.value - scaled.value) / math.sqrt(t.variance + scaled.variance + shared.apart(1.0 + null))
    k = critical(level, side, df) ** 2
    above, below, both = t.variance + shared.treatment, c.variance + shared.control, shared.together
    steep = 1.0 - k * below
    if steep <= 0.0:
        raise InputError(
            f"the control is {1.0 / math.sqrt(below):.1f} standard errors from zero: at level {level} its relative "
            "effect has no finite interval; report the difference, or wait for more units"
        )
    middle = t.value - 1.0 + k * (below - both)
    noise = above + t.value**2 * below - 2.0 * t.value * both - k * (above * below - both * both)
    reach = math.sqrt(max(k * noise, 0.0))
    return _Ends((middle - reach) / steep, (middle + reach) / steep, statistic, df)


def _delta(t: ArmValue, c: ArmValue, shared: Shared, null: float, level: float, side: Alternative) -> _Ends:
    """Take log(t / c) as normal; on this scale swapped arms give the same answer upside down."""
    if t.value <= 0.0:
        raise InputError('treatment and control lie on both sides of zero; use method="fieller"')
    above, below = t.times(1.0 / t.value), c.times(1.0 / c.value)
    df = satterthwaite(above, below)
    gain = (t.value - c.value) / c.value
    log = math.log1p(gain) if abs(gain) < 0.5 else math.log(t.value) - math.log(c.value)
    se = math.sqrt(above.variance + below.variance + shared.apart(t.value / c.value) / t.value / t.value)
    reach = critical(level, side, df) * se
    return _Ends(math.expm1(log - reach), math.expm1(log + reach), (log - math.log1p(null)) / se, df)
