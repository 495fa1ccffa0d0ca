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

__all__ = ["Alternative", "Estimate", "Scale", "alternative_of", "check_level"]


class Alternative(StrEnum):
    """What the test looks for."""

    TWO_SIDED = "two-sided"
    GREATER = "greater"  # the treatment's value is larger
    LESS = "less"


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
        for name in ("lower", "upper", "statistic", "effect"):
            if data[name] is not None and not math.isfinite(data[name]):
                data[name] = None
        return data | {"alternative": str(self.alternative), "scale": str(self.scale), "n": list(self.n),
                       "notes": list(self.notes)}  # fmt: skip

    def __str__(self) -> str:
        p = "" if self.p is None else f", p = {self.p:.3g}"
        text = f"{self.method}: {self.effect:+.4g} [{self.lower:+.4g}, {self.upper:+.4g}] at {self.level:.0%}{p}"
        return f"{text}, n = {self.n[0]:,} against {self.n[1]:,}" + "".join(f"\n  {note}" for note in self.notes)


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
