"""What a test answers: an effect with its interval, and how it was found.

Every test compares a treatment with a control, in this order, and gives treatment less control: swapping them flips
every sign.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

from flyball.errors import InputError, UnknownName

__all__ = ["Alternative", "Direction", "Estimate", "Interval", "Scale", "alternative_of", "check_level", "direction_of",
           "finite"]  # fmt: skip


class Alternative(StrEnum):
    """What the test looks for."""

    TWO_SIDED = "two-sided"
    GREATER = "greater"  # the treatment's value is larger
    LESS = "less"

    @property
    def swapped(self) -> Alternative:
        """The same question once treatment and control have changed places."""
        match self:
            case Alternative.GREATER:
                return Alternative.LESS
            case Alternative.LESS:
                return Alternative.GREATER
            case _:
                return self

    def toward(self, value: float) -> float:
        """Return how far a value, such as an effect or a statistic, lies in the direction that is looked for."""
        match self:
            case Alternative.GREATER:
                return value
            case Alternative.LESS:
                return -value
            case _:
                return abs(value)

    def ends(self, lower: float, upper: float) -> tuple[float, float]:
        """Return the interval's ends: one-sided intervals reach to infinity on the side that is not looked at.

        Example:
            >>> Alternative.GREATER.ends(0.1, 0.3)
            (0.1, inf)
        """
        return -math.inf if self is Alternative.LESS else lower, math.inf if self is Alternative.GREATER else upper


class Direction(StrEnum):
    """Which way is good for a metric."""

    UP = "up"
    DOWN = "down"


class Scale(StrEnum):
    """What an effect is measured in."""

    DIFFERENCE = "difference"  # treatment less control, in the metric's unit
    RELATIVE = "relative"  # (treatment less control) / control
    RATIO = "ratio"  # treatment / control; 1 means no effect
    STANDARDISED = "standardised"  # in standard deviations


@dataclass(frozen=True, slots=True)
class Estimate:
    """An effect, its confidence interval and p value.

    Args:
        effect: Treatment against control, on `scale`.
        lower: Lower end of the interval; -inf for alternative "less".
        upper: Upper end of the interval; inf for alternative "greater".
        p: p value in [0, 1]; None where a method gives none.
        statistic: The test's statistic; None where a method has none.
        n: Units of (treatment, control).
        method: The method's name, such as "Welch's t".
        level: Confidence level of the interval, in (0, 1).
        alternative: What the p value and the interval look for.
        scale: What the effect is measured in.
        treatment: The treatment's own value, such as its mean.
        control: The control's own value.
        df: Degrees of freedom, where the method has them.
        notes: What the reader must know: an approximation, a correction, a warning.
    """

    effect: float
    lower: float
    upper: float
    p: float | None
    statistic: float | None
    n: tuple[int, int]
    method: str
    level: float = 0.95
    alternative: Alternative = Alternative.TWO_SIDED
    scale: Scale = Scale.DIFFERENCE
    treatment: float | None = None
    control: float | None = None
    df: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def ci(self) -> tuple[float, float]:
        """The interval."""
        return self.lower, self.upper

    @property
    def null(self) -> float:
        """What the effect is when there is none."""
        return 1.0 if self.scale is Scale.RATIO else 0.0

    @property
    def significant(self) -> bool:
        """Whether the interval leaves "no effect" out."""
        return self.lower > self.null or self.upper < self.null

    def noted(self, *notes: str) -> Self:
        """Return the same with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; infinite bounds are None, as JSON has no infinity."""
        data = dataclasses.asdict(self)
        data |= {name: finite(data[name]) for name in ("lower", "upper", "statistic", "effect")}
        return data | {"alternative": str(self.alternative), "scale": str(self.scale), "n": list(self.n),
                       "notes": list(self.notes)}  # fmt: skip

    def __str__(self) -> str:
        p = "" if self.p is None else f", p = {self.p:.3g}"
        text = f"{self.method}: {self.effect:+.4g} [{self.lower:+.4g}, {self.upper:+.4g}] at {self.level:.0%}{p}"
        return f"{text}, n = {self.n[0]:,} against {self.n[1]:,}" + "".join(f"\n  {note}" for note in self.notes)


@dataclass(frozen=True, slots=True)
class Interval:
    """One arm's value with its confidence interval, such as its share; what compares two arms is an `Estimate`.

    Args:
        value: The point estimate.
        lower: Lower end; the smallest possible value for alternative "less".
        upper: Upper end; the largest possible value for alternative "greater".
        n: Units it rests on.
        method: The method's name.
        level: Confidence level, in (0, 1).
    """

    value: float
    lower: float
    upper: float
    n: int
    method: str
    level: float = 0.95

    @property
    def ci(self) -> tuple[float, float]:
        """The interval."""
        return self.lower, self.upper

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        ends = f"[{self.lower:.4g}, {self.upper:.4g}]"
        return f"{self.method}: {self.value:.4g} {ends} at {self.level:.0%}, n = {self.n:,}"


def finite(value: float | None) -> float | None:
    """Return a number for JSON, which has no infinity: None for one that is not finite, or unknown."""
    return value if value is not None and math.isfinite(value) else None


def direction_of(name: str) -> Direction:
    """Return the direction of that name; raises UnknownName."""
    try:
        return Direction(name)
    except ValueError:
        raise UnknownName.of("direction", name, [str(d) for d in Direction]) from None


def alternative_of(name: str) -> Alternative:
    """Return the alternative of that name; raises UnknownName."""
    try:
        return Alternative(name)
    except ValueError:
        raise UnknownName.of("alternative", name, [str(a) for a in Alternative]) from None


def check_level(level: float) -> float:
    """Return a confidence level in (0, 1); raises InputError."""
    if not 0.0 < level < 1.0:
        raise InputError(f"level is {level}; it is a confidence level between 0 and 1, such as 0.95")
    return level
