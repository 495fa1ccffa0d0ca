"""Turn closed bins into evidence: one ledger per rollout, one account per guardrail.

The surprise: a breach is remembered. All tests here hold at every look, so the first look that crosses its limit is
the verdict, and later luck does not undo it. Levels: what can roll back shares `spec.alpha` by weight; the bounds that
a promotion needs are each at `SAFE_ALPHA`, because a promotion is not watched for false alarms but for harm.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from flyball.experiments.confidence import BURN, Bounds, Moments, difference, mean_bounds, rate_lower, rate_upper
from flyball.experiments.eprocess import MAX_LOG, OddsProcess, odds
from flyball.experiments.srm import ratio_e_value
from flyball.rollout.bins import CANDIDATE, CONTROL, Allocation, Bin, Compared, Counts, Failure, Row
from flyball.rollout.definitions import NO_MARGIN, SLOW_SHARE
from flyball.rollout.routing import cut
from flyball.rollout.types import (
    ArmCounts,
    Evidence,
    GuardrailEvidence,
    GuardrailSpec,
    Phase,
    RolloutSpec,
    ShadowEvidence,
)
from flyball.units import from_micros, micros

__all__ = ["SAFE_ALPHA", "Ledger", "alphas", "snapshot"]

SAFE_ALPHA = 0.05
_MISMATCH_ALPHA = 0.001
_MINUTE = 60_000_000
_INCIDENT_MINUTES = 10
_INCIDENT_RATE = 0.05  # both arms at least here, and the control at so many times its earlier rate:
_INCIDENT_TIMES = 3
_INCIDENT_LEAST = 20  # control requests below which nothing is called an incident
_INCIDENT_BEFORE = 100  # earlier control requests below which its usual rate is unknown
_INCIDENT_CANDIDATE = 5  # candidate requests below which its own rate says nothing


def alphas(spec: RolloutSpec) -> list[float]:
    """Return the error level of each guardrail: `spec.alpha` split by weight."""
    total = math.fsum(rail.weight for rail in spec.guardrails)
    return [spec.alpha * rail.weight / total for rail in spec.guardrails]


@dataclass(slots=True)
class _Stretch:
    """Cumulative (candidate, control) counts of one allocation."""

    requests: list[int] = field(default_factory=lambda: [0, 0])
    exposures: list[int] = field(default_factory=lambda: [0, 0])
    fresh: list[int] = field(default_factory=lambda: [0, 0])
    timed: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, counts: Counts) -> None:
        for mine, new in ((self.requests, counts.requests), (self.exposures, counts.exposures),
                          (self.fresh, counts.fresh), (self.timed, counts.timed)):  # fmt: skip
            mine[CANDIDATE] += new[CANDIDATE]
            mine[CONTROL] += new[CONTROL]


class Ledger:
    """Accumulate a rollout's evidence bin by bin; every answer is a function of the bins folded."""

    def __init__(self, spec: RolloutSpec) -> None:
        self._spec = spec
        self._allocations: list[Allocation] = []
        self._stretches: list[_Stretch] = []
        self._errors = [0, 0]
        self._episodes: dict[tuple[int, int, int], int] = {}
        self._recent: deque[list[int]] = deque()  # per minute: minute, requests and errors of both arms
        self._older = [0, 0, 0, 0]
        self._newest = 0
        self._veto = ""
        self._compared = Compared()
        self.bins = 0
        levels = alphas(spec)
        self._accounts: list[_Rate | _Mean] = [
            _Mean(rail, level) if rail.kind == "metric" else _Rate(rail, level)
            for rail, level in zip(spec.guardrails, levels, strict=True)
        ]

    def allocate(self, allocation: Allocation) -> None:
        """Begin a new stretch."""
        self._allocations.append(allocation)
        self._stretches.append(_Stretch())

    def fold(self, closed: Bin) -> None:
        """Add one closed bin; bins come in the order in which they were closed."""
        self.bins += 1
        self._newest = max(self._newest, closed.newest)
        for index, counts in sorted(closed.counts.items()):
            self._stretches[index].add(counts)
            self._errors = [a + b for a, b in zip(self._errors, counts.errors, strict=True)]
            self._remember(closed.second * 1_000_000 // _MINUTE, counts)
        if closed.veto and not self._veto and not self._incident():
            self._veto = closed.veto
        if closed.compared is not None:
            self._compared.merge(closed.compared)
        self._fail(closed.failures)
        for row in closed.rows:
            for account in self._accounts:
                account.observe(row)

    def _fail(self, failures: list[Failure]) -> None:
        begun: dict[tuple[int, int], list[int]] = {}
        for failure in failures:
            if self._is_episode(failure):
                begun.setdefault((failure.rail, failure.allocation), [0, 0])[failure.arm] += 1
        for (rail, index), (candidate, control) in sorted(begun.items()):
            self._accounts[rail].fail(index, candidate, control, self._stretches[index], self._allocations[index])

    def _is_episode(self, failure: Failure) -> bool:
        if failure.unit == 0:
            return True
        key = (failure.rail, failure.arm, failure.unit)
        begun = self._episodes.get(key)
        if begun is not None and failure.at - begun < micros(self._spec.episode):
            return False
        self._episodes[key] = failure.at
        return True

    def _remember(self, minute: int, counts: Counts) -> None:
        if not self._recent or minute > self._recent[-1][0]:
            self._recent.append([minute, 0, 0, 0, 0])
        last = self._recent[-1]
        for i, n in enumerate((*counts.requests, *counts.errors), start=1):
            last[i] += n
        while self._recent[0][0] <= last[0] - _INCIDENT_MINUTES:
            calm = not self._incident()  # an incident must not become the usual by lasting
            gone = self._recent.popleft()
            if calm:
                self._older = [a + b for a, b in zip(self._older, gone[1:], strict=True)]

    def evidence(self, phase: Phase, share: float, now: datetime, *, vetoed: str = "") -> Evidence:
        """Return what is known now about a rollout in `phase` with `share` of the traffic."""
        kind = "shadow" if phase is Phase.SHADOW else "step"
        pairs = list(zip(self._allocations, self._stretches, strict=True))
        here = [s for a, s in pairs if a.kind == kind and (kind == "shadow" or cut(a.share) == cut(share))]
        totals = [sum(s.requests[arm] for s in self._stretches) for arm in (CANDIDATE, CONTROL)]
        first = next((a for a in self._accounts if isinstance(a, _Rate) and a.rail.kind == "errors"), None)
        episodes = first.failed if first is not None else self._errors
        return Evidence(
            at=now,
            candidate=ArmCounts(totals[CANDIDATE], self._errors[CANDIDATE], episodes[CANDIDATE]),
            control=ArmCounts(totals[CONTROL], self._errors[CONTROL], episodes[CONTROL]),
            in_phase=sum(s.requests[CANDIDATE] for s in here),
            guardrails=tuple(account.evidence(self._stretches) for account in self._accounts),
            newest=from_micros(self._newest) if self._newest else None,
            vetoed=vetoed or self._veto,
            incident=self._incident(),
            mismatch=any(_mismatch(a, s) for a, s in pairs if a.kind == "step" and cut(a.share) == cut(share)),
            shadow=_shadow(self._compared),
        )

    def _incident(self) -> bool:
        n_c, n_b, f_c, f_b = (sum(minute[i] for minute in self._recent) for i in (1, 2, 3, 4))
        if n_b < _INCIDENT_LEAST or f_b < _INCIDENT_RATE * n_b:
            return False
        known = self._older[1] >= _INCIDENT_BEFORE
        if known and f_b * self._older[1] < _INCIDENT_TIMES * self._older[3] * n_b:
            return False
        return n_c < _INCIDENT_CANDIDATE or f_c >= _INCIDENT_RATE * n_c


def _mismatch(allocation: Allocation, stretch: _Stretch) -> bool:
    share = allocation.drawn or allocation.share
    if share >= 1.0:
        return False
    return ratio_e_value(stretch.fresh, [share, 1.0 - share]) >= 1.0 / _MISMATCH_ALPHA


def _shadow(c: Compared) -> ShadowEvidence | None:
    if c.rows == 0:
        return None
    mean = c.total / c.shifts if c.shifts else None
    spread = None if mean is None or c.shifts < 2 else max(c.squares - c.shifts * mean * mean, 0.0) / (c.shifts - 1)
    deviation = None if spread is None else math.sqrt(spread)
    return ShadowEvidence(c.rows, c.agreed / c.rows, mean, deviation, c.micros / c.rows / 1e6)


class _Rate:
    """Account of failing or slow unit episodes."""

    def __init__(self, rail: GuardrailSpec, alpha: float) -> None:
        self.rail, self._alpha = rail, alpha
        self._process = OddsProcess(margin=rail.margin.relative)
        self._failed: dict[int, list[int]] = {}
        self._breached = False

    @property
    def failed(self) -> list[int]:
        return [sum(pair[arm] for pair in self._failed.values()) for arm in (CANDIDATE, CONTROL)]

    def observe(self, row: Row) -> None:
        """Outcomes say nothing about failures."""

    def fail(self, index: int, candidate: int, control: int, stretch: _Stretch, allocation: Allocation) -> None:
        failed = self._failed.setdefault(index, [0, 0])
        failed[CANDIDATE] += candidate
        failed[CONTROL] += control
        if self.rail.kind == "latency":  # the control cohort is as large as the candidate's range, where possible
            known = max(1.0, allocation.odds)
            among = odds(_pair(stretch.timed), known=known)
        else:
            among = odds(_pair(stretch.requests), _pair(stretch.exposures), known=allocation.odds)
        self._process = self._process.fail(candidate=candidate, control=control, odds=among)
        self._breached = self._breached or (self._process.breached(self._alpha) and candidate > 0)

    def _lower(self, strata: list[tuple[int, ...]], n_c: int, f_c: int) -> float | None:
        if n_c == 0 or any(s[1] == 0 for s in strata):
            return None
        roof = math.fsum(s[0] / n_c * rate_upper(min(s[3], s[1]), s[1], alpha=_spent(k)) for k, s in enumerate(strata))
        return rate_lower(min(f_c, n_c), n_c, alpha=SAFE_ALPHA / 2) - roof

    def _base(self, stretch: _Stretch) -> list[int]:
        return stretch.timed if self.rail.kind == "latency" else stretch.exposures

    def evidence(self, stretches: list[_Stretch]) -> GuardrailEvidence:
        every = [(*self._base(s), *self._failed.get(i, [0, 0])) for i, s in enumerate(stretches)]
        strata: list[tuple[int, ...]] = [s for s in every if s[0] > 0]
        n_c, f_c = sum(s[0] for s in strata), sum(s[2] for s in strata)
        rate = f_c / n_c if n_c else 0.0
        control = math.fsum(s[0] / n_c * (s[3] / s[1]) for s in strata if s[1])
        floor = math.fsum(s[0] / n_c * rate_lower(min(s[3], s[1]), s[1], alpha=_spent(k)) for k, s in enumerate(strata))
        roof = rate_upper(min(f_c, n_c), n_c, alpha=SAFE_ALPHA / 2)
        margin = self.rail.margin.at(control)
        within = self.rail.kind == "latency" and rate <= SLOW_SHARE  # the p99 limit itself is kept
        breached = self._breached and not within
        return GuardrailEvidence(
            name=self.rail.name,
            breached=breached,
            safe=not breached and roof - floor <= margin,
            e_value=math.exp(min(self._process.peak, MAX_LOG)),
            limit=1.0 / self._alpha,
            harm=rate - control,
            lower=self._lower(strata, n_c, f_c),
            upper=roof - floor,
            margin=margin,
            samples=n_c,
            text=_rate_text(
                self.rail, (f_c, n_c, rate), (sum(s[3] for s in strata), sum(s[1] for s in strata), control)
            ),
        )


class _Mean:
    """Account of a metric of predictions and outcomes, paired where both arms answered the same row."""

    def __init__(self, rail: GuardrailSpec, alpha: float) -> None:
        self.rail = rail
        tests = (rail.margin.absolute < NO_MARGIN) + (rail.limit is not None)
        self._alpha = alpha / tests
        self._harm, self._candidate, self._control = _ByUnit(), _ByUnit(), _ByUnit()
        self._strata: dict[int, tuple[_ByUnit, _ByUnit]] = {}
        self._breached = ""

    def fail(self, index: int, candidate: int, control: int, stretch: _Stretch, allocation: Allocation) -> None:
        """Failures say nothing about outcomes."""

    def observe(self, row: Row) -> None:
        mine = None if row.candidate is None else _loss(self.rail.metric, row.truth, row.candidate)
        theirs = None if row.control is None else _loss(self.rail.metric, row.truth, row.control)
        if mine is not None:
            self._candidate.add(row.unit, mine)
        if mine is not None and theirs is not None:
            self._harm.add(row.unit, mine - theirs)
            self._control.add(row.unit, theirs)
        elif mine is not None or theirs is not None:
            strata = self._strata.setdefault(row.allocation, (_ByUnit(), _ByUnit()))
            arm = CANDIDATE if mine is not None else CONTROL
            strata[arm].add(row.unit, mine if mine is not None else theirs or 0.0)
        if mine is not None and not self._breached:
            self._breached = self._look()

    def _bounds(self) -> tuple[Bounds, float]:
        """Return the harm and the control's running mean."""
        if self._harm.moments.n:
            return mean_bounds(self._harm.moments, lower=self._alpha, upper=SAFE_ALPHA), self._control.moments.mean
        pairs = [(c.moments, b.moments) for c, b in self._strata.values()]
        base = Moments()
        for _, control in pairs:
            base = base.merge(control)
        return difference(pairs, lower=self._alpha, upper=SAFE_ALPHA), base.mean

    def _look(self) -> str:
        harm, base = self._bounds()
        margin = self.rail.margin.at(base)
        if harm.lower > margin:
            return (
                f"{self.rail.metric} of the candidate is worse by {harm.estimate:.4g} "
                f"(at least {harm.lower:.4g}), beyond the margin of {margin:.4g}"
            )
        if self.rail.limit is not None:
            own = mean_bounds(self._candidate.moments, lower=self._alpha, upper=SAFE_ALPHA)
            if own.lower > self.rail.limit:
                return f"{self.rail.metric} of the candidate is at least {own.lower:.4g}, above max={self.rail.limit:g}"
        return ""

    def evidence(self, stretches: list[_Stretch]) -> GuardrailEvidence:
        harm, base = self._bounds()
        margin = self.rail.margin.at(base)
        own = mean_bounds(self._candidate.moments, lower=self._alpha, upper=SAFE_ALPHA)
        capped = self.rail.limit is None or own.upper < self.rail.limit
        relative = margin >= NO_MARGIN or harm.upper < margin
        return GuardrailEvidence(
            name=self.rail.name,
            breached=bool(self._breached),
            safe=not self._breached and harm.n >= BURN and capped and relative,
            limit=self.rail.limit,
            harm=harm.estimate,
            lower=_finite(harm.lower),
            upper=_finite(harm.upper),
            margin=margin if margin < NO_MARGIN else None,
            samples=harm.n,
            text=self._breached or _mean_text(self.rail.metric, harm, margin, base),
        )


class _ByUnit:
    """Moments of unit means: several rows of one unit count as one value, their mean."""

    __slots__ = ("_units", "moments")

    def __init__(self) -> None:
        self.moments = Moments()
        self._units: dict[int, tuple[int, float]] = {}

    def add(self, unit: int, value: float) -> None:
        if unit == 0:
            self.moments = self.moments.add(value)
            return
        n, mean = self._units.get(unit, (0, 0.0))
        if n:
            self.moments = self.moments.remove(mean)
        mean += (value - mean) / (n + 1)
        self._units[unit] = (n + 1, mean)
        self.moments = self.moments.add(mean)


def _spent(stratum: int) -> float:
    """Return the level of the control's bound in stratum 0, 1, ...: half of `SAFE_ALPHA` split as 6 / (pi k)**2."""
    return SAFE_ALPHA / 2 * 6 / (math.pi * (stratum + 1)) ** 2


def _loss(metric: str, truth: float, value: float) -> float:
    return (truth - value) ** 2 if metric == "mse" else abs(truth - value)


def _pair(counts: list[int]) -> tuple[int, int]:
    return counts[CANDIDATE], counts[CONTROL]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rate_text(rail: GuardrailSpec, ours: tuple[int, int, float], theirs: tuple[int, int, float]) -> str:
    what = "failed" if rail.kind == "errors" else f"took longer than {(rail.limit or 0.0) * 1000:g} ms"
    return (
        f"{ours[0]} of {ours[1]} candidate answers {what} ({ours[2]:.3%}); "
        f"{theirs[0]} of {theirs[1]} of the control did ({theirs[2]:.3%})"
    )


def _mean_text(metric: str, harm: Bounds, margin: float, base: float) -> str:
    if harm.n < BURN:
        return f"not enough outcomes yet: {harm.n} of {BURN} needed to judge {metric}"
    return (
        f"{metric} differs by {harm.estimate:+.4g} [{harm.lower:+.4g}, {harm.upper:+.4g}] from the champion's "
        f"{base:.4g}" + (f"; the margin is {margin:.4g}" if margin < NO_MARGIN else "")
    )


def snapshot(evidence: Evidence) -> dict[str, Any]:
    """Return evidence as plain JSON data."""
    data: dict[str, Any] = msgspec.to_builtins(evidence)
    return data
