"""Is it the same, is it no worse? Equivalence and non-inferiority, on top of any test.

A test that finds no difference has not shown that there is none; these turn the question round, and absence of evidence
stays inconclusive. The surprise: a non-inferiority margin is an amount of harm, so it is positive for metrics that
should rise and for metrics that should fall.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Direction, Estimate, Scale, check_level, direction_of, finite
from flyball.experiments.fixed.means import welch_t

__all__ = ["MarginTest", "MarginVerdict", "Test", "equivalence", "non_inferiority"]

Test = Callable[..., Estimate]  # (treatment, control, *, null, level, alternative), other arguments bound by partial


class MarginVerdict(StrEnum):
    """What a comparison with a margin has shown."""

    EQUIVALENT = "equivalent"
    DIFFERENT = "different"  # by more than the margin
    SUPERIOR = "superior"  # not only no worse: better
    NON_INFERIOR = "non-inferior"
    INFERIOR = "inferior"  # worse by more than the margin
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class MarginTest:
    """An effect held against a margin.

    Args:
        estimate: The effect with its two-sided interval at 1 - 2 (1 - level), whose ends each hold at `level`.
        lower: Smallest effect inside the margin; -inf when only large ones harm.
        upper: Largest effect inside the margin; inf when only small ones harm.
        p: p value of "the effect lies outside the margin".
        level: Confidence of the decision, in (0, 1).
        verdict: What was shown.
    """

    estimate: Estimate
    lower: float
    upper: float
    p: float
    level: float
    verdict: MarginVerdict

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; an open margin is None."""
        return {"estimate": self.estimate.to_dict(), "lower": finite(self.lower), "upper": finite(self.upper),
                "p": self.p, "level": self.level, "verdict": str(self.verdict)}  # fmt: skip

    def __str__(self) -> str:
        e = self.estimate
        return (
            f"{self.verdict}: {e.effect:+.4g} [{e.lower:+.4g}, {e.upper:+.4g}] against a margin of "
            f"[{self.lower:+.4g}, {self.upper:+.4g}] at {self.level:.0%}, p = {self.p:.3g} ({e.method})"
        )


def equivalence(
    treatment: Any,
    control: Any,
    *,
    margin: float | tuple[float, float],
    test: Test = welch_t,
    level: float = 0.95,
) -> MarginTest:
    """Return whether the effect lies inside a margin on both sides, by two one-sided tests.

    Reference: Schuirmann (1987), "A comparison of the two one-sided tests procedure ...".

    Args:
        treatment: What `test` takes.
        control: Likewise.
        margin: Largest effect that does not matter, > 0, on the test's scale; or (lower, upper). On the ratio scale m
            stands for 1 / (1 + m) to 1 + m.
        test: Any fixed test with `null`; bind further arguments by functools.partial.
        level: Confidence of the decision; each one-sided test is at 1 - level.

    Raises:
        InputError: a margin that is not positive, or does not hold "no effect".

    Example:
        >>> from flyball.experiments.stats import Moments
        >>> print(equivalence(Moments(500, 10.1, 2000.0), Moments(500, 10.0, 2000.0), margin=0.5))
        equivalent: +0.1 [-0.1085, +0.3085] against a margin of [-0.5, +0.5] at 95%, p = 0.000815 (Welch's t)
    """
    estimate = _both_ends(test, treatment, control, level)
    lower, upper = _margin(margin, estimate)
    above = _tail(test, treatment, control, lower, level, Alternative.GREATER)
    below = _tail(test, treatment, control, upper, level, Alternative.LESS)
    p = max(above, below)
    if p <= 1.0 - level:
        verdict = MarginVerdict.EQUIVALENT
    elif estimate.upper < lower or estimate.lower > upper:
        verdict = MarginVerdict.DIFFERENT
    else:
        verdict = MarginVerdict.INCONCLUSIVE
    return MarginTest(estimate, lower, upper, p, level, verdict)


def non_inferiority(
    treatment: Any,
    control: Any,
    *,
    margin: float,
    direction: Direction | str = Direction.UP,
    test: Test = welch_t,
    level: float = 0.95,
) -> MarginTest:
    """Return whether the treatment is worse than the control by less than a margin.

    Args:
        treatment: What `test` takes.
        control: Likewise.
        margin: Harm that is accepted, > 0, on the test's scale; on the ratio scale m stands for 1 / (1 + m) or 1 + m.
        direction: "up" when larger is better, "down" when smaller is better.
        test: Any fixed test with `null`; bind further arguments by functools.partial.
        level: Confidence of the one-sided decision.

    Returns:
        Superior, non-inferior, inferior or inconclusive; superiority is read off the same interval, which costs no
        correction because it is asked for only after non-inferiority.

    Raises:
        InputError: a margin that is not positive.
        UnknownName: a direction other than up and down.

    Example:
        >>> from flyball.experiments.stats import Moments
        >>> t, c = Moments(500, 10.1, 2000.0), Moments(500, 10.0, 2000.0)
        >>> non_inferiority(t, c, margin=0.2).verdict, non_inferiority(t, c, margin=0.2, direction="down").verdict
        (<MarginVerdict.NON_INFERIOR: 'non-inferior'>, <MarginVerdict.INCONCLUSIVE: 'inconclusive'>)
    """
    good = direction_of(direction)
    estimate = _both_ends(test, treatment, control, level)
    low, high = _margin(margin, estimate)
    if good is Direction.UP:
        p = _tail(test, treatment, control, low, level, Alternative.GREATER)
        beyond, better = estimate.upper < low, estimate.lower > estimate.null
        high = math.inf
    else:
        p = _tail(test, treatment, control, high, level, Alternative.LESS)
        beyond, better = estimate.lower > high, estimate.upper < estimate.null
        low = -math.inf
    return MarginTest(estimate, low, high, p, level, _no_worse(p <= 1.0 - level, beyond, better))


def _no_worse(inside: bool, beyond: bool, better: bool) -> MarginVerdict:
    if inside:
        return MarginVerdict.SUPERIOR if better else MarginVerdict.NON_INFERIOR
    return MarginVerdict.INFERIOR if beyond else MarginVerdict.INCONCLUSIVE


def _both_ends(test: Test, treatment: Any, control: Any, level: float) -> Estimate:
    if check_level(level) <= 0.5:
        raise InputError(f"level is {level}; a one-sided decision needs more than 0.5, such as 0.95")
    return test(treatment, control, level=2.0 * level - 1.0, alternative=Alternative.TWO_SIDED)


def _tail(test: Test, treatment: Any, control: Any, null: float, level: float, side: Alternative) -> float:
    p = test(treatment, control, null=null, level=level, alternative=side).p
    if p is None:
        raise InputError("this test has no p value; equivalence and non-inferiority need one, such as welch_t's")
    return p


def _margin(margin: float | tuple[float, float], estimate: Estimate) -> tuple[float, float]:
    ratio = estimate.scale is Scale.RATIO
    if isinstance(margin, tuple):
        lower, upper = margin
    elif ratio:
        lower, upper = (1.0 / (1.0 + margin), 1.0 + margin) if margin > 0.0 else (math.nan, math.nan)
    else:
        lower, upper = -margin, margin
    if not (math.isfinite(lower) and math.isfinite(upper) and lower < estimate.null < upper):
        raise InputError(
            f"margin is {margin}; it is the effect that does not matter, above 0 "
            f"(or a pair around {estimate.null:g}) on the {estimate.scale} scale"
        )
    return lower, upper
