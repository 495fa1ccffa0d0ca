"""How long an experiment takes: from units to days, and from weeks to the smallest effect.

The surprise: what counts is *new* units. Half of a day's visitors came the day before, so traffic per day overstates
what a second week brings; give the new units of each day, and the last week is repeated. Whole weeks are the rule,
because a Sunday is no Monday.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flyball.errors import InputError, Refused
from flyball.experiments.power.plan import PowerPlan

__all__ = ["Duration", "Weeks", "duration", "duration_table"]

_LONGEST = 3660  # days


@dataclass(frozen=True, slots=True)
class Duration:
    """How long it takes until a plan has its units.

    Args:
        days: Days, whole weeks where these were asked for.
        needed: Units the plan needs.
        units: Units that come in these days.
        share: Share of the traffic that takes part.
    """

    days: int
    needed: int
    units: int
    share: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"days": self.days, "needed": self.needed, "units": self.units, "share": self.share}

    def __str__(self) -> str:
        return (
            f"{self.days} days for {self.needed:,} units ({self.units:,} will have come) at {self.share:.0%} of traffic"
        )


@dataclass(frozen=True, slots=True)
class Weeks:
    """The smallest effect that a number of weeks finds.

    Args:
        weeks: Weeks.
        units: Units that come.
        effect: Smallest effect found with the plan's power; None where no effect is.
        standardised: The same in deviations.
    """

    weeks: int
    units: int
    effect: float | None
    standardised: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"weeks": self.weeks, "units": self.units, "effect": self.effect, "standardised": self.standardised}


def duration(
    plan: PowerPlan | int, *, arrivals: float | Sequence[float], share: float = 1.0, step: int = 7
) -> Duration:
    """Return how long it takes until the units of a plan have come.

    Args:
        plan: The plan, or the units needed in all arms.
        arrivals: New units a day; or those of day 1, 2, ..., whose last seven repeat.
        share: Share of them that takes part, in (0, 1].
        step: Days are a multiple of this: 7 for whole weeks, 1 for days.

    Raises:
        InputError: an argument is out of its range.
        Refused: it takes more than ten years.

    Example:
        >>> print(duration(7_678, arrivals=1_000.0, share=0.5))
        21 days for 7,678 units (10,500 will have come) at 50% of traffic
    """
    needed = plan.total if isinstance(plan, PowerPlan) else plan
    _check(arrivals, share)
    if step < 1:
        raise InputError(f"step is {step}; it is a number of days, 7 for whole weeks")
    for days in range(step, _LONGEST + step, step):
        units = arrived(arrivals, days) * share
        if units >= needed:
            return Duration(days, needed, math.floor(units), share)
    raise Refused(f"{needed:,} units take more than ten years at this traffic; plan for a larger effect, a larger "
                  "share, or a covariate")  # fmt: skip


def duration_table(
    plan: PowerPlan, *, arrivals: float | Sequence[float], share: float = 1.0, weeks: Sequence[int] = (1, 2, 3, 4, 6, 8)
) -> list[Weeks]:
    """Return the smallest effect after each number of weeks, at the plan's power, level and split.

    Args:
        plan: Any plan of this metric.
        arrivals: New units a day; or those of day 1, 2, ..., whose last seven repeat.
        share: Share of them that takes part, in (0, 1].
        weeks: Numbers of weeks.
    """
    _check(arrivals, share)
    table = []
    for count in weeks:
        units = math.floor(arrived(arrivals, 7 * count) * share)
        try:
            found = plan.with_total(units)
        except InputError:
            table.append(Weeks(count, units, None, None))
            continue
        table.append(Weeks(count, units, found.effect, found.standardised))
    return table


def arrived(arrivals: float | Sequence[float], days: int) -> float:
    """Return the new units of the first days."""
    if isinstance(arrivals, (int, float)):
        return arrivals * days
    week = list(arrivals[-7:])
    later = max(days - len(arrivals), 0)
    return math.fsum(arrivals[:days]) + (later // len(week)) * math.fsum(week) + math.fsum(week[: later % len(week)])


def _check(arrivals: float | Sequence[float], share: float) -> None:
    daily = [arrivals] if isinstance(arrivals, (int, float)) else list(arrivals)
    if not daily or not all(0.0 <= value < math.inf for value in daily) or sum(daily[-7:]) == 0.0:
        raise InputError(f"arrivals are {arrivals}; give the new units of a day, >= 0, and some in the last week")
    if not 0.0 < share <= 1.0:
        raise InputError(f"share is {share}; it is the share of units that takes part, above 0 and at most 1")
