"""A quantile of a metric: the candidate's against that of the equal-size control cohort.

For the true quantile, whether a value lies at or below it is a coin of known bias; so the counts at it stay within the
beta-binomial bounds of Robbins at all looks, and every value for which they do not is excluded (Howard and Ramdas 2022,
section 3, with another mixture). The surprise: values are kept in buckets 1 % wide, and bounds are their far edges. So
memory is bounded, bounds are a little wide, and never wrong.
"""

from __future__ import annotations

import math

from flyball.experiments.sequential.confidence import rate_lower, rate_upper
from flyball.rollout.definitions.guards import NO_MARGIN
from flyball.rollout.evidence.accounts.means import coverage_of, no_outcomes, unusable_text
from flyball.rollout.evidence.accounts.stretch import Stretch
from flyball.rollout.evidence.accounts.values import judged_by, value_of
from flyball.rollout.evidence.closed import CANDIDATE, CONTROL, Allocation, Counts, Row
from flyball.rollout.evidence.unit_store import UnitStore
from flyball.rollout.types import SAFE_ALPHA, GuardrailEvidence, GuardrailSpec

__all__ = ["Buckets", "QuantileAccount"]

_GRAIN = math.log(1.01)
_TINY = 1e-12  # below it a value counts as 0
_EVERY = 1.02  # a look is dear: the next one is due when there are 2 % more values


class Buckets:
    """Unit means in buckets 1 % wide, negative ones and zero included."""

    def __init__(self, units: UnitStore) -> None:
        self._units = units.table()
        self._counts: dict[int, int] = {}
        self.n = 0

    def add(self, unit: int, value: float) -> None:
        """Take one row's value; a unit counts with the mean of its rows."""
        if unit:
            known = self._units.get(unit)
            count, mean = (0, 0.0) if known is None else known
            if count:
                self._change(mean, -1)
            mean += (value - mean) / (count + 1)
            self._units.set(unit, (count + 1, mean))
            value = mean
        self._change(value, 1)

    def _change(self, value: float, by: int) -> None:
        bucket = _bucket(value)
        self._counts[bucket] = self._counts.get(bucket, 0) + by
        self.n += by

    def quantile(self, q: float) -> float:
        """Return the middle of the bucket that holds the quantile; 0 when there is no value."""
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen and seen >= q * self.n:
                return sum(_edges(bucket)) / 2.0
        return 0.0

    def bounds(self, q: float, *, lower: float, upper: float) -> tuple[float, float]:
        """Return bounds on the true quantile that hold at every look, at levels `lower` and `upper`.

        The quantile lies above v when the share of values at or below v is certainly less than q, and at v or below
        when it is certainly more.
        """
        low, high, seen = -math.inf, math.inf, 0
        found = self._certainly(q, lower, upper)
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen <= found[0]:
                low = _edges(bucket)[1]
            if seen >= found[1]:
                high = _edges(bucket)[1]
                break
        return low, high

    def _certainly(self, q: float, lower: float, upper: float) -> tuple[int, int]:
        """Return the largest count certainly below q of all values, and the smallest certainly above."""
        n = self.n
        fits = [-1, n + 1]
        low, high = -1, n + 1  # by bisection: both bounds grow with the count
        while high - low > 1:
            middle = (low + high) // 2
            if 0 <= middle <= n and rate_upper(middle, n, alpha=lower) < q:
                low = fits[0] = middle
            else:
                high = middle
        low, high = -1, n + 1
        while high - low > 1:
            middle = (low + high) // 2
            if rate_lower(middle, n, alpha=upper) > q:
                high = fits[1] = middle
            else:
                low = middle
        return fits[0], fits[1]


