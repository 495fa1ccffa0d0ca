"""How far an interval reaches at this look, by the plan: once, at planned looks, or at every look.

The surprise: a sequential ruler is tuned to the planned units, not to the units seen; choosing it by what was seen
would undo what it promises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flyball.errors import InputError
from flyball.experiments.design.compare import Effect
from flyball.experiments.design.plans import PlanKind
from flyball.experiments.design.rare import RARE
from flyball.experiments.design.types import Experiment
from flyball.experiments.estimate import Alternative
from flyball.experiments.fixed.pivots import critical, p_value
from flyball.experiments.sequential.confidence import BURN
from flyball.experiments.sequential.group import group_design
from flyball.experiments.sequential.mixture import interval, mixture_tau2
from flyball.experiments.sequential.trial import GroupTrial

__all__ = ["Look", "Ruler", "Span", "ruler_of"]

_TUNED = 1000.0  # units at which a sequential plan without planned units is tightest


@dataclass(frozen=True, slots=True)
class Look:
    """One look, kept for the next.

    Args:
        time: Share of the planned units.
        z: Effect over its standard error, by "metric/arm"; what a group plan goes on from.
        ratio: Largest log e-value against the designed sample ratio, at this look or any before.
    """

    time: float
    z: Mapping[str, float] = field(default_factory=dict)
    ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class Span:
    """An interval and its p value; p is None where a plan gives none at this look."""

    lower: float
    upper: float
    p: float | None


class Ruler(Protocol):
    """Turn an effect into an interval that keeps the plan's promise."""

    @property
    def method(self) -> str:
        """The plan's method; "" for the fixed tests, which name themselves."""
        ...

    def span(self, key: str, effect: Effect, *, level: float, side: Alternative) -> Span:
        """Return the interval and p value of an effect."""
        ...

    def units(self, effect: Effect, distance: float, *, level: float, power: float) -> float:
        """Return the units of both arms at which an effect of this size is seen with that power."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """One look at the planned size."""

    method: str = ""

    def span(self, key: str, effect: Effect, *, level: float, side: Alternative) -> Span:
        """Return the fixed test's interval; its own where it has one of that level."""
        own = effect.estimate
        if side is Alternative.TWO_SIDED and math.isclose(own.level, level):
            return Span(own.lower, own.upper, own.p)
        reach = critical(level, side, effect.df) * effect.se
        return Span(
            *side.ends(effect.value - reach, effect.value + reach), p_value(effect.value / effect.se, side, effect.df)
        )

    def units(self, effect: Effect, distance: float, *, level: float, power: float) -> float:
        """Return the textbook's size: ((z_alpha/2 + z_power) se / distance)^2 times the units now."""
        wanted = critical(level, Alternative.TWO_SIDED) + _quantile(power)
        return effect.n * (wanted * effect.se / distance) ** 2


@dataclass(frozen=True, slots=True)
class Sequential:
    """Every look: the asymptotic normal-mixture sequence."""

    tuned: float = _TUNED
    method: str = "normal-mixture sequence"

    def span(self, key: str, effect: Effect, *, level: float, side: Alternative) -> Span:
        """Return the sequence at this look; unbounded below `BURN` units an arm, or few that did."""
        if min(effect.estimate.n) < BURN or effect.rare < RARE:
            return Span(-math.inf, math.inf, 1.0)
        spread = (effect.se * effect.caution) ** 2
        tau2 = mixture_tau2(spread * effect.n, tuned=self.tuned, alpha=1.0 - level, alternative=side)
        return Span(*interval(effect.value, spread, tau2=tau2, level=level, alternative=side))

    def units(self, effect: Effect, distance: float, *, level: float, power: float) -> float:
        """Return the size by bisection: where the radius and the wanted quantile fit into the distance."""
        low, high = 1.0, 1.0
        while self._needs(effect, high, level, power) > distance and high < 1e18:
            low, high = high, high * 2.0
        for _ in range(60):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self._needs(effect, middle, level, power) > distance else (low, middle)
        return high

    def _needs(self, effect: Effect, n: float, level: float, power: float) -> float:
        variance = effect.se**2 * effect.n
        tau2 = mixture_tau2(variance, tuned=self.tuned, alpha=1.0 - level, alternative=Alternative.TWO_SIDED)
        upper = interval(0.0, variance / n, tau2=tau2, level=level, alternative=Alternative.TWO_SIDED)[1]
        return upper + _quantile(power) * math.sqrt(variance / n)


@dataclass(frozen=True, slots=True)
class Group:
    """A few looks: Lan-DeMets spending over the planned units, whenever the looks come."""

    kind: str
    looks: int
    time: float
    earlier: Sequence[Look] = ()
    method: str = "group-sequential"

    def span(self, key: str, effect: Effect, *, level: float, side: Alternative) -> Span:
        """Return the repeated interval; with the stage-wise p value once the test stopped or finished."""
        both = level if side is Alternative.TWO_SIDED else 2.0 * level - 1.0
        trial = self.trial(key, effect, level=both)
        reach = trial.boundaries[-1] * effect.se
        p = trial.p if side is Alternative.TWO_SIDED and (trial.stopped or trial.finished) else None
        return Span(*side.ends(effect.value - reach, effect.value + reach), p)

    def trial(self, key: str, effect: Effect, *, level: float) -> GroupTrial:
        """Return the test of one comparison, after its earlier looks and this one."""
        trial = GroupTrial.of(group_design(f"lan-demets-{self.kind}", looks=self.looks, level=level))
        for look in [*self.earlier, Look(self.time, {key: effect.value / effect.se})]:
            if key not in look.z or trial.stopped or trial.finished or (trial.times and look.time <= trial.times[-1]):
                continue
            trial = trial.look(look.time, look.z[key])
        if not trial.times:
            raise InputError("a look must come after units were seen")
        return trial

    def units(self, effect: Effect, distance: float, *, level: float, power: float) -> float:
        """Return the fixed size, inflated for the looks."""
        design = group_design(f"lan-demets-{self.kind}", looks=self.looks, level=level)
        return Fixed().units(effect, distance, level=level, power=power) * design.inflation(power=power)


def ruler_of(experiment: Experiment, units: int, *, earlier: Sequence[Look] = ()) -> Ruler:
    """Return the ruler of an experiment's plan at this look.

    Args:
        experiment: Whose plan.
        units: Units of all arms so far.
        earlier: Earlier looks of a group plan, oldest first.
    """
    plan, planned = experiment.plan, experiment.planned_units
    if plan.kind is PlanKind.FIXED:
        return Fixed()
    if plan.kind is PlanKind.SEQUENTIAL:
        return Sequential(_TUNED if planned is None else planned * 2.0 / len(experiment.arms))
    assert planned is not None, "a group plan has a size"
    return Group(plan.spending, plan.looks, min(units / planned, 1.0), tuple(earlier))


def _quantile(power: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(power))
