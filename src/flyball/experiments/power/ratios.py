"""Power of tests of ratio metrics, such as clicks per view, where units are users.

By the delta method a ratio's noise is that of one linearised value per unit, (x - R y) / mean(y) (Deng, Knoblich, Lu
2018, section 3.1); so a ratio is planned as a mean. The surprise: the deviation to plan with is *not* that of clicks
per view over views, which is smaller whenever a user's views resemble each other.
"""

from __future__ import annotations

import math

from flyball.errors import InputError
from flyball.experiments.power.means import Means, absolute
from flyball.experiments.power.plan import PowerPlan, solve
from flyball.experiments.stats import Stats

__all__ = ["linearised", "plan_ratios"]


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
    alternative: str = "two-sided",
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
    below = stats.mean(denominator)
    if stats.n < 2:
        raise InputError(f"{stats.n} units tell nothing of a ratio's noise; give 2 at least")
    if abs(below) <= 4.0 * math.sqrt(stats.variance(denominator) / stats.n):
        raise InputError(f"the mean of {denominator!r} is {below:.4g}, within four standard errors of 0: a ratio over "
                         "it has no usable noise; take more units or another denominator")  # fmt: skip
    ratio = stats.mean(numerator) / below
    sd = math.sqrt(stats.combine({numerator: 1.0, denominator: -ratio}).variance) / abs(below)
    if sd == 0.0:
        raise InputError(
            f"{numerator!r} is {ratio:.4g} times {denominator!r} in every unit: there is no noise to plan for"
        )
    return ratio, sd
