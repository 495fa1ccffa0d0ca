"""Does the effect fade or grow with the days a unit has known the treatment?

A falling effect is novelty, a rising one primacy: the first week would promise what the second does not keep.
The surprise: days since exposure of the *same* units are not independent, so `novelty_panel` fits one slope per unit
and compares those; `novelty` takes days whose units differ, such as cohorts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative
from flyball.experiments.fixed.pivots import mean_of, p_value, satterthwaite
from flyball.experiments.stats import Moments, moments
from flyball.experiments.trust.check import Check, Verdict
from flyball.experiments.trust.heterogeneity import GroupEffect, group_effects

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Novelty", "novelty", "novelty_panel"]


@dataclass(frozen=True, slots=True)
class Novelty:
    """The effect by days since first exposure, and its trend.

    Args:
        days: Days since first exposure, rising.
        effects: The effect on each of them.
        slope: Change of the effect per day.
        error: Standard error of the slope.
        p: Two-sided p value of "the slope is 0".
        start: Fitted effect on the first day.
        end: Fitted effect on the last day.
        left_out: Days without two units per arm, or without any spread.
        alpha: p value below which the check warns.
    """

    days: tuple[float, ...]
    effects: tuple[GroupEffect, ...]
    slope: float
    error: float
    p: float
    start: float
    end: float
    left_out: int
    alpha: float

    @property
    def check(self) -> Check:
        """Warns when the effect changes with time."""
        numbers = {"p": self.p, "slope": self.slope, "error": self.error, "start": self.start, "end": self.end}
        if len(self.days) < 3:
            sentence = f"{len(self.days)} days since exposure; a trend needs 3"
            return Check("novelty", Verdict.PASSING, sentence, numbers)
        span = f"from {self.start:+.3g} to {self.end:+.3g} over {self.days[-1] - self.days[0]:g} days"
        if self.p >= self.alpha:
            text = f"the effect keeps its size, {span} (p = {self.p:.2g})"
            return Check("novelty", Verdict.PASSING, text, numbers)
        fades = abs(self.end) < abs(self.start) or self.start * self.end < 0.0
        word = "fades, as a novelty does" if fades else "grows, as users learn"
        text = f"the effect {word}: {span} (p = {self.p:.2g}); run on until it is level, and read the late days"
        return Check("novelty", Verdict.WARNING, text, numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        groups = [dataclasses.asdict(g) | {"n": list(g.n)} for g in self.effects]
        return dataclasses.asdict(self) | {"days": list(self.days), "effects": groups, "check": self.check.to_dict()}

    def __str__(self) -> str:
        return str(self.check)


def novelty(days: Mapping[float, tuple[Moments, Moments]], *, alpha: float = 0.01) -> Novelty:
    """Fit the effect against days since exposure, weighted by 1 / error² (errors known), z test of the slope.

    Args:
        days: (treatment, control) moments by day; the units of different days must be different units.
        alpha: p value below which the check warns.

    Returns:
        The trend; with fewer than 3 usable days slope 0 and p = 1.

    Example:
        >>> fading = {d: (Moments(1000, 1.0 - 0.2 * d, 999.0), Moments(1000, 0.0, 999.0)) for d in range(5)}
        >>> result = novelty(fading)
        >>> round(result.slope, 6), result.check.passed
        (-0.2, False)
    """
    by_name = {str(day): day for day in sorted(days)}
    effects, left_out = group_effects({name: days[day] for name, day in by_name.items()})
    used = tuple(float(by_name[group.name]) for group in effects)
    if len(used) < 3:
        return Novelty(used, effects, 0.0, math.inf, 1.0, 0.0, 0.0, left_out, alpha)
    x, y = np.array(used), np.array([group.effect for group in effects])
    weights = np.array([group.error for group in effects]) ** -2.0
    centre, level = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = float(weights @ (x - centre) ** 2)
    slope, error = float(weights @ ((x - centre) * (y - level)) / spread), spread**-0.5
    p = p_value(slope / error, Alternative.TWO_SIDED)
    start, end = (float(level + slope * (at - centre)) for at in (x[0], x[-1]))
    return Novelty(used, effects, slope, error, p, start, end, left_out, alpha)


def novelty_panel(
    treatment: ArrayLike, control: ArrayLike, *, days: ArrayLike | None = None, alpha: float = 0.01
) -> Novelty:
    """Fit one slope per unit over its days since exposure and compare the arms' slopes by Welch's t.

    Correlation between a unit's days is no matter, because each unit brings a single number.

    Args:
        treatment: Metric per unit and day, shape (n, d), d >= 3, finite: units watched for all days.
        control: The same of the control, shape (m, d).
        days: Days since exposure of the columns, shape (d,), rising; 0, 1, ... when not given.
        alpha: p value below which the check warns.

    Raises:
        InputError: the shapes do not fit, or a value is missing.
    """
    new, old = np.asarray(treatment, dtype=np.float64), np.asarray(control, dtype=np.float64)
    x = np.arange(new.shape[-1], dtype=np.float64) if days is None else np.asarray(days, dtype=np.float64)
    if new.ndim != 2 or old.ndim != 2 or new.shape[1] != old.shape[1] or x.shape != new.shape[1:] or x.size < 3:
        raise InputError(f"panels of shape {new.shape} and {old.shape} over {x.size} days; units by the same 3+ days")
    if (np.diff(x) <= 0.0).any():
        raise InputError("days do not rise; give each day since exposure once, in order")
    contrast = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    per_day = {str(day): (moments(new[:, i]), moments(old[:, i])) for i, day in enumerate(x)}
    effects, left_out = group_effects(per_day)
    a, b = _slopes(new, contrast), _slopes(old, contrast)
    if min(a.n, b.n) < 2 or a.variance + b.variance == 0.0:
        raise InputError(f"{a.n} and {b.n} units whose slopes do not vary; two units per arm that differ are needed")
    arms = mean_of(a, "treatment"), mean_of(b, "control")
    slope, error = a.mean - b.mean, math.sqrt(arms[0].variance + arms[1].variance)
    p = p_value(slope / error, Alternative.TWO_SIDED, satterthwaite(*arms))
    level = float(new.mean() - old.mean())
    start, end = (level + slope * float(at - x.mean()) for at in (x[0], x[-1]))
    return Novelty(tuple(x.tolist()), effects, slope, error, p, start, end, left_out, alpha)


def _slopes(panel: NDArray[np.float64], contrast: NDArray[np.float64]) -> Moments:
    return moments((panel - panel.mean(axis=1, keepdims=True)) @ contrast)  # centred: an offset of 1e9 costs no digits
