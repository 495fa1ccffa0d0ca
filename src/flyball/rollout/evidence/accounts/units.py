"""One value for each unit, however many rows it sent: its mean, or its sums for a ratio.

The surprise: a unit's value changes with each of its rows, so the old one is taken out of the moments before the new
one goes in. Moments are plain numbers that change in place here, because this runs for every row.
"""

from __future__ import annotations

import math
from typing import Protocol

from flyball.experiments.stats import Moments
from flyball.rollout.evidence.unit_store import UnitTable

__all__ = ["Accumulator", "ByUnit", "Pairs", "RatioByUnit", "Running", "WithCovariate"]


class Accumulator(Protocol):
    """What an account of means keeps for one arm."""

    def add(self, unit: int, value: float, other: float) -> None:
        """Take one row's value, and its denominator or covariate; unit 0 is a unit of its own each time."""
        ...

    @property
    def moments(self) -> Moments:
        """Moments of what is compared, over units."""
        ...


class Running:
    """Count, mean and squared deviations that change in place (Welford).

    The mean is kept as a distance from the first value: a unit's value goes in and out with each of its rows, and far
    from zero each time would cost a digit.
    """

    __slots__ = ("_origin", "m2", "mean", "n")

    def __init__(self) -> None:
        self.n, self.mean, self.m2, self._origin = 0, 0.0, 0.0, 0.0

    def add(self, value: float) -> None:
        """Take a value."""
        if self.n == 0:
            self._origin = value
        self.n += 1
        value -= self._origin
        delta = value - self.mean
        self.mean += delta / self.n
        self.m2 += delta * (value - self.mean)

    def remove(self, value: float) -> None:
        """Take a value out that was added before."""
        self.n -= 1
        if self.n <= 0:
            self.n, self.mean, self.m2 = 0, 0.0, 0.0
            return
        value -= self._origin
        delta = value - self.mean
        self.mean -= delta / self.n
        self.m2 = max(self.m2 - delta * (value - self.mean), 0.0)

    @property
    def moments(self) -> Moments:
        """The same as a value."""
        return Moments(self.n, self._origin + self.mean, self.m2)


class Pairs:
    """Moments of two columns and their cross product, that change in place."""

    __slots__ = ("n", "x", "xx", "xy", "y", "yy")

    def __init__(self) -> None:
        self.n = 0
        self.y = self.x = self.yy = self.xx = self.xy = 0.0

    def add(self, y: float, x: float) -> None:
        """Take a pair."""
        self.n += 1
        dy, dx = y - self.y, x - self.x
        self.y += dy / self.n
        self.x += dx / self.n
        self.yy += dy * (y - self.y)
        self.xx += dx * (x - self.x)
        self.xy += dx * (y - self.y)

    def remove(self, y: float, x: float) -> None:
        """Take a pair out that was added before."""
        self.n -= 1
        if self.n <= 0:
            self.n = 0
            self.y = self.x = self.yy = self.xx = self.xy = 0.0
            return
        dy, dx = y - self.y, x - self.x
        self.y -= dy / self.n
        self.x -= dx / self.n
        self.yy = max(self.yy - dy * (y - self.y), 0.0)
        self.xx = max(self.xx - dx * (x - self.x), 0.0)
        self.xy -= dx * (y - self.y)

    def less(self, theta: float, centre: float) -> Moments:
        """Return the moments of y - theta (x - centre)."""
        m2 = self.yy - 2.0 * theta * self.xy + theta * theta * self.xx
        return Moments(self.n, self.y - theta * (self.x - centre), max(m2, 0.0))

    def ratio(self) -> Moments:
        """Return the moments of sum(y) / sum(x) by the delta method: its value, and its influence's deviations.

        Infinitely uncertain while the denominators sum to nothing.
        """
        if self.n == 0:
            return Moments()
        if abs(self.x) * math.sqrt(self.n) <= 3.0 * math.sqrt(self.xx / max(self.n - 1, 1)):
            return Moments(self.n, 0.0, math.inf)  # a denominator that may be 0 has no ratio
        ratio = self.y / self.x
        m2 = self.yy - 2.0 * ratio * self.xy + ratio * ratio * self.xx
        return Moments(self.n, ratio, max(m2, 0.0) / (self.x * self.x))


class ByUnit:
    """Moments of unit means: several rows of one unit count as one value, their mean."""

    __slots__ = ("_running", "_units")

    def __init__(self, units: UnitTable) -> None:
        self._running, self._units = Running(), units

    def add(self, unit: int, value: float, other: float = 0.0) -> None:
        """Take one row's value."""
        if unit == 0:
            self._running.add(value)
            return
        known = self._units.get(unit)
        n, mean = 0, 0.0
        if known is not None:
            n, mean = known
            self._running.remove(mean)
        mean += (value - mean) / (n + 1)
        self._units.set(unit, (n + 1, mean))
        self._running.add(mean)

    @property
    def moments(self) -> Moments:
        """Moments of the unit means."""
        return self._running.moments


class WithCovariate:
    """Unit means of a value and of a covariate, for CUPED."""

    __slots__ = ("_units", "pairs")

    def __init__(self, units: UnitTable) -> None:
        self.pairs, self._units = Pairs(), units

    def add(self, unit: int, value: float, other: float) -> None:
        """Take one row's value and covariate."""
        if unit == 0:
            self.pairs.add(value, other)
            return
        n, y, x = 0, 0.0, 0.0
        known = self._units.get(unit)
        if known is not None:
            n, y, x = known
            self.pairs.remove(y, x)
        y += (value - y) / (n + 1)
        x += (other - x) / (n + 1)
        self._units.set(unit, (n + 1, y, x))
        self.pairs.add(y, x)

    @property
    def moments(self) -> Moments:
        """Moments of the value, not adjusted."""
        return self.pairs.less(0.0, 0.0)


class RatioByUnit:
    """Unit sums of a value and of its denominator: sum over sum, with units as clusters."""

    __slots__ = ("_units", "pairs")

    def __init__(self, units: UnitTable) -> None:
        self.pairs, self._units = Pairs(), units

    def add(self, unit: int, value: float, other: float) -> None:
        """Take one row's value and denominator."""
        if unit == 0:
            self.pairs.add(value, other)
            return
        known = self._units.get(unit)
        y, x = 0.0, 0.0
        if known is not None:
            y, x = known
            self.pairs.remove(y, x)
        self._units.set(unit, (y + value, x + other))
        self.pairs.add(y + value, x + other)

    @property
    def moments(self) -> Moments:
        """Moments of the ratio."""
        return self.pairs.ratio()
