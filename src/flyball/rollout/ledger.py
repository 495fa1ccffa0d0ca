"""Turn closed bins into evidence: one ledger per rollout, one account per guardrail.

The surprise: a breach is remembered. All tests here hold at every look, so the first look that crosses its limit is
the verdict, and later luck does not undo it. Levels: what can roll back shares `spec.alpha` by weight; the bounds that
a promotion needs are each at `SAFE_ALPHA`, because a promotion is not watched for false alarms but for harm.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import datetime
from typing import Any

import msgspec

from flyball.experiments.trust.srm import ratio_e_value
from flyball.rollout.accounts.means import MeanAccount
from flyball.rollout.accounts.primary import as_primary
from flyball.rollout.accounts.rates import RateAccount
from flyball.rollout.accounts.stretch import Stretch
from flyball.rollout.bins import CANDIDATE, CONTROL, Allocation, Bin, Compared, Counts, Failure
from flyball.rollout.routing import cut
from flyball.rollout.types import (
    SAFE_ALPHA,
    ArmCounts,
    Evidence,
    Outside,
    Phase,
    RolloutSpec,
    ShadowEvidence,
)
from flyball.units import from_micros, micros

__all__ = ["Ledger", "alphas", "snapshot"]

NOTHING = Outside()
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


class Ledger:
    """Accumulate a rollout's evidence bin by bin; every answer is a function of the bins folded."""

    def __init__(self, spec: RolloutSpec) -> None:
        self._spec = spec
        self._allocations: list[Allocation] = []
        self._stretches: list[Stretch] = []
        self._errors = [0, 0]
        self._episodes: dict[tuple[int, int, int], int] = {}
        self._recent: deque[list[int]] = deque()  # per minute: minute, requests and errors of both arms
        self._older = [0, 0, 0, 0]
        self._newest = 0
        self._veto = ""
        self._compared = Compared()
        self.bins = 0
        levels = alphas(spec)
        self._accounts: list[RateAccount | MeanAccount] = [
            MeanAccount(rail, level) if rail.kind == "metric" else RateAccount(rail, level)
            for rail, level in zip(spec.guardrails, levels, strict=True)
        ]
        self._primary = MeanAccount(spec.primary, SAFE_ALPHA) if spec.primary is not None else None

    def allocate(self, allocation: Allocation) -> None:
        """Begin a new stretch."""
        self._allocations.append(allocation)
        self._stretches.append(Stretch())

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
            if self._primary is not None:
                self._primary.observe(row)

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

    def evidence(self, phase: Phase, share: float, now: datetime, *, outside: Outside = NOTHING) -> Evidence:
        """Return what is known now about a rollout in `phase` with `share` of the traffic."""
        kind = "shadow" if phase is Phase.SHADOW else "step"
        pairs = list(zip(self._allocations, self._stretches, strict=True))
        within = self._allocations[-1].within if self._allocations else ""
        alike = [(s, (cut(a.share), a.within) == (cut(share), within)) for a, s in pairs if a.kind == kind]
        here = [s for s, same in alike if same or kind == "shadow"]
        totals = [sum(s.requests[arm] for s in self._stretches) for arm in (CANDIDATE, CONTROL)]
        first = next((a for a in self._accounts if isinstance(a, RateAccount) and a.rail.kind == "errors"), None)
        episodes = first.failed if first is not None else self._errors
        return Evidence(
            at=now,
            candidate=ArmCounts(totals[CANDIDATE], self._errors[CANDIDATE], episodes[CANDIDATE]),
            control=ArmCounts(totals[CONTROL], self._errors[CONTROL], episodes[CONTROL]),
            in_phase=sum(s.requests[CANDIDATE] for s in here),
            control_in_phase=sum(s.requests[CONTROL] for s in here),
            units_in_phase=sum(s.fresh[CANDIDATE] for s in here),
            primary=None if self._primary is None else as_primary(self._primary.evidence(self._stretches)),
            guardrails=tuple(account.evidence(self._stretches) for account in self._accounts),
            newest=from_micros(self._newest) if self._newest else None,
            vetoed=outside.vetoed or self._veto,
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


def _mismatch(allocation: Allocation, stretch: Stretch) -> bool:
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


def snapshot(evidence: Evidence) -> dict[str, Any]:
    """Return evidence as plain JSON data."""
    data: dict[str, Any] = msgspec.to_builtins(evidence)
    return data
