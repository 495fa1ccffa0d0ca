"""What to expect of a rollout before it starts: days until harm of each kind is found, days until promotion.

The surprise: the numbers are not simulated. A bet against "no worse" grows by a known amount with every request of a
bad candidate, and a bound narrows by a known amount with every good one; the rest is division by the traffic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flyball.experiments.sequential.confidence import radius, rate_upper
from flyball.experiments.sequential.odds import THETAS
from flyball.rollout.evidence.ledger import alphas
from flyball.rollout.types import SAFE_ALPHA, GuardrailSpec, RolloutSpec, Step, Strategy

__all__ = ["forecast"]

_DAY = timedelta(days=1)
_RATES = frozenset({"errors", "timeouts", "fallbacks"})
_MEANS = frozenset({"metric", "quality", "shift"})
_SLOW, _SLOWER = 0.01, 0.165  # a p99 limit; log-normal answers whose p99 is twice the median, 1.5 times as slow
_SMALL = 0.1  # standard deviations beyond the margin
_MISMATCH_ALPHA, _MISSING = (
    0.001,
    0.1,
)  # level of the sample ratio test; share of the candidate's units that are missing
_MOST = 1e12  # requests; beyond it "never"


@dataclass(frozen=True, slots=True)
class _Traffic:
    """What is assumed about it."""

    per_day: float
    usual: float
    bad: float
    matures: timedelta


def forecast(
    spec: RolloutSpec,
    *,
    per_day: float,
    usual: float = 0.001,
    bad: float = 0.01,
    matures: timedelta = timedelta(0),
    skip_shadow: bool = False,
) -> dict[str, Any]:
    """Return the expected days to detect each kind of harm at each step, and to promote a good candidate.

    Args:
        spec: The rollout.
        per_day: Requests a day of the whole model.
        usual: Failure rate of the champion, of a good candidate too.
        bad: Failure rate of the bad candidate to be found.
        matures: How long outcomes take.
        skip_shadow: Leave the shadow phase out.

    Returns:
        {"strategy", "detect": [{guardrail, kind, harm, step, share, candidate_requests, days}], "phases": [{name,
        share, days}], "promote_days", "promotes": a sentence, "waits_at_most_days"}; days are None where traffic is too
        thin to ever get there, where there is nothing to compare with, and where no request decides.
    """
    traffic = _Traffic(per_day, usual, bad, matures)
    levels = dict(zip((rail.name for rail in spec.guardrails), alphas(spec), strict=True))
    phases = _phases(spec, traffic, skip_shadow=skip_shadow)
    days, sentence = _promotion(spec, [phase["days"] for phase in phases])
    return {
        "strategy": str(spec.strategy),
        "per_day": per_day,
        "detect": [
            _detection(rail, number, step, levels[rail.name], traffic)
            for rail in spec.guardrails
            for number, step in enumerate(spec.steps, 1)
        ],
        "phases": phases,
        "promote_days": days,
        "promotes": sentence,
        "waits_at_most_days": spec.max_wait / _DAY,
    }


# -- harm --------------------------------------------------------------------------------------------------------------


def _detection(rail: GuardrailSpec, number: int, step: Step, level: float, traffic: _Traffic) -> dict[str, Any]:
    needed, harm, late = _needed(rail, step.share, level, traffic)
    per_day = step.share * traffic.per_day
    days = needed / per_day + late / _DAY if per_day > 0 and math.isfinite(needed) else None
    return {
        "guardrail": rail.name,
        "kind": rail.kind,
        "harm": harm,
        "step": number,
        "share": step.share,
        "candidate_requests": math.ceil(needed) if math.isfinite(needed) else None,
        "days": days,
    }


def _needed(rail: GuardrailSpec, share: float, level: float, traffic: _Traffic) -> tuple[float, str, timedelta]:
    """Return the candidate requests until harm is expected to be found, what harm, and how much later it is known."""
    none, kind = timedelta(0), rail.kind
    odds = share / (1.0 - share) if share < 1.0 else math.inf
    if kind in _RATES:
        harm = f"{traffic.usual:.2%} to {traffic.bad:.2%} of requests"
        return max(_bet(odds * (1 + rail.margin.relative), traffic.usual, traffic.bad, level), 1.0), harm, none
    if kind == "latency":
        return _bet(max(1.0, odds), _SLOW, _SLOWER, level), "p99 1.5 times as long", none
    if kind in _MEANS:
        return _mean(share, level), f"{_SMALL:g} sd beyond the margin", max(traffic.matures, rail.delay)
    if kind == "srm":
        return _mismatch(share), f"{_MISSING:.0%} of the candidate's units are missing", none
    return math.inf, "as soon as its value is known: no request decides", none


def _bet(null: float, usual: float, bad: float, level: float) -> float:
    growth = max(_growth(theta, null, usual, bad) for theta in THETAS) if math.isfinite(null) else 0.0
    return math.log(len(THETAS) / level) / growth if growth > 0 else math.inf


def _growth(theta: float, null: float, usual: float, bad: float) -> float:
    """Return the expected growth of the log e-value per candidate request."""
    common = math.log((null + 1.0) / (theta * null + 1.0))
    return bad * (math.log(theta) + common) + usual / null * common


def _mean(share: float, level: float) -> float:
    """Return the candidate's units until a mean that is `_SMALL` sd beyond its margin is known to be, unpaired."""
    if share >= 1.0:
        return math.inf

    def width(n: float) -> float:  # of the bound after n units of the candidate, in standard deviations
        everybody = n / share
        return radius(everybody, everybody * (1.0 / n + 1.0 / (everybody - n)), alpha=level)

    return _least(lambda n: width(n) <= _SMALL)


