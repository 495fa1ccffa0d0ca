"""How much of a phase nobody saw: time in which no request came, beyond what a lull may last.

The surprise: this is how a clock that jumps ahead is found out. The time it jumped over has no request in the log, so
it counts for nothing, whoever looks and whenever; a controller that slept while requests came loses nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import datetime, timedelta

from flyball.rollout.types import Phase, RolloutSpec
from flyball.units import micros, to_micros

__all__ = ["WEEKEND", "Silence", "allowed", "lull"]

WEEKEND = timedelta(days=3)  # a step of whole weeks may see no request for so long: Friday evening to Monday morning
_EVER = 1 << 60  # µs before the first request
_LEAST, _MOST = timedelta(seconds=10), timedelta(hours=1)


def allowed(spec: RolloutSpec, phase: Phase, step: int) -> timedelta:
    """Return the lull that a phase, or the step of that index, allows."""
    if phase is not Phase.STEP or not 0 <= step < len(spec.steps):
        return lull(spec.shadow)
    bake = spec.steps[step].bake
    return lull(spec.bake if bake is None else bake)


def lull(bake: timedelta) -> timedelta:
    """Return how long requests may stay away while time still counts: a quarter of the bake, 10 s to 1 h.

    Example:
        >>> lull(timedelta(minutes=20))
        datetime.timedelta(seconds=300)
    """
    return min(max(bake / 4, _LEAST), _MOST)


class Silence:
    """Gaps between the seconds in which requests came; seconds must not go back."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._ends: list[int] = []  # µs at which a gap longer than the shortest lull ended
        self._gaps: list[int] = []  # how long it was
        self._sums: dict[int, list[int]] = {}  # by what is allowed: silence beyond it, up to each gap

    def heard(self, second: int) -> None:
        """Note that requests came in this second."""
        at = second * 1_000_000
        gap = _EVER if self._last is None else at - self._last
        if gap > micros(_LEAST):
            self._ends.append(at)
            self._gaps.append(gap)
        self._last = at if self._last is None else max(self._last, at)

    def lost(self, since: datetime, now: datetime, allowed: timedelta) -> timedelta:
        """Return how much of [since, now] was silence beyond `allowed` for each gap."""
        begin, end, most = to_micros(since), to_micros(now), micros(allowed)
        sums = self._until(most)
        first = bisect_right(self._ends, begin)
        total = sums[-1] - sums[first]
        if first < len(self._ends):  # this gap may have begun before
            gap = self._gaps[first]
            total -= max(gap - most, 0) - max(min(gap, self._ends[first] - begin) - most, 0)
        quiet = end - max(begin if self._last is None else self._last, begin)
        return timedelta(microseconds=total + max(quiet - most, 0))

    def _until(self, most: int) -> list[int]:
        sums = self._sums.setdefault(most, [0])
        for gap in self._gaps[len(sums) - 1 :]:
            sums.append(sums[-1] + max(gap - most, 0))
        return sums
