"""From a value and its standard error to an Estimate: the step that nearly every fixed test ends with.

A test reduces each arm to an `ArmValue`; what is left is one subtraction or one ratio. Tails are taken where they are
small (never as 1 - cdf), so a p value of 1e-200 keeps its digits. The surprise: an arm that does not vary at all is
refused only when the other does not vary either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from flyball.errors import InputError, UnknownName
from flyball.experiments.estimate import Alternative, Estimate, Scale, alternative_of, check_level
from flyball.experiments.stats import Missing, Moments, Sample, checked, moments

__all__ = ["ArmValue", "check_null", "critical", "difference", "mean_of", "null_note", "p_value", "pivot",
           "refuse_constant", "satterthwaite", "scale_of", "tail_of", "values_of"]  # fmt: skip

_EPSILON = 2.0**-52


@dataclass(frozen=True, slots=True)
class ArmValue:
    """An arm's own value with the squared standard error of it.

    Args:
        value: Such as the mean.
        variance: Squared standard error of the value, >= 0.
        n: Units of the arm.
        df: Degrees of freedom of `variance`; inf when it is taken as known.
    """

    value: float
    variance: float
    n: int
    df: float

    def times(self, factor: float) -> ArmValue:
        """Return the arm with its value multiplied."""
        return ArmValue(self.value * factor, self.variance * factor * factor, self.n, self.df)

    def noisier(self, variance: float) -> ArmValue:
        """Return the arm with more squared standard error."""
        return ArmValue(self.value, self.variance + variance, self.n, self.df)


@dataclass(frozen=True, slots=True)
class Shared:
    """Noise that two arms' values have beside their own, because both were adjusted by the same estimate.

    Args:
        treatment: What it adds to the squared standard error of the treatment's value.
        control: Likewise.
        together: Covariance of the two values.
    """

    treatment: float = 0.0
    control: float = 0.0
    together: float = 0.0

    def __add__(self, other: Shared) -> Shared:
        return Shared(self.treatment + other.treatment, self.control + other.control, self.together + other.together)

    def times(self, factor: float) -> Shared:
        """Return what is shared by both values multiplied."""
        square = factor * factor
        return Shared(self.treatment * square, self.control * square, self.together * square)

    def apart(self, factor: float = 1.0) -> float:
        """Return what it adds to the squared error of treatment - factor * control."""
        return max(self.treatment - 2.0 * factor * self.together + factor * factor * self.control, 0.0)


NOTHING_SHARED = Shared()


def mean_of(sample: Sample | ArrayLike, arm: str) -> ArmValue:
    """Return an arm's mean with its standard error; raises InputError below two units."""
    m = checked(sample, arm) if isinstance(sample, Moments) else moments(sample)
    if m.n < 2:
        raise InputError(f"{arm} has {m.n} unit{'' if m.n == 1 else 's'}; a variance needs at least 2, collect more")
    return ArmValue(m.mean, m.variance / m.n, m.n, m.n - 1.0)


