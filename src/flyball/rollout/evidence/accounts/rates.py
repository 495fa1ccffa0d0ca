"""Failing or slow unit episodes: whose is the next failure, and is the candidate's share above its limit?

The surprise: where failures are common, two e-processes bet at once. The odds of the next failure (`OddsProcess`) are
exact while failures are rare and too cautious above 5 %; the non-central hypergeometric law (`Hypergeometric`) is exact
at any rate, but needs blocks. Which of them is better shows only later, and choosing then would be peeking; so the
evidence is their average from the start, nine parts of the first and one of the second, which is an e-process again.
"""

from __future__ import annotations

import math

from flyball.experiments.sequential.confidence import rate_lower, rate_upper
from flyball.experiments.sequential.hypergeometric import Hypergeometric
from flyball.experiments.sequential.odds import MAX_LOG, OddsProcess, odds
from flyball.rollout.definitions.guards import NO_MARGIN, slow_share
from flyball.rollout.evidence.accounts.power import rate_power
from flyball.rollout.evidence.accounts.stretch import Stretch
from flyball.rollout.evidence.closed import CANDIDATE, CONTROL, Allocation, Counts, Row
from flyball.rollout.types import SAFE_ALPHA, GuardrailEvidence, GuardrailSpec

__all__ = ["RateAccount"]

_RARE, _COMMON = math.log(0.9), math.log(0.1)  # shares of the two processes
_BLOCK = 20  # exposures of either arm that close a block, or, of the candidate, the larger
_GROWTH = 50  # th part of all before, so that a long rollout has some hundred blocks; known before failures are