def _mismatch(share: float) -> float:
    if share >= 1.0:
        return math.inf
    left = share * (1.0 - _MISSING) / (1.0 - share * _MISSING)
    apart = left * math.log(left / share) + (1.0 - left) * math.log((1.0 - left) / (1.0 - share))
    return -math.log(_MISMATCH_ALPHA) / apart * share


def _least(enough: Any) -> float:
    """Return the least n at which `enough(n)` holds, to a hundredth."""
    high = 100.0
    while not enough(high):
        high *= 2.0
        if high > _MOST:
            return math.inf
    low = high / 2.0
    while high - low > 0.01 * high:
        middle = (low + high) / 2.0
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


# -- promotion ---------------------------------------------------------------------------------------------------------


def _promotion(spec: RolloutSpec, days: list[float | None]) -> tuple[float | None, str]:
    if spec.strategy is Strategy.CHALLENGER:
        return None, "never by itself: a challenger is compared until a person promotes or aborts it"
    known = [d for d in days if d is not None]
    if len(known) < len(days):
        return None, "never at this traffic"
    total = math.fsum(known)
    text = f"after {total:.1f} days"
    if spec.strategy in {Strategy.AB, Strategy.BANDIT}:
        name = spec.primary.name if spec.primary is not None else "the primary metric"
        text = f"after {total:.1f} days at the earliest, when {name} has a winner"
    if spec.approve_promotion or any(step.approval for step in spec.steps):
        text += ", and as long as approvals take"
    if spec.calendar.freezes:
        text += "; freezes come on top"
    return total, text


def _phases(spec: RolloutSpec, traffic: _Traffic, *, skip_shadow: bool) -> list[dict[str, Any]]:
    phases: list[dict[str, Any]] = []
    seen = 0.0
    if spec.shadow > timedelta(0) and not skip_shadow:
        days = _longest(spec.shadow / _DAY, spec.min_requests, traffic.per_day)
        phases.append({"name": "shadow", "share": 0.0, "days": days})
        seen += traffic.per_day * (days or 0.0)
    for number, step in enumerate(spec.steps, 1):
        per_day = traffic.per_day * step.share
        days = _longest(_least_days(spec, step), _least_requests(spec, step), per_day)
        if number == len(spec.steps) and days is not None:
            days = _until_safe(spec, days, seen, per_day, traffic.matures / _DAY)
        phases.append({"name": step.name or f"step {number}", "share": step.share, "days": days})
        seen += per_day * (days or 0.0)
    return phases


def _least_days(spec: RolloutSpec, step: Step) -> float:
    bake = spec.bake if step.bake is None else step.bake
    return max(bake / _DAY, 7.0 * step.weeks)


def _least_requests(spec: RolloutSpec, step: Step) -> float:
    return max(spec.min_requests if step.min_requests is None else step.min_requests, step.min_units)


def _longest(least: float, requests: float, per_day: float) -> float | None:
    return max(least, requests / per_day) if per_day > 0 else None


def _until_safe(
    spec: RolloutSpec, days: float, seen: float, per_day: float, matures: float
) -> float:  # a good candidate is expected to fail not at all; noisier rates take longer
    rates = [rail.margin.absolute for rail in spec.guardrails if rail.kind in _RATES | {"latency"}]
    needed = 0
    while rates and min(rates) > 0 and rate_upper(0, needed, alpha=SAFE_ALPHA / 2) > min(rates):
        needed += 50 if needed < 100_000 else needed // 10
    if any(rail.kind in _MEANS for rail in spec.guardrails):
        days = max(days, matures)
    return max(days, (needed - seen) / per_day)