def values_of(sample: ArrayLike, arm: str, *, least: int = 1, missing: Missing = "refuse") -> NDArray[np.float64]:
    """Return an arm's values as an array of shape (n,), n >= `least`.

    Raises:
        InputError: sufficient statistics instead of values, too few of them, a second dimension, NaN or infinity.
    """
    if isinstance(sample, Moments):
        raise InputError(f"{arm} is given as Moments; this method needs every unit's value, pass the array")
    try:
        values = np.asarray(sample, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{arm} holds something else than numbers ({error}); convert it first") from error
    if values.ndim != 1:
        raise InputError(f"{arm} has shape {values.shape}; it needs one dimension, one value per unit")
    finite = np.isfinite(values)
    if not finite.all():
        if missing != "drop":
            at = int((~finite).argmax())
            raise InputError(
                f"{arm} has {values[at]} for unit {at}, and {int((~finite).sum())} units lack a finite value; "
                'give every unit one, or say missing="drop"'
            )
        values = values[finite]
    if len(values) < least:
        raise InputError(f"{arm} has {len(values)} units; this method needs at least {least}")
    return values


def difference(
    treatment: ArmValue,
    control: ArmValue,
    method: str,
    *,
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    scale: Scale = Scale.DIFFERENCE,
    shared: Shared = NOTHING_SHARED,
) -> Estimate:
    """Return treatment less control, with Satterthwaite's degrees of freedom for unequal variances.

    Raises:
        InputError: neither arm varies.
    """
    refuse_constant(treatment, control)
    df = satterthwaite(treatment, control)
    effect = treatment.value - control.value
    se = math.sqrt(treatment.variance + control.variance + shared.apart())
    return pivot(effect, se, df, treatment, control, method, null, level, alternative, scale)


def pivot(
    effect: float,
    se: float,
    df: float,
    treatment: ArmValue,
    control: ArmValue,
    method: str,
    null: float,
    level: float,
    alternative: Alternative | str,
    scale: Scale = Scale.DIFFERENCE,
) -> Estimate:
    """Return the estimate whose (effect - truth) / se follows t with `df` degrees of freedom (normal for inf)."""
    side = alternative_of(alternative)
    reach = critical(level, side, df) * se
    statistic = (effect - check_null(null)) / se
    return Estimate(
        effect,
        *side.ends(effect - reach, effect + reach),
        p_value(statistic, side, df),
        statistic,
        (treatment.n, control.n),
        method,
        level=level,
        alternative=side,
        scale=scale,
        treatment=treatment.value,
        control=control.value,
        df=df if math.isfinite(df) else None,
        notes=null_note(null),
    )


def p_value(statistic: float, alternative: Alternative | str, df: float = math.inf) -> float:
    """Return the p value of a t statistic (normal for df = inf), from the tail it lies in.

    Example:
        >>> round(p_value(1.959964, "two-sided"), 6), f"{p_value(30.0, 'greater'):.3g}"
        (0.05, '4.91e-198')
    """
    side = alternative_of(alternative)
    if side is Alternative.TWO_SIDED:
        return min(1.0, 2.0 * _lower_tail(-abs(statistic), df))
    return _lower_tail(-statistic if side is Alternative.GREATER else statistic, df)


def critical(level: float, alternative: Alternative | str, df: float = math.inf) -> float:
    """Return how many standard errors an interval reaches, each way or one way; raises InputError below zero."""
    tail = tail_of(level, alternative)
    return -float(special.ndtri(tail) if math.isinf(df) else special.stdtrit(df, tail))


def tail_of(level: float, alternative: Alternative | str) -> float:
    """Return the probability left out at each end that an interval has; raises InputError for half or more."""
    tail = 1.0 - check_level(level)
    if alternative_of(alternative) is Alternative.TWO_SIDED:
        return tail / 2.0
    if tail >= 0.5:
        raise InputError(f"level is {level}; a one-sided interval needs more than 0.5, such as 0.95")
    return tail


def satterthwaite(*arms: ArmValue) -> float:
    """Return the degrees of freedom of a sum of independent squared standard errors (Satterthwaite 1946)."""
    largest = max(arm.variance for arm in arms)
    parts = [arm.variance / largest for arm in arms]  # as variances of 1e-200 would vanish when squared
    spread = math.fsum(part * part / arm.df for part, arm in zip(parts, arms, strict=True))
    return math.fsum(parts) ** 2 / spread if spread > 0.0 else math.inf


def refuse_constant(*arms: ArmValue) -> None:
    """Raise InputError when every arm is constant up to rounding."""
    if all(math.sqrt(arm.variance * arm.n) <= 10.0 * _EPSILON * abs(arm.value) for arm in arms):
        held = " and ".join(f"{arm.value:g}" for arm in arms)
        raise InputError(
            f"both arms are constant ({held}); without any variation there is no standard error. "
            "Collect more units, or test shares with two_proportions_z"
        )


def check_null(null: float) -> float:
    """Return the effect under the null hypothesis; raises InputError when it is not finite."""
    if not math.isfinite(null):
        raise InputError(f"null is {null}; it is the effect to test against, a finite number such as 0.0")
    return null


def null_note(null: float, standard: float = 0.0) -> tuple[str, ...]:
    """Return the note that a p value is against something else than "no effect"."""
    return () if null == standard else (f"p is against an effect of {null:+g}",)


def scale_of(name: str, *allowed: Scale) -> Scale:
    """Return the scale of that name, if it is among those allowed."""
    if name not in {str(scale) for scale in allowed}:
        raise UnknownName.of("scale here", name, [str(scale) for scale in allowed])
    return Scale(name)


def _lower_tail(statistic: float, df: float) -> float:
    return float(special.ndtr(statistic) if math.isinf(df) else special.stdtr(df, statistic))