class RateAccount:
    """Account of failing or slow unit episodes.

    Args:
        rail: The guardrail, of kind "errors", "timeouts", "fallbacks" or "latency".
        alpha: Its part of the error budget.
        index: Its place among the guardrails.
    """

    def __init__(self, rail: GuardrailSpec, alpha: float, index: int = 0) -> None:
        self.rail, self._index = rail, index
        self._timed = rail.kind == "latency"
        self._compares = rail.margin.absolute < NO_MARGIN
        self._limit = slow_share(rail) if rail.cap is not None else None if self._timed else rail.limit
        self._alpha = alpha / max(1, self._compares + (self._limit is not None))
        self._process = OddsProcess(margin=rail.margin.relative)
        self._common = None if self._timed or rail.margin.relative or not self._compares else Hypergeometric(block=1)
        self._blocks: dict[int, list[int]] = {}
        self._enough, self._blocked = _BLOCK, 0
        self._common_log = self._peak = 0.0
        self._failed: dict[int, list[int]] = {}
        self._capped: dict[int, int] = {}
        self._breached = ""
        self._clear = False  # the share is known to be below its absolute limit

    @property
    def failed(self) -> list[int]:
        """Failing unit episodes so far, as (candidate, control)."""
        return [sum(pair[arm] for pair in self._failed.values()) for arm in (CANDIDATE, CONTROL)]

    def observe(self, row: Row) -> None:
        """Outcomes say nothing about failures."""

    def look(self, stretches: list[Stretch]) -> None:
        """Nothing is decided but by failures."""

    def count(self, index: int, counts: Counts) -> None:
        """Take one bin's exposures, and how many of them began with a failure."""
        if self._common is None:
            return
        first = counts.first.get(self._index, (0, 0))
        block = self._blocks.setdefault(index, [0, 0, 0, 0])
        block[0] += first[CANDIDATE]
        block[1] += counts.exposures[CANDIDATE]
        block[2] += first[CONTROL]
        block[3] += counts.exposures[CONTROL]
        if block[1] >= self._enough and block[3] >= _BLOCK:
            del self._blocks[index]
            self._blocked += block[1]
            self._enough = max(_BLOCK, self._blocked // _GROWTH)
            if block[0] + block[2]:  # a block without failures changes nothing
                self._common = self._common.add((block[0], block[1]), (block[2], block[3]))
                self._common_log = self._common.log_e()
                self._weigh(worse=block[0] > 0)

    def fail(self, index: int, candidate: int, control: int, stretch: Stretch, allocation: Allocation) -> None:
        """Take new failing episodes of both arms under allocation `index`."""
        failed = self._failed.setdefault(index, [0, 0])
        failed[CANDIDATE] += candidate
        failed[CONTROL] += control
        if self._compares:
            if self._timed:  # the control cohort is as large as the candidate's range, where possible
                among = odds(_pair(self._base(stretch)), known=max(1.0, allocation.odds))
            else:
                among = odds(_pair(stretch.requests), _pair(stretch.exposures), known=allocation.odds)
            self._process = self._process.fail(candidate=candidate, control=control, odds=among)
            self._weigh(worse=candidate > 0)

    def exceed(self, index: int, episodes: int) -> None:
        """Take new candidate episodes beyond the absolute limit of a latency guardrail."""
        self._capped[index] = self._capped.get(index, 0) + episodes

    def _weigh(self, *, worse: bool) -> None:
        log = (
            self._process.log_e
            if self._common is None
            else _sum(_RARE + self._process.log_e, _COMMON + self._common_log)
        )
        self._peak = max(self._peak, log)
        if worse and self._peak >= -math.log(self._alpha) and not self._breached:
            self._breached = "compared"

    def _base(self, stretch: Stretch) -> list[int]:
        if self.rail.times:
            return stretch.judged.get(self._index, [0, 0])
        return stretch.timed if self._timed else stretch.exposures

    def judge(self, stretches: list[Stretch]) -> None:
        """Compare the candidate's share with its absolute limit; called once for each bin."""
        if self._limit is None or self._breached == "limit":
            return
        f, n = self._own(stretches)
        if (
            f
            and n >= self.rail.min_samples
            and f > self._limit * n
            and rate_lower(min(f, n), n, alpha=self._alpha) > self._limit
        ):
            self._breached = "limit"

    def _own(self, stretches: list[Stretch]) -> tuple[int, int]:
        """Return the candidate's failing episodes and answers that the absolute limit is about."""
        if self._timed:
            return sum(self._capped.values()), sum(s.timed[CANDIDATE] for s in stretches)
        return self.failed[CANDIDATE], sum(s.exposures[CANDIDATE] for s in stretches)

    def _lower(self, strata: list[tuple[int, ...]], n_c: int, f_c: int) -> float | None:
        if n_c == 0 or any(s[1] == 0 for s in strata):
            return None
        roof = math.fsum(s[0] / n_c * rate_upper(min(s[3], s[1]), s[1], alpha=_spent(k)) for k, s in enumerate(strata))
        return rate_lower(min(f_c, n_c), n_c, alpha=SAFE_ALPHA / 2) - roof

    def evidence(self, stretches: list[Stretch]) -> GuardrailEvidence:
        """Return what is known now."""
        every = [(*self._base(s), *self._failed.get(i, [0, 0])) for i, s in enumerate(stretches)]
        strata: list[tuple[int, ...]] = [s for s in every if s[0] > 0]
        n_c, f_c = sum(s[0] for s in strata), sum(s[2] for s in strata)
        n_b, f_b = sum(s[1] for s in strata), sum(s[3] for s in strata)
        rate = f_c / n_c if n_c else 0.0
        control = math.fsum(s[0] / n_c * (s[3] / s[1]) for s in strata if s[1])
        floor = math.fsum(s[0] / n_c * rate_lower(min(s[3], s[1]), s[1], alpha=_spent(k)) for k, s in enumerate(strata))
        roof = rate_upper(min(f_c, n_c), n_c, alpha=SAFE_ALPHA / 2)
        margin = self.rail.margin.at(control)
        own_f, own_n = self._own(stretches)
        few = max(n_c, own_n) < self.rail.min_samples
        breached = self._is_breached(rate) and not few
        capped = self._limit is None or rate_upper(min(own_f, own_n), own_n, alpha=SAFE_ALPHA) < self._limit
        inside = not self._compares or roof - floor <= margin
        return GuardrailEvidence(
            name=self.rail.name,
            breached=breached,
            safe=not breached and not few and inside and capped,
            e_value=math.exp(min(self._peak, MAX_LOG)) if self._compares else None,
            limit=1.0 / self._alpha if self._compares else self._limit,
            harm=rate - control if self._compares else None,
            lower=self._lower(strata, n_c, f_c) if self._compares else None,
            upper=roof - floor if self._compares else None,
            margin=margin if self._compares else None,
            samples=n_c if self._compares else own_n,
            error=math.sqrt(rate * (1.0 - min(rate, 1.0)) / n_c + control * (1.0 - min(control, 1.0)) / n_b)
            if n_c and n_b and rate <= 1.0 and control <= 1.0 else None,
            power=rate_power(
                harm=margin, control=control, n=n_c, odds=n_c / n_b, alpha=self._alpha, margin=self.rail.margin.relative
            ) if self._compares and n_b else None,
            text=self._text((f_c, n_c, rate), (f_b, n_b, control), (own_f, own_n)),
        )  # fmt: skip

    def _is_breached(self, rate: float) -> bool:
        if self._breached == "compared" and self._timed and not self.rail.times:
            return rate > slow_share(self.rail)  # else the limit itself is kept
        return bool(self._breached)

    def _text(self, ours: tuple[int, int, float], theirs: tuple[int, int, float], own: tuple[int, int]) -> str:
        text = ""
        if self._compares:
            text = (
                f"{ours[0]} of {ours[1]} candidate answers {self._what()} ({ours[2]:.3%}); "
                f"{theirs[0]} of {theirs[1]} of the control did ({theirs[2]:.3%})"
            )
        if self._limit is not None:
            what = f"took longer than {(self.rail.cap or 0.0) * 1000:g} ms" if self._timed else self._what()
            share = own[0] / own[1] if own[1] else 0.0
            over = "is above" if self._breached == "limit" else "is compared with"
            own_text = f"{own[0]} of {own[1]} candidate answers {what}; their share of {share:.3%} {over} "
            own_text += f"max={self._limit:.3%}"
            text = own_text if self._breached == "limit" or not text else f"{text}; {own_text}"
        return text

    def _what(self) -> str:
        match self.rail.kind:
            case "timeouts":
                return "came too late"
            case "fallbacks":
                return "were given by another version"
            case "latency" if self.rail.times:
                return (
                    f"were slower than {self.rail.times:g} times the control's quantile {self.rail.quantile or 0.99:g}"
                )
            case "latency":
                return f"took longer than {(self.rail.limit or 0.0) * 1000:g} ms"
            case _:
                return "failed"


def _spent(stratum: int) -> float:
    """Return the level of the control's bound in stratum 0, 1, ...: half of `SAFE_ALPHA` split as 6 / (pi k)**2."""
    return SAFE_ALPHA / 2 * 6 / (math.pi * (stratum + 1)) ** 2


def _pair(counts: list[int]) -> tuple[int, int]:
    return counts[CANDIDATE], counts[CONTROL]


def _sum(one: float, other: float) -> float:
    """Return log(e**one + e**other)."""
    top = max(one, other)
    return top + math.log(math.exp(one - top) + math.exp(other - top))
