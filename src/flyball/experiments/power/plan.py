"""Plan an experiment: of effect, units and power, two give the third.

What is planned (means, rates, ratios) knows one thing: its power at an effect and sizes. Everything else is solved
from that, so units, power and smallest effect always agree. The surprise: a smallest detectable effect is standardised
by the deviation of *units* (d = effect / sd), never by that of days, sessions or clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

from scipy.optimize import brentq

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, alternative_of, check_level

__all__ = ["LARGEST", "PowerPlan", "Problem", "absolute", "solve"]

LARGEST = 10**13  # units of an arm beyond which an effect counts as none
_MOST = 1e6  # largest effect tried, in the problem's own scale


class Problem(Protocol):
    """What is measured, and how surely it would be found."""

    @property
    def kind(self) -> str:
        """A word for it: means, proportions or ratios."""

    @property
    def scale(self) -> float:
        """An effect of ordinary size, > 0: where the search for the smallest one begins."""

    @property
    def largest(self) -> float:
        """The largest effect possible, inf where there is none."""

    def power(self, effect: float, n: tuple[float, float], *, alpha: float, alternative: Alternative) -> float:
        """Return the chance to reject "no effect" with n = (treatment, control) units."""

    def standardised(self, effect: float) -> float:
        """Return the effect in standard deviations (means: d; proportions: Cohen's h)."""

    def describe(self) -> dict[str, Any]:
        """Return plain data: what was assumed."""


@dataclass(frozen=True, slots=True)
class PowerPlan:
    """How many units find which effect how surely.

    Args:
        problem: What is measured.
        effect: Treatment less control, in the metric's unit; its sign is that of the harm or gain that is planned for.
        n: Units of (each treatment, control).
        power: Chance to find the effect, in (0, 1).
        level: Confidence of the whole experiment.
        alternative: What the test looks for.
        comparisons: Treatments compared with the control; each is tested at alpha / comparisons (Bonferroni).
        notes: What the reader must know.
    """

    problem: Problem
    effect: float
    n: tuple[int, int]
    power: float
    level: float
    alternative: Alternative
    comparisons: int = 1
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Units of all arms together."""
        return self.n[0] * self.comparisons + self.n[1]

    @property
    def standardised(self) -> float:
        """The effect in standard deviations."""
        return self.problem.standardised(self.effect)

    @property
    def alpha(self) -> float:
        """Error of each comparison."""
        return (1.0 - self.level) / self.comparisons

    def power_at(self, effect: float) -> float:
        """Return the power at another effect with the same units: a point of the power curve."""
        n = (float(self.n[0]), float(self.n[1]))
        return self.problem.power(effect, n, alpha=self.alpha, alternative=self.alternative)

    def with_total(self, total: int) -> PowerPlan:
        """Return the plan for `total` units in all, split as here: the same power, another smallest effect.

        Raises:
            InputError: no effect is found that surely with so few units.
        """
        share = total / self.total
        n = (int(self.n[0] * share), int(self.n[1] * share))
        if min(n) < 2:
            raise InputError(f"{total} units give an arm fewer than 2; take more units")
        effect = _smallest(self.problem, n, self.power, self.alpha, self.alternative, sign=self.effect)
        return replace(self, effect=effect, n=n)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"kind": self.problem.kind, "effect": self.effect, "standardised": self.standardised,
                "n": list(self.n), "total": self.total, "power": self.power, "level": self.level,
                "alternative": str(self.alternative), "comparisons": self.comparisons, "notes": list(self.notes),
                **self.problem.describe()}  # fmt: skip

    def __str__(self) -> str:
        arms = f"{self.n[0]:,} units in {'each' if self.comparisons > 1 else 'the'} treatment, {self.n[1]:,} in control"
        text = f"{arms} ({self.total:,} in all): {self.effect:+.4g} ({self.standardised:+.3f} sd) is found with"
        text = f"{text} {self.power:.1%} at {self.level:.0%}, {self.alternative}"
        return text + "".join(f"\n  {note}" for note in self.notes)


def absolute(effect: float | None, relative: float | None, base: float | None) -> float | None:
    """Return the effect in the metric's unit, given in one of two ways."""
    if relative is None:
        return effect
    if effect is not None or base is None or base == 0.0:
        raise InputError(f"relative = {relative} needs a base other than 0, and no effect beside it; base is {base}, "
                         f"effect is {effect}")  # fmt: skip
    return relative * base


def solve(
    problem: Problem,
    *,
    effect: float | None,
    n: int | tuple[int, int] | None,
    power: float | None,
    level: float,
    alternative: Alternative | str,
    ratio: float,
    comparisons: int,
    notes: tuple[str, ...] = (),
) -> PowerPlan:
    """Return the plan with the missing one of effect, n and power; power is 0.8 when two are missing.

    Args:
        problem: What is measured.
        effect: Treatment less control; its size is solved for when None.
        n: Units of the control (the treatment gets ratio times as many), or of (treatment, control).
        power: Chance to find the effect.
        level: Confidence.
        alternative: "two-sided", "greater" or "less".
        ratio: Units of a treatment for each of the control.
        comparisons: Treatments compared with the control.
        notes: Passed on.

    Raises:
        InputError: all three or only one are given, or a value is out of its range.
    """
    side = alternative_of(alternative)
    power = 0.8 if power is None and (effect is None) != (n is None) else power
    _check(effect, n, power, ratio, comparisons, side)
    alpha = (1.0 - check_level(level)) / comparisons
    if effect is not None and n is None:
        assert power is not None
        sizes = _sizes(problem, effect, power, alpha, side, ratio)
        reached = problem.power(effect, sizes, alpha=alpha, alternative=side)
        return PowerPlan(problem, effect, sizes, reached, level, side, comparisons, notes)
    assert n is not None
    sizes = n if isinstance(n, tuple) else (math.ceil(n * ratio - 1e-9), n)
    if min(sizes) < 2:
        raise InputError(f"n is {sizes}; each arm needs 2 units at least")
    if effect is None:
        assert power is not None
        sign = -1.0 if side is Alternative.LESS else 1.0
        effect = _smallest(problem, sizes, power, alpha, side, sign=sign)
        return PowerPlan(problem, effect, sizes, power, level, side, comparisons, notes)
    reached = problem.power(effect, sizes, alpha=alpha, alternative=side)
    return PowerPlan(problem, effect, sizes, reached, level, side, comparisons, notes)


def _check(
    effect: float | None, n: object, power: float | None, ratio: float, comparisons: int, side: Alternative
) -> None:
    if sum(value is not None for value in (effect, n, power)) != 2:
        raise InputError("give two of effect, n and power, and the third is solved (power alone may be left out: 0.8)")
    if effect is not None and (not math.isfinite(effect) or effect == 0.0):
        raise InputError(f"effect is {effect}; plan for an effect other than 0: no sample finds none")
    if effect is not None and (
        (side is Alternative.GREATER and effect < 0) or (side is Alternative.LESS and effect > 0)
    ):
        raise InputError(f"effect is {effect} and the test looks for {side}; give them one direction")
    if power is not None and not 0.0 < power < 1.0:
        raise InputError(f"power is {power}; it lies between 0 and 1, such as 0.8")
    if not 0.0 < ratio < math.inf:
        raise InputError(f"ratio is {ratio}; it is units of a treatment for each of the control, such as 1")
    if comparisons < 1:
        raise InputError(f"comparisons is {comparisons}; at least one treatment is compared")


def _sizes(
    problem: Problem, effect: float, power: float, alpha: float, side: Alternative, ratio: float
) -> tuple[int, int]:
    def arms(n: int) -> tuple[int, int]:
        return max(math.ceil(n * ratio - 1e-9), 2), n

    def enough(n: int) -> bool:
        return problem.power(effect, arms(n), alpha=alpha, alternative=side) >= power

    high = 2
    while not enough(high):
        high *= 2
        if high > LARGEST:
            raise InputError(
                f"an effect of {effect} is not found with {LARGEST:.0e} units an arm; plan for a larger one"
            )
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return arms(high)


def _smallest(
    problem: Problem, n: tuple[int, int], power: float, alpha: float, side: Alternative, *, sign: float
) -> float:
    direction = math.copysign(1.0, sign)
    if power <= alpha:
        raise InputError(f"power is {power}, not above alpha = {alpha:.4g}: every effect is found that often")

    def lacking(size: float) -> float:
        return problem.power(direction * size, n, alpha=alpha, alternative=side) - power

    high = min(problem.scale * 1e-9, problem.largest)
    while lacking(high) < 0.0:
        if high >= problem.largest or high > _MOST * problem.scale:
            raise InputError(f"{n} units find no effect with a power of {power}; take more units")
        high = min(high * 4.0, problem.largest)
    return direction * float(brentq(lacking, high / 8.0, high, xtol=1e-14 * problem.scale, rtol=1e-12))
