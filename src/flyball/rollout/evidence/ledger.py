"""Turn closed bins into evidence: one ledger per rollout, one account per guardrail.

The surprise: a breach is remembered. All tests here hold at every look, so the first look that crosses its limit is
the verdict, and later luck does not undo it. Levels: what can roll back shares `spec.alpha` by weight; the bounds that
a promotion needs are each at `SAFE_ALPHA`, because a promotion is not watched for false alarms but for harm.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec

from flyball.experiments.trust.srm import ratio_e_value
from flyball.rollout.definitions.guards import OUTSIDE_KINDS
from flyball.rollout.evidence.accounts.means import MeanAccount
from flyball.rollout.evidence.accounts.outside import measured, split
from flyball.rollout.evidence.accounts.primary import as_primary
from flyball.rollout.evidence.accounts.quantiles import QuantileAccount
from flyball.rollout.evidence.accounts.rates import RateAccount
from flyball.rollout.evidence.accounts.shifts import DistanceAccount
from flyball.rollout.evidence.accounts.stretch import Stretch
from flyball.rollout.evidence.bins import columns_of, delays_of
from flyball.rollout.evidence.closed import CANDIDATE, CONTROL, SCORES, Allocation, Bin, Compared, Counts, Failure
from flyball.rollout.evidence.silence import WEEKEND, Silence, allowed
from flyball.rollout.evidence.unit_store import UnitStore
from flyball.rollout.routing import cut
from flyball.rollout.types import (
    SAFE_ALPHA,
    ArmCounts,
    Evidence,
    GuardrailEvidence,
    GuardrailSpec,
    Outside,
    Phase,
    RolloutSpec,
    ShadowEvidence,
)
from flyball.units import from_micros, micros

__all__ = ["Account", "Ledger", "alphas", "snapshot"]

Account = RateAccount | MeanAccount | QuantileAccount | DistanceAccount
NOTHING = Outside()
_MISMATCH_ALPHA = 0.001
_MINUTE = 60_000_000
_INCIDENT_MINUTES = 10
_INCIDENT_RATE = 0.05  # both arms at least here, and the control at so many times its earlier rate:
_INCIDENT_TIMES = 3
_INCIDENT_LEAST = 20  # control requests below which nothing is called an incident
_INCIDENT_BEFORE = 100  # earlier control requests below which its usual rate is unknown
_INCIDENT_CANDIDATE = 5  # candidate requests below which its own rate says nothing
_ERRORS = -1  # the incident signal that every rollout has; the others are guardrails


def alphas(spec: RolloutSpec) -> list[float]:
    """Return the error level of each guardrail: `spec.alpha` split by weight over those that can roll back.

    What only holds has a budget of its own as large, since holding is no false rollback; what is measured outside the
    log is no test and takes none.
    """
    total = math.fsum(rail.weight for rail in spec.guardrails if _spends(rail))
    return [spec.alpha * rail.weight / total if _spends(rail) else spec.alpha for rail in spec.guardrails]


def _spends(rail: GuardrailSpec) -> bool:
    return rail.action == "roll_back" and rail.kind not in OUTSIDE_KINDS and rail.kind != "srm"


class Ledger:
    """Accumulate a rollout's evidence bin by bin; every answer is a function of the bins folded.

    Args:
        spec: The rollout.
        units: Where it keeps what it knows of units.
    """

    def __init__(self, spec: RolloutSpec, units: UnitStore | None = None) -> None:
        self._spec, self._units = spec, units or UnitStore()
        self._allocations: list[Allocation] = []
        self._stretches: list[Stretch] = []
        self._errors = [0, 0]
        self._timed = frozenset(i for i, rail in enumerate(spec.guardrails) if rail.kind == "latency")
        self._episode = micros(spec.episode)
        self._episodes = {
            (rail, arm): self._units.table()
            for n in range(len(spec.guardrails)) for rail in (n, -1 - n) for arm in (CANDIDATE, CONTROL)
        }  # fmt: skip
        self._incidents = {rail: _Incident() for rail in (_ERRORS, *_common(spec))}
        self._newest = 0
        self._silence = Silence()
        self._veto = ""
        self._compared = Compared()
        self.bins = 0
        levels = zip(spec.guardrails, alphas(spec), strict=True)
        self._accounts = {n: made for n, (rail, a) in enumerate(levels) if (made := self._account(n, rail, a))}
        self._rates = [account for account in self._accounts.values() if isinstance(account, RateAccount)]
        self._primary = None if spec.primary is None else self._account(len(spec.guardrails), spec.primary, SAFE_ALPHA)
        self._readers = [
            account for account in (*self._accounts.values(), *((self._primary,) if self._primary else ()))
            if not isinstance(account, RateAccount)
        ]  # fmt: skip

    def _account(self, index: int, rail: GuardrailSpec, alpha: float) -> Account | None:
        """Return a guardrail's account; None for what is not in the log."""
        spec = self._spec
        if rail.kind in {"errors", "timeouts", "fallbacks", "latency"}:
            return RateAccount(rail, alpha, index)
        if rail.kind == "shift" and rail.metric == "distance":
            return DistanceAccount(rail, alpha, self._units)
        if rail.kind not in {"metric", "shift"}:
            return None
        scores = rail.kind == "shift" or rail.metric == "prediction"
        group = SCORES if scores else delays_of(spec).index(rail.delay)
        if rail.quantile is not None:
            return QuantileAccount(rail, alpha, self._units, group=group)
        columns = columns_of(spec)
        return MeanAccount(rail, alpha, self._units, group=group, columns=columns)

    def allocate(self, allocation: Allocation) -> None:
        """Begin a new stretch."""
        self._allocations.append(allocation)
        self._stretches.append(Stretch())

    def fold(self, closed: Bin) -> None:
        """Add one closed bin; bins come in the order in which they were closed."""
        self.bins += 1
        self._newest = max(self._newest, closed.newest)
        minute = closed.second * 1_000_000 // _MINUTE
        if any(sum(counts.requests) for counts in closed.counts.values()):
            self._silence.heard(closed.second)
        for index, counts in sorted(closed.counts.items()):
            self._stretches[index].add(counts)
            self._errors = [a + b for a, b in zip(self._errors, counts.errors, strict=True)]
            self._remember(minute, index, counts, closed.failures)
            for account in self._rates:
                account.count(index, counts)
        if closed.veto and not self._veto and not self._incident():
            self._veto = closed.veto
        if closed.compared is not None:
            self._compared.merge(closed.compared)
        if closed.failures:
            self._fail(closed.failures)
        if closed.rows:
            for account in self._readers:
                for row in closed.rows:
                    account.observe(row)
                account.look(self._stretches)
        self._units.settle()

    def _fail(self, failures: list[Failure]) -> None:
        begun: dict[tuple[int, int], list[int]] = {}
        for failure in failures:
            if self._is_episode(failure):
                begun.setdefault((failure.rail, failure.allocation), [0, 0])[failure.arm] += 1
        for (rail, index), (candidate, control) in sorted(begun.items()):
            account = self._accounts[rail if rail >= 0 else -1 - rail]
            if rail < 0:
                account.exceed(index, candidate)
            else:
                account.fail(index, candidate, control, self._stretches[index], self._allocations[index])
        for account in self._rates:
            account.judge(self._stretches)

    def _is_episode(self, failure: Failure) -> bool:
        if failure.unit == 0:
            return True
        table = self._episodes[failure.rail, failure.arm]
        begun = table.get(failure.unit)
        if begun is not None and failure.at - begun[0] < self._episode:
            return False
        table.set(failure.unit, (failure.at,))
        return True

    def _remember(self, minute: int, index: int, counts: Counts, failures: list[Failure]) -> None:
        """Note what both arms did in this minute, by signal; an incident must not become the usual by lasting."""
        calm = not self._incident()
        for rail, incident in self._incidents.items():
            if rail == _ERRORS:
                incident.add(minute, counts.requests, counts.errors, calm=calm)
                continue
            bad = [0, 0]
            for failure in failures:
                if failure.rail == rail and failure.allocation == index:
                    bad[failure.arm] += 1
            incident.add(minute, counts.timed if rail in self._timed else counts.requests, bad, calm=calm)

    def evidence(
        self, phase: Phase, share: float, now: datetime, *, outside: Outside = NOTHING,
        since: datetime | None = None, step: int = -1,
    ) -> Evidence:  # fmt: skip
        """Return what is known now about a rollout in `phase` with `share` of the traffic, in it `since` then."""
        since = now if since is None else since
        kind = "shadow" if phase is Phase.SHADOW else "step"
        pairs = list(zip(self._allocations, self._stretches, strict=True))
        within = self._allocations[-1].within if self._allocations else ""
        alike = [(s, (cut(a.share), a.within) == (cut(share), within)) for a, s in pairs if a.kind == kind]
        here = [s for s, same in alike if same or kind == "shadow"]
        totals = [sum(s.requests[arm] for s in self._stretches) for arm in (CANDIDATE, CONTROL)]
        first = next((account for account in self._rates if account.rail.kind == "errors"), None)
        now_in_force = [(a, s) for a, s in pairs if a.kind == "step" and cut(a.share) == cut(share)]
        worst = max((_ratio(a, s) for a, s in now_in_force), default=0.0)
        episodes = first.failed if first is not None else self._errors
        return Evidence(
            at=now,
            candidate=ArmCounts(totals[CANDIDATE], self._errors[CANDIDATE], episodes[CANDIDATE]),
            control=ArmCounts(totals[CONTROL], self._errors[CONTROL], episodes[CONTROL]),
            in_phase=sum(s.requests[CANDIDATE] for s in here),
            control_in_phase=sum(s.requests[CONTROL] for s in here),
            units_in_phase=sum(s.fresh[CANDIDATE] for s in here),
            primary=None if self._primary is None else as_primary(self._primary.evidence(self._stretches)),
            guardrails=tuple(
                self._evidence(n, rail, outside, worst, here) for n, rail in enumerate(self._spec.guardrails)
            ),
            newest=from_micros(self._newest) if self._newest else None,
            vetoed=outside.vetoed or self._veto,
            incident=self._incident(),
            mismatch=worst >= 1.0 / _MISMATCH_ALPHA,
            shadow=_shadow(self._compared),
            silent=self._silence.lost(since, now, allowed(self._spec, phase, step)),
            silent_weeks=self._silence.lost(since, now, WEEKEND),
        )

    def _evidence(
        self, index: int, rail: GuardrailSpec, outside: Outside, worst: float, here: Iterable[Stretch]
    ) -> GuardrailEvidence:
        account = self._accounts.get(index)
        if account is None and rail.kind == "srm":
            fresh = [sum(s.fresh[arm] for s in here) for arm in (CANDIDATE, CONTROL)]
            return split(rail, worst, 1.0 / _MISMATCH_ALPHA, (fresh[CANDIDATE], fresh[CONTROL]))
        if account is None:
            return measured(rail, outside.measured.get(rail.name))
        found = account.evidence(self._stretches)
        holds = found.breached and rail.action == "hold"
        return replace(found, action=rail.action, holds=holds)

    def _incident(self) -> bool:
        return any(incident.now() for incident in self._incidents.values())


