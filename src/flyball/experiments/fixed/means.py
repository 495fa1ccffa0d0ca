"""Difference of two means: Welch's t and Student's pooled t, from moments alone.

Ten million users cost as much as ten: only count, mean and centred sum of squares are read. The surprise: `pooled_t`
is exact for equal variances and may be far off otherwise, so `welch_t` is what everything else here builds on.
"""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate
from flyball.experiments.fixed.pivots import ArmValue, difference, mean_of, pivot, refuse_constant
from flyball.experiments.stats import Sample, moments

__all__ = ["pooled_t", "welch_t"]


def welch_t(
    treatment: Sample | ArrayLike,
    control: Sample | ArrayLike,
    *,
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return the difference of means by Welch's t test, for unequal variances.

    Reference: Welch (1947), "The generalization of Student's problem"; degrees of freedom by Satterthwaite (1946).

    Args:
        treatment: Moments, or values of shape (n,), n >= 2.
        control: Likewise.
        null: The difference under the null hypothesis, in the metric's unit.
        level: Confidence level of the interval; one-sided alternatives give a one-sided interval.
        alternative: "two-sided", "greater" or "less".

    Returns:
        Treatment less control, in the metric's unit.

    Raises:
        InputError: fewer than two units, a missing value, or neither arm varies.

    Example:
        >>> estimate = welch_t([5.1, 4.9, 6.2, 5.8], [4.1, 4.4, 5.0, 4.6])
        >>> round(estimate.effect, 3), round(estimate.p, 4)
        (0.975, 0.0409)
    """
    t, c = mean_of(treatment, "treatment"), mean_of(control, "control")
    return difference(t, c, "Welch's t", null=null, level=level, alternative=alternative)


def pooled_t(
    treatment: Sample | ArrayLike,
    control: Sample | ArrayLike,
    *,
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return the difference of means by Student's t test, for variances known to be equal.

    Args:
        treatment: Moments, or values of shape (n,); three units in both arms together.
        control: Likewise.
        null: The difference under the null hypothesis.
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".

    Raises:
        InputError: an empty arm, fewer than three units in all, a missing value, or neither arm varies.

    Example:
        >>> round(pooled_t([5.1, 4.9, 6.2, 5.8], [4.1, 4.4, 5.0, 4.6]).p, 4)
        0.0341
    """
    t, c = pooled_arms(treatment, control)
    refuse_constant(t, c)
    effect = t.value - c.value
    se = math.sqrt(t.variance + c.variance)
    return pivot(effect, se, t.df, t, c, "Student's t", null, level, alternative)


def pooled_arms(treatment: Sample | ArrayLike, control: Sample | ArrayLike) -> tuple[ArmValue, ArmValue]:
    """Return both arms' means with standard errors from one pooled variance."""
    t, c = moments(treatment), moments(control)
    df = t.n + c.n - 2
    if min(t.n, c.n) < 1 or df < 1:
        raise InputError(f"the arms have {t.n} and {c.n} units; a pooled variance needs one in each and three in all")
    variance = (t.m2 + c.m2) / df
    return ArmValue(t.mean, variance / t.n, t.n, df), ArmValue(c.mean, variance / c.n, c.n, df)
