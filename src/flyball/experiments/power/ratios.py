"""Power of tests of ratio metrics, such as clicks per view, where units are users.

By the delta method a ratio's noise is that of one linearised value per unit, (x - R y) / mean(y) (Deng, Knoblich, Lu
2018, section 3.1); so a ratio is planned as a mean. The surprise: the deviation to plan with is *not* that of clicks
per view over views, which is smaller whenever a user's views resemble each other.
"""

from __future__ import annotations

import math

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative
from flyball.experiments.fixed.ratios import ratio_of
from flyball.experiments.power.means import Means
from flyball.experiments.power.plan import PowerPlan, absolute, solve
from flyball.experiments.stats import Stats

__all__ = ["linearised", "plan_ratios"]
_CONSTANT = 1e-7  # what rounding leaves of the deviation of a ratio that is the same in every unit


def plan_ratios(
    stats: Stats,
    numerator: str,
    denominator: str,
    *,
    effect: float | None = None,
    relative: float | None = None,
    n: int | tuple[int, int] | None = None,
    power: float | None = None,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    ratio: float = 1.0,
    comparisons: int = 1,
    r2: float = 0.0,
) -> PowerPlan:
    """Return the missing one of effect, units and power for the difference of two ratios.

    Args:
        stats: Statistics of past units with both columns.
        numerator: Column above the line, such as clicks of a user.
        denominator: Column below it, such as views of a user; its mean must be well above 0.
        effect: Treatment's ratio less the control's.
        relative: The same as a share of the ratio in `stats`.
        n: Units of the control, or of (treatment, control).
        power: Chance to find the effect; 0.8 unless both others are given.
        level: Confidence of the whole experiment.
        alternative: "two-sided", "greater" or "less".
        ratio: Units of a treatment for each of the control.
        comparisons: Treatments compared with the control.
        r2: Share of the linearised value's variance that covariates explain.

    Raises:
        InputError: fewer than 2 units, a ratio that does not vary, or a denominator near 0.

    Example:
        >>> past = Stats.of({"clicks": [0.0, 1.0, 2.0, 1.0], "views": [2.0, 3.0, 5.0, 2.0]})
        >>> plan_ratios(past, "clicks", "views", relative=0.1).n
        (350, 350)
    """
    base, sd = linearised(stats, numerator, denominator)
    problem = Means((sd, sd), base, r2, kind="ratios")
    return solve(problem, effect=absolute(effect, relative, base), n=n, power=power, level=level,
                 alternative=alternative, ratio=ratio, comparisons=comparisons)  # fmt: skip


def linearised(stats: Stats, numerator: str, denominator: str) -> tuple[float, float]:
    """Return (ratio of the means, deviation of one unit's linearised value)."""
    past = ratio_of(stats, numerator, denominator, "the past units")
    sd = math.sqrt(past.variance * past.n)
    if sd <= _CONSTANT * abs(past.value):
        raise InputError(
            f"{numerator!r} is {past.value:.4g} times {denominator!r} in every unit: there is no noise to plan for"
        )
    return past.value, sd
