"""How far the distributions of both arms' scores lie apart.

The first scores of the champion set nine cut points, its deciles. From then on the share of units below each cut is
bounded for both arms at every look, all bounds together at the guardrail's level, and the distance is the largest
difference of shares (Kolmogorov-Smirnov, at the cuts). The surprise: the population stability index is told, not
judged: it has no bound that holds at every look.
"""

from __future__ import annotations

import math
from bisect import bisect_left

from flyball.experiments.sequential.confidence import rate_lower, rate_upper
from flyball.rollout.evidence.accounts.stretch import Stretch
from flyball.rollout.evidence.accounts.values import value_of
from flyball.rollout.evidence.closed import CANDIDATE, CONTROL, SCORES, Allocation, Counts, Row
from flyball.rollout.evidence.unit_store import UnitStore
from flyball.rollout.types import SAFE_ALPHA, GuardrailEvidence, GuardrailSpec

__all__ = ["DistanceAccount"]

_CUTS = 9
_BEFORE = 200  # scores of the champion that set the cuts
_EVERY = 1.05  # a look costs 36 bounds: the next one is due when there are 5 % more scores


class DistanceAccount:
    """Account of a score shift by distance; each unit counts with its first score."""

    def __init__(self, rail: GuardrailSpec, alpha: float, units: UnitStore | None = None) -> None:
        store = units or UnitStore()
        self.rail, self._alpha = rail, alpha / (4 * _CUTS)
        self._seen = store.table(), store.table()
        self._first: list[float] = []
        self._cuts: list[float] = []
        self._counts = [[0] * (_CUTS + 1), [0] * (_CUTS + 1)]
        self._n = [0, 0]
        self._due, self._breached = 1.0, ""

    def fail(self, index: int, candidate: int, control: int, stretch: Stretch, allocation: Allocation) -> None:
        """Failures have no score."""

    def count(self, index: int, counts: Counts) -> None:
        """Counts say nothing about scores."""

    def exceed(self, index: int, episodes: int) -> None:
        """Slow answers say nothing about scores."""

    def judge(self, stretches: list[Stretch]) -> None:
        """Everything is asked in `look`."""

    def observe(self, row: Row) -> None:
        """Take one row; the control's score counts if it is of the cohort, or answered the same row."""
        if row.group != SCORES:
            return
        mine, theirs = value_of("prediction", row, row.candidate), value_of("prediction", row, row.control)
        if theirs is not None and len(self._cuts) == 0:
            self._first.append(theirs)
            if len(self._first) >= _BEFORE:
                ordered = sorted(self._first)
                self._cuts = [ordered[(k + 1) * len(ordered) // (_CUTS + 1) - 1] for k in range(_CUTS)]
                self._first = []
            return
        if not self._cuts:
            return
        if mine is not None:
            self._take(CANDIDATE, row.unit, mine)
        if theirs is not None and (row.cohort or row.candidate is not None):
            self._take(CONTROL, row.unit, theirs)

    def _take(self, arm: int, unit: int, score: float) -> None:
        if unit:
            if self._seen[arm].get(unit) is not None:
                return
            self._seen[arm].set(unit, ())
        self._counts[arm][bisect_left(self._cuts, score)] += 1
        self._n[arm] += 1

    def look(self, stretches: list[Stretch]) -> None:
        """Ask for a breach when there are enough new scores."""
        if self._breached or self._n[CANDIDATE] < max(self._due, self.rail.min_samples) or not self._n[CONTROL]:
            return
        self._due = self._n[CANDIDATE] * _EVERY
        lower, _ = self._distance(self._alpha)
        if lower > self._max:
            self._breached = f"scores lie at least {lower:.3g} apart, beyond max={self._max:g}"

    @property
    def _max(self) -> float:
        return self.rail.limit if self.rail.limit is not None else 0.1

    def _below(self, arm: int) -> list[int]:
        below, seen = [], 0
        for count in self._counts[arm][:-1]:
            seen += count
            below.append(seen)
        return below

    def _distance(self, alpha: float) -> tuple[float, float]:
        """Return bounds on the largest difference of shares."""
        lower, upper = 0.0, 0.0
        n, m = self._n[CANDIDATE], self._n[CONTROL]
        for mine, theirs in zip(self._below(CANDIDATE), self._below(CONTROL), strict=True):
            low_c, high_c = rate_lower(mine, n, alpha=alpha), rate_upper(mine, n, alpha=alpha)
            low_b, high_b = rate_lower(theirs, m, alpha=alpha), rate_upper(theirs, m, alpha=alpha)
            lower = max(lower, low_c - high_b, low_b - high_c)
            upper = max(upper, high_c - low_b, high_b - low_c)
        return lower, upper

    def evidence(self, stretches: list[Stretch]) -> GuardrailEvidence:
        """Return what is known now."""
        n, m = self._n[CANDIDATE], self._n[CONTROL]
        if not self._cuts or not n or not m:
            known = (
                f"{len(self._first)} of {_BEFORE} scores of the champion" if not self._cuts else f"{n} and {m} scores"
            )
            return GuardrailEvidence(
                self.rail.name, breached=False, safe=False, limit=self._max, text=f"not enough scores yet: {known}"
            )
        shares = [(a / n, b / m) for a, b in zip(self._below(CANDIDATE), self._below(CONTROL), strict=True)]
        distance = max(abs(a - b) for a, b in shares)
        lower, upper = self._distance(SAFE_ALPHA / (4 * _CUTS))
        few = n < self.rail.min_samples
        text = (
            f"scores lie {distance:.3g} [{lower:.3g}, {upper:.3g}] apart at the champion's deciles; max={self._max:g}"
        )
        return GuardrailEvidence(
            self.rail.name, breached=bool(self._breached), safe=not self._breached and not few and upper < self._max,
            limit=self._max, harm=distance, lower=lower, upper=upper, samples=n,
            text=f"{self._breached or text}; population stability index {self._psi():.3g}",
        )  # fmt: skip

    def _psi(self) -> float:
        k = _CUTS + 1
        n, m = self._n[CANDIDATE] + k / 2, self._n[CONTROL] + k / 2
        pairs = [((a + 0.5) / n, (b + 0.5) / m) for a, b in zip(*self._counts, strict=True)]
        return math.fsum((p - q) * math.log(p / q) for p, q in pairs)
