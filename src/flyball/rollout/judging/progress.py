"""Whether a rollout may go on: the rules of the design's "Advance and promote", in their order.

Three kinds of reasons keep it where it is. Trouble and missing evidence (`held`) run into `max_wait` and then pause.
A person's approval and the calendar (`barred`) are waited for without end. A contest (`contest`) decides itself.
The surprise: a number that is not a number holds, wherever in the evidence it stands; what cannot be read is not safe.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from flyball.rollout.definitions.calendar import frozen, thaws, weeks_later
from flyball.rollout.judging.contest import contested, move, settled
from flyball.rollout.types import (
    Decision,
    Evidence,
    GuardrailEvidence,
    Phase,
    RolloutSpec,
    RolloutStatus,
    Step,
    Strategy,
)
from flyball.units import spoken

__all__ = ["barred", "freshness", "held", "needs_approval", "progress"]

_AHEAD = timedelta(minutes=1)  # how far the newest request may lie ahead of our clock: nodes' clocks differ
_BLIND = frozenset({"latency", "timeouts", "fallbacks", "resources"})  # what discarded answers cannot show


def progress(spec: RolloutSpec, status: RolloutStatus, evidence: Evidence, now: datetime) -> Decision:
    """Return what a rollout that nobody stops does next."""
    if status.phase is Phase.PENDING:
        return _begin(spec, status, now)
    since = now - (status.began or status.entered or status.created)
    waits = held(spec, status, evidence, now)
    if waits:
        endless = spec.strategy is Strategy.CHALLENGER and contested(spec, status)
        if since >= _patience(spec, status) and not endless:
            return Decision("pause", f"no verdict within {spoken(spec.max_wait)}: {waits}")
        return Decision("wait", waits)
    if contested(spec, status):
        return _contest(spec, status, evidence, now, since)
    return _onward(spec, status, now)


def freshness(spec: RolloutSpec, step: Step | None = None) -> timedelta:
    """Return how old the newest record may be for evidence to count as fresh: a tenth of the bake, 10 min to 1 h."""
    return min(max(timedelta(minutes=10), _bake(spec, step) / 10), timedelta(hours=1))


def needs_approval(spec: RolloutSpec, index: int) -> bool:
    """Tell whether a person must approve before step `index` begins; one past the last step is the promotion."""
    return spec.steps[index].approval if index < len(spec.steps) else spec.approve_promotion


def barred(spec: RolloutSpec, status: RolloutStatus, index: int, now: datetime) -> str:
    """Return why step `index` (one past the last: the promotion) may not begin at `now`, "" when it may."""
    if needs_approval(spec, index) and status.approved < index:
        what = f"step {index + 1}" if index < len(spec.steps) else "the promotion"
        return f"{what} waits for approval: flyball rollout approve {status.candidate}"
    why = frozen(spec.calendar, now)
    if not why:
        return ""
    until = thaws(spec.calendar, now)
    return f"{why}; " + ("no end within 15 days" if until is None else f"until {until:%Y-%m-%d %H:%M} UTC")


def held(spec: RolloutSpec, status: RolloutStatus, evidence: Evidence, now: datetime) -> str:
    """Return what keeps a phase or step from being finished, "" when nothing does."""
    step = spec.steps[status.step] if status.phase is Phase.STEP else None
    return (
        _trouble(evidence)
        or _time_left(spec, status, step, now)
        or _too_little(spec, status, step, evidence)
        or _stale(spec, step, evidence, now)
        or _unseen(spec, status, step, evidence, now)
        or _unsafe(spec, status, evidence)
    )


def _trouble(evidence: Evidence) -> str:
    if evidence.incident:
        return "both arms fail together; the ramp waits until that is over"
    if evidence.mismatch:
        return "units arrive in other shares than the table says; hold until the split is understood"
    for rail in evidence.guardrails:
        if rail.holds or (rail.breached and rail.action == "hold"):
            return f"guardrail {rail.name} holds the ramp: {rail.text}"
    for rail in (*evidence.guardrails, *([evidence.primary] if evidence.primary else [])):
        if unclear(rail):
            return f"the evidence of {rail.name} is not a number; hold until it is understood"
    return ""


def unclear(rail: GuardrailEvidence) -> bool:
    """Tell whether a number of the evidence is NaN."""
    numbers = (rail.e_value, rail.limit, rail.harm, rail.lower, rail.upper, rail.margin, rail.error)
    return any(n is not None and math.isnan(n) for n in numbers)


def _time_left(spec: RolloutSpec, status: RolloutStatus, step: Step | None, now: datetime) -> str:
    begun = status.began or status.entered or status.created
    if now < begun:
        return f"the clock went back to {now:%Y-%m-%d %H:%M:%S} UTC, before this phase began; hold until it caught up"
    least = _hold(spec, status, step)
    if now - begun >= least:
        return ""
    left = spoken(least - (now - begun))
    if step is not None and step.weeks and least > _bake(spec, step):
        return f"{left} left of {step.weeks} whole week{'s' * (step.weeks > 1)}"
    return f"{left} of {'shadow' if step is None else 'bake'} time left"


def _unseen(spec: RolloutSpec, status: RolloutStatus, step: Step | None, evidence: Evidence, now: datetime) -> str:
    """Return what is missing because time passed without requests; a clock that jumped ahead looks the same."""
    begun = status.began or status.entered or status.created
    bake = spec.shadow if step is None else _bake(spec, step)
    for least, silent in ((bake, evidence.silent), (_weeks(spec, begun, step), evidence.silent_weeks)):
        left = least - (now - begun - silent)
        if left > timedelta(0):
            return f"{spoken(left)} left to be watched: {spoken(silent)} in which no request came do not count"
    return ""


def _weeks(spec: RolloutSpec, begun: datetime, step: Step | None) -> timedelta:
    """Return how long a step's whole weeks last; none without."""
    if step is None or not step.weeks:
        return timedelta(0)
    return weeks_later(begun, step.weeks, spec.calendar.timezone) - begun


