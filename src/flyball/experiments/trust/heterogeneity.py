"""Do several groups tell the same effect? Cochran's Q and I², for weekdays, segments, countries.

Each group brings (treatment, control) moments of its own units. The surprise: a group in which nothing varies has an
effect with no error at all, which would outweigh every other; it is left out and counted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy import special

from flyball.errors import InputError
from flyball.experiments.stats import Moments, checked
from flyball.experiments.trust.check import Check, Verdict

__all__ = ["GroupEffect", "Heterogeneity", "group_effects", "heterogeneity", "weekday_effects"]

_WEEK = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True)
class GroupEffect:
    """The effect in one group: treatment less control, with its standard error (Welch's)."""

    name: str
    effect: float
    error: float
    n: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Heterogeneity:
    """Effects by group, and whether they differ by more than chance.

    Args:
        what: What the groups are, such as "weekday".
        groups: The effect of each group that could be judged.
        pooled: Their inverse-variance mean.
        error: Its standard error.
        q: Cochran's Q.
        df: Its degrees of freedom, groups - 1.
        p: Upper tail of chi-square at Q.
        i2: Share of the spread that chance does not explain, in [0, 1] (Higgins and Thompson 2002).
        left_out: Groups with fewer than two units in an arm, or without any spread.
        alpha: p value below which the check warns.
    """

    what: str
    groups: tuple[GroupEffect, ...]
    pooled: float
    error: float
    q: float
    df: int
    p: float
    i2: float
    left_out: int
    alpha: float

    @property
    def check(self) -> Check:
        """Warns when the effects differ."""
        numbers = {"p": self.p, "q": self.q, "df": self.df, "i2": self.i2, "left out": self.left_out}
        numbers |= {f"effect {group.name}": group.effect for group in self.groups}
        name = f"effect by {self.what}"
        if len(self.groups) < 2:
            return Check(name, Verdict.PASSING, f"too few units by {self.what} to compare effects", numbers)
        low, high = min(self.groups, key=lambda g: g.effect), max(self.groups, key=lambda g: g.effect)
        span = f"from {low.effect:+.3g} ({low.name}) to {high.effect:+.3g} ({high.name})"
        if self.p < self.alpha:
            text = f"the effect differs by {self.what}, {span} (p = {self.p:.2g}, I² = {self.i2:.0%})"
            return Check(name, Verdict.WARNING, f"{text}; one number does not tell it", numbers)
        text = f"no difference by {self.what} beyond chance, {span} (p = {self.p:.2g})"
        return Check(name, Verdict.PASSING, text, numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self) | {"groups": [dataclasses.asdict(g) | {"n": list(g.n)} for g in self.groups],
                                           "check": self.check.to_dict()}  # fmt: skip

    def __str__(self) -> str:
        rows = [f"  {g.name}: {g.effect:+.4g} ± {g.error:.2g}, n = {g.n[0]:,} / {g.n[1]:,}" for g in self.groups]
        return "\n".join([str(self.check), *rows])


def heterogeneity(
    groups: Mapping[str, tuple[Moments, Moments]], *, what: str = "group", alpha: float = 0.01
) -> Heterogeneity:
    """Compare the effects of groups of units (Cochran 1954, Q = sum of w (d - pooled)² with w = 1 / error²).

    Args:
        groups: (treatment, control) moments per group; every unit stands in one group only.
        what: What the groups are, for the sentence.
        alpha: p value below which the check warns.

    Raises:
        InputError: no group was given.

    Example:
        >>> same = {"a": (Moments(50, 1.0, 50.0), Moments(50, 0.0, 50.0))}
        >>> result = heterogeneity(same | {"b": (Moments(50, 1.1, 50.0), Moments(50, 0.0, 50.0))})
        >>> result.df, round(result.pooled, 3), result.check.passed
        (1, 1.05, True)
    """
    if not groups:
        raise InputError(f"no {what} was given; one (treatment, control) pair of moments per {what} is needed")
    effects, left_out = group_effects(groups)
    if not effects:
        return Heterogeneity(what, (), 0.0, math.inf, 0.0, 0, 1.0, 0.0, left_out, alpha)
    weights = [1.0 / group.error**2 for group in effects]
    total = math.fsum(weights)
    pooled = math.fsum(w * g.effect for w, g in zip(weights, effects, strict=True)) / total
    q = math.fsum(w * (g.effect - pooled) ** 2 for w, g in zip(weights, effects, strict=True))
    df = len(effects) - 1
    p = float(special.chdtrc(df, q)) if df else 1.0
    i2 = max(0.0, (q - df) / q) if q > 0.0 else 0.0
    return Heterogeneity(what, effects, pooled, total**-0.5, q, df, p, i2, left_out, alpha)


def weekday_effects(days: Mapping[int, tuple[Moments, Moments]], *, alpha: float = 0.01) -> Heterogeneity:
    """Compare the effect of weekdays, Monday 0 to Sunday 6; a unit belongs to the weekday of its first exposure.

    Raises:
        InputError: a key is no weekday.
    """
    if wrong := [day for day in days if day not in range(7)]:
        raise InputError(f"{wrong[0]!r} is no weekday; Monday is 0 and Sunday 6")
    return heterogeneity({_WEEK[day]: days[day] for day in sorted(days)}, what="weekday", alpha=alpha)


def group_effects(groups: Mapping[str, tuple[Moments, Moments]]) -> tuple[tuple[GroupEffect, ...], int]:
    """Return the effect of each group that has two units per arm and some spread, and how many have not.

    Raises:
        InputError: moments that are not finite.
    """
    for name, pair in groups.items():
        for arm in pair:
            checked(arm, f"the moments of {str(name)!r}")
    effects = tuple(
        GroupEffect(str(name), t.mean - c.mean, math.sqrt(t.variance / t.n + c.variance / c.n), (t.n, c.n))
        for name, (t, c) in groups.items()
        if min(t.n, c.n) >= 2 and t.variance + c.variance > 0.0
    )
    return effects, len(groups) - len(effects)
