"""Moments of unit means: what makes a unit's many rows one value."""

from __future__ import annotations

from flyball.experiments.stats import Moments

__all__ = ["ByUnit"]


class ByUnit:
    """Moments of unit means: several rows of one unit count as one value, their mean."""

    __slots__ = ("_units", "moments")

    def __init__(self) -> None:
        self.moments = Moments()
        self._units: dict[int, tuple[int, float]] = {}

    def add(self, unit: int, value: float) -> None:
        """Take one row's value; unit 0 is a unit of its own each time."""
        if unit == 0:
            self.moments = self.moments.add(value)
            return
        n, mean = self._units.get(unit, (0, 0.0))
        if n:
            self.moments = self.moments.remove(mean)
        mean += (value - mean) / (n + 1)
        self._units[unit] = (n + 1, mean)
        self.moments = self.moments.add(mean)
