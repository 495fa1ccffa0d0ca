"""Failing or slow unit episodes: whose is the next failure?"""

from __future__ import annotations

import math

from flyball.experiments.sequential.confidence import rate_lower, rate_upper
from flyball.experiments.sequential.odds import MAX_LOG, OddsProcess, odds
from flyball.rollout.accounts.stretch import Stretch
from flyball.rollout.bins import CANDIDATE, CONTROL, Allocation, Row
from flyball.rollout.guards import SLOW_SHARE
from flyball.rollout.types import SAFE_ALPHA, GuardrailEvidence, GuardrailSpec

__all__ = ["RateAccount"]


class RateAccount:
    """Account of failing or slow unit episodes."""

    def __init__(self, rail: GuardrailSpec, alpha: float) -> None:
        self.rail, self._alpha = rail, alpha
        self._process = OddsProcess(margin=rail.margin.relative)
        self._failed: dict[int, list[int]] = {}
        self._breached = False

    @property
    def failed(self) -> list[int]:
        """Failing unit episodes so far, as (candidate, control)."""
        return [sum(pair[arm] for pair in self._failed.values()) for arm in (CANDIDATE, CONTROL)]

    def observe(self, row: Row) -> None:
        """Outcomes say nothing about failures."""

    def fail(self, index: int, candidate: int, control: int, stretch: Stretch, allocation: Allocation) -> None:
        """Take new failing episodes of both arms under allocation `index`."""
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

    def _base(self, stretch: Stretch) -> list[int]:
        return stretch.timed if self.rail.kind == "latency" else stretch.exposures

    def evidence(self, stretches: list[Stretch]) -> GuardrailEvidence:
        """Return what is known now."""
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


def _spent(stratum: int) -> float:
    """Return the level of the control's bound in stratum 0, 1, ...: half of `SAFE_ALPHA` split as 6 / (pi k)**2."""
    return SAFE_ALPHA / 2 * 6 / (math.pi * (stratum + 1)) ** 2


def _pair(counts: list[int]) -> tuple[int, int]:
    return counts[CANDIDATE], counts[CONTROL]


def _rate_text(rail: GuardrailSpec, ours: tuple[int, int, float], theirs: tuple[int, int, float]) -> str:
    what = "failed" if rail.kind == "errors" else f"took longer than {(rail.limit or 0.0) * 1000:g} ms"
    return (
        f"{ours[0]} of {ours[1]} candidate answers {what} ({ours[2]:.3%}); "
        f"{theirs[0]} of {theirs[1]} of the control did ({theirs[2]:.3%})"
    )