class _Incident:
    """Whether both arms do badly together, by the minutes just past and the control's usual rate before."""

    def __init__(self) -> None:
        self._recent: deque[list[int]] = deque()  # per minute: minute, answers and bad ones of both arms
        self._sums = [0, 0, 0, 0]
        self._older = [0, 0, 0, 0]

    def add(self, minute: int, answers: list[int], bad: list[int], *, calm: bool) -> None:
        """Take one bin's counts; what leaves the recent minutes becomes the usual if it was calm."""
        if not self._recent or minute > self._recent[-1][0]:
            self._recent.append([minute, 0, 0, 0, 0])
        last = self._recent[-1]
        for i, n in enumerate((*answers, *bad)):
            last[i + 1] += n
            self._sums[i] += n
        while self._recent[0][0] <= last[0] - _INCIDENT_MINUTES:
            gone = self._recent.popleft()[1:]
            self._sums = [a - b for a, b in zip(self._sums, gone, strict=True)]
            if calm:
                self._older = [a + b for a, b in zip(self._older, gone, strict=True)]

    def now(self) -> bool:
        """Tell whether both arms do badly now, and the control far worse than it used to."""
        n_c, n_b, f_c, f_b = self._sums
        if n_b < _INCIDENT_LEAST or f_b < _INCIDENT_RATE * n_b:
            return False
        known = self._older[1] >= _INCIDENT_BEFORE
        if known and f_b * self._older[1] < _INCIDENT_TIMES * self._older[3] * n_b:
            return False
        return n_c < _INCIDENT_CANDIDATE or f_c >= _INCIDENT_RATE * n_c


def _common(spec: RolloutSpec) -> list[int]:
    """Return the guardrails beside errors whose failures may be common to both arms."""
    return [n for n, rail in enumerate(spec.guardrails) if rail.kind in {"latency", "fallbacks", "timeouts"}]


def _ratio(allocation: Allocation, stretch: Stretch) -> float:
    share = allocation.drawn or allocation.share
    return 0.0 if share >= 1.0 else ratio_e_value(stretch.fresh, [share, 1.0 - share])


def _shadow(c: Compared) -> ShadowEvidence | None:
    if c.rows == 0:
        return None
    mean = c.total / c.shifts if c.shifts else None
    spread = None if mean is None or c.shifts < 2 else max(c.squares - c.shifts * mean * mean, 0.0) / (c.shifts - 1)
    deviation = None if spread is None else math.sqrt(spread)
    return ShadowEvidence(c.rows, c.agreed / c.rows, mean, deviation, c.micros / c.rows / 1e6)


def snapshot(evidence: Evidence) -> dict[str, Any]:
    """Return evidence as plain JSON data."""
    data: dict[str, Any] = msgspec.to_builtins(evidence)
    return data