def _hold(spec: RolloutSpec, status: RolloutStatus, step: Step | None) -> timedelta:
    """Return how long the present phase or step lasts at least."""
    if step is None:
        return spec.shadow
    begun = status.began or status.entered or status.created
    return max(_bake(spec, step), _weeks(spec, begun, step))


def _bake(spec: RolloutSpec, step: Step | None) -> timedelta:
    return spec.bake if step is None or step.bake is None else step.bake


def _patience(spec: RolloutSpec, status: RolloutStatus) -> timedelta:
    """Return after how long it pauses: `max_wait`, counted from the end of a hold that is no shorter than that."""
    hold = _hold(spec, status, spec.steps[status.step] if status.phase is Phase.STEP else None)
    return spec.max_wait if hold < spec.max_wait else hold + spec.max_wait


def _too_little(spec: RolloutSpec, status: RolloutStatus, step: Step | None, evidence: Evidence) -> str:
    least = spec.min_requests if step is None or step.min_requests is None else step.min_requests
    if evidence.in_phase < least:
        what = "shadow answers" if step is None else "candidate requests"
        return f"not enough data yet: {least - evidence.in_phase} more {what} needed"
    if step is not None and evidence.units_in_phase < step.min_units:
        return f"not enough data yet: {step.min_units - evidence.units_in_phase} more units needed"
    control = evidence.control.requests if evidence.control_in_phase is None else evidence.control_in_phase
    if control == 0 and (step is None or status.share < 1.0):
        return "only the candidate is asked; without a control nothing can be compared"
    return ""


def _stale(spec: RolloutSpec, step: Step | None, evidence: Evidence, now: datetime) -> str:
    if evidence.newest is None or now - evidence.newest > freshness(spec, step):
        seen = "never" if evidence.newest is None else f"{evidence.newest:%Y-%m-%d %H:%M:%S} UTC"
        return f"evidence is stale: the last request came {seen}"
    if evidence.newest - now > _AHEAD:
        return f"the newest request is of {evidence.newest:%Y-%m-%d %H:%M:%S} UTC, ahead of our clock"
    return ""


def _unsafe(spec: RolloutSpec, status: RolloutStatus, evidence: Evidence) -> str:
    """Return which harm may still be too large; asked where the next act gives the candidate all traffic."""
    shadow = status.phase is Phase.SHADOW
    if contested(spec, status) or not (_last(spec, status) or (shadow and spec.strategy is Strategy.BLUE_GREEN)):
        return ""
    blind = {rail.name for rail in spec.guardrails if shadow and (rail.kind in _BLIND or rail.metric == "outcome")}
    return unsafe(evidence, blind=blind)


def unsafe(evidence: Evidence, *, blind: set[str] | frozenset[str] = frozenset()) -> str:
    """Return the guardrails whose harm bound does not lie inside their margin yet, in words."""
    missing = [rail for rail in evidence.guardrails if rail.name not in blind and not _safe(rail)]
    return "" if not missing else f"not yet shown to be safe: {'; '.join(f'{r.name}: {r.text}' for r in missing)}"


def _safe(rail: GuardrailEvidence) -> bool:
    return rail.safe and not rail.breached and not unclear(rail)


def _last(spec: RolloutSpec, status: RolloutStatus) -> bool:
    return status.phase is Phase.STEP and status.step + 1 >= len(spec.steps)


def _begin(spec: RolloutSpec, status: RolloutStatus, now: datetime) -> Decision:
    if spec.shadow > timedelta(0) and not status.skip_shadow:
        return Decision("start_shadow", f"copying traffic to {status.candidate} for {spoken(spec.shadow)}")
    why = barred(spec, status, 0, now)
    if why:
        return Decision("wait", why)
    if not spec.steps:
        return Decision("promote", "all traffic at once, as the strategy says", share=1.0)
    return _step(spec, 0, "started without a shadow phase")


def _onward(spec: RolloutSpec, status: RolloutStatus, now: datetime) -> Decision:
    following = 0 if status.phase is Phase.SHADOW else status.step + 1
    why = barred(spec, status, following, now)
    if why:
        return Decision("wait", why)
    if following >= len(spec.steps):
        return Decision("promote", "every guardrail's harm bound lies inside its margin", share=1.0)
    seen = "the shadow phase" if status.phase is Phase.SHADOW else f"step {status.step + 1}"
    return _step(spec, following, f"{seen} showed no harm")


def _contest(spec: RolloutSpec, status: RolloutStatus, evidence: Evidence, now: datetime, since: timedelta) -> Decision:
    end = settled(spec, evidence, risk=unsafe(evidence))
    if end.action == "promote":
        why = barred(spec, status, len(spec.steps), now)
        return Decision("wait", why) if why else end
    if end.action == "roll_back" or spec.strategy is Strategy.CHALLENGER:
        return end
    if since >= _patience(spec, status):
        return Decision("pause", f"no verdict within {spoken(spec.max_wait)}: {end.reason}")
    return move(spec, status, evidence, now) or end


def _step(spec: RolloutSpec, index: int, why: str) -> Decision:
    step = spec.steps[index]
    whose = f" of {step.name or 'the segment'}" if step.where else " of the traffic"
    return Decision("set_step", f"{why}; {step.share * 100:g} %{whose} is step {index + 1}", step=index,
                    share=step.share)  # fmt: skip