class QuantileAccount:
    """Account of a quantile of a metric; inside, more is always worse."""

    def __init__(
        self, rail: GuardrailSpec, alpha: float, units: UnitStore | None = None, *, group: int = 0,

    ) -> None:  # fmt: skip
        self.rail, self._group = rail, group
        store = units or UnitStore()
        self._candidate, self._control = Buckets(store), Buckets(store)
        tests = 2 * (rail.margin.absolute < NO_MARGIN) + (rail.limit is not None)  # both arms have a bound
        self._alpha = alpha / max(tests, 1)
        self._sign = -1.0 if rail.harm == "down" else 1.0
        self._q = (rail.quantile or 0.5) if self._sign > 0 else 1.0 - (rail.quantile or 0.5)
        self._rows, self._due, self._breached = 0, 1.0, ""
        self._unjudged = [0, 0]

    def fail(self, index: int, candidate: int, control: int, stretch: Stretch, allocation: Allocation) -> None:
        """Failures say nothing about outcomes."""

    def count(self, index: int, counts: Counts) -> None:
        """Counts say nothing about outcomes."""

    def exceed(self, index: int, episodes: int) -> None:
        """Slow answers say nothing about outcomes."""

    def judge(self, stretches: list[Stretch]) -> None:
        """Everything is asked in `look`."""

    def observe(self, row: Row) -> None:
        """Take one row; the control's counts if it is of the cohort, or answered the same row."""
        if row.group != self._group:
            return
        self._rows += 1
        row = judged_by(self.rail.metric, row)
        mine, theirs = value_of(self.rail.metric, row, row.candidate), value_of(self.rail.metric, row, row.control)
        self._unjudged[CANDIDATE] += mine is None and row.candidate is not None
        self._unjudged[CONTROL] += theirs is None and row.control is not None
        if mine is not None:
            self._candidate.add(row.unit, self._sign * mine)
        if theirs is not None and (row.cohort or row.candidate is not None):
            self._control.add(row.unit, self._sign * theirs)

    def look(self, stretches: list[Stretch]) -> None:
        """Ask for a breach, when the candidate has new values."""
        if self._breached or self._candidate.n < max(self._due, self.rail.min_samples):
            return
        self._due = self._candidate.n * _EVERY
        ours = self._candidate.bounds(self._q, lower=self._alpha, upper=self._alpha)
        theirs = self._control.bounds(self._q, lower=self._alpha, upper=self._alpha)
        margin = self._margin()
        if ours[0] - theirs[1] > margin:
            self._breached = (
                f"{self._name()} of the candidate is worse by at least {ours[0] - theirs[1]:.4g}, "
                f"beyond the margin of {margin:.4g}"
            )
        elif self.rail.limit is not None and ours[0] > self._sign * self.rail.limit:
            self._breached = f"{self._name()} of the candidate is beyond its limit of {self.rail.limit:g}"

    def _margin(self) -> float:
        return self.rail.margin.at(self._control.quantile(self._q) if self._control.n else 0.0)

    def evidence(self, stretches: list[Stretch]) -> GuardrailEvidence:
        """Return what is known now."""
        level = SAFE_ALPHA / 2
        n_c, n_b = self._candidate.n, self._control.n
        safe_c = self._candidate.bounds(self._q, lower=self._alpha, upper=level)
        safe_b = self._control.bounds(self._q, lower=level, upper=self._alpha)
        margin = self._margin()
        harm = self._candidate.quantile(self._q) - self._control.quantile(self._q) if n_c and n_b else None
        lower, upper = safe_c[0] - safe_b[1], safe_c[1] - safe_b[0]
        few = n_c < self.rail.min_samples
        inside = margin >= NO_MARGIN or upper < margin
        capped = self.rail.limit is None or safe_c[1] < self._sign * self.rail.limit
        text = self._breached or self._text(harm, lower, upper, margin)
        return GuardrailEvidence(
            name=self.rail.name,
            breached=bool(self._breached),
            safe=not self._breached and not few and inside and capped and n_c > 0,
            limit=self.rail.limit,
            harm=harm,
            lower=lower if math.isfinite(lower) else None,
            upper=upper if math.isfinite(upper) else None,
            margin=margin if margin < NO_MARGIN else None,
            samples=n_c,
            better=not few and margin < NO_MARGIN and upper < -margin,
            coverage=coverage_of(self._rows, stretches, self._group),
            text=text + no_outcomes(self._rows, stretches, self._group) + unusable_text(stretches, self._unjudged),
        )

    def _name(self) -> str:
        return f"quantile {self.rail.quantile or 0.5:g} of {self.rail.name}"

    def _text(self, harm: float | None, lower: float, upper: float, margin: float) -> str:
        n_c, n_b = self._candidate.n, self._control.n
        if harm is None or not (math.isfinite(lower) and math.isfinite(upper)):
            return f"not enough values yet to bound {self._name()}: {n_c} of the candidate and {n_b} of the cohort"
        low, high = sorted((self._sign * lower, self._sign * upper))
        text = f"{self._name()} differs by {self._sign * harm:+.4g} [{low:+.4g}, {high:+.4g}] from the cohort's"
        return text + (f"; the margin is {margin:.4g}" if margin < NO_MARGIN else "")


def _bucket(value: float) -> int:
    if abs(value) < _TINY:
        return 0
    size = math.floor(math.log(abs(value) / _TINY) / _GRAIN) + 1
    return size if value > 0 else -size


def _edges(bucket: int) -> tuple[float, float]:
    """Return the least and the largest value of a bucket, both outside rather than inside."""
    if bucket == 0:
        return -_TINY, _TINY
    near, far = (_TINY * math.exp(_GRAIN * (abs(bucket) - k)) for k in (1, 0))
    near, far = near * (1.0 - 1e-9), far * (1.0 + 1e-9)
    return (near, far) if bucket > 0 else (-far, -near)
