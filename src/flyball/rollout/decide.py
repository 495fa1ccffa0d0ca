"""Decide what a rollout does next: pure, total, and the same answer for the same inputs.

The surprise: nothing here counts or tests. Evidence arrives judged; this is only the order in which its parts speak:
harm first, then people, then patience, then progress.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never

from flyball.rollout.types import Decision, Evidence, Phase, RolloutSpec, RolloutStatus
from flyball.units import spoken

__all__ = ["apply", "decide", "freshness"]


def decide(spec: RolloutSpec, status: RolloutStatus, evidence: Evidence, now: datetime) -> Decision:
    """Return the next act of a rollout and one sentence why.

    Args:
        spec: What the user wants.
        status: Where the rollout stands, the latest order included.
        evidence: What was observed up to `now`.
        now: Domain time.

    Returns:
        A decision; `wait` when nothing is to be done. Terminal phases wait for ever.
    """
    match status.phase:
        case Phase.PROMOTED | Phase.ROLLED_BACK:
            return Decision("wait", f"the rollout is over: {status.phase}")
        case Phase.ROLLING_BACK:
            return Decision("finish_rollback", status.reason)
        case Phase.PENDING | Phase.SHADOW | Phase.STEP | Phase.PAUSED:
            return _harm(status, evidence) or _order(status) or _progress(spec, status, evidence, now)
        case _:
            assert_never(status.phase)


def apply(status: RolloutStatus, decision: Decision, now: datetime) -> RolloutStatus:
    """Return the status after a decision was acted on."""
    moved = replace(status, entered=now, reason=decision.reason)
    match decision.action:
        case "wait":
            return status
        case "start_shadow":
            return replace(moved, phase=Phase.SHADOW, share=0.0)
        case "set_step":
            return replace(moved, phase=Phase.STEP, step=decision.step, share=decision.share)
        case "pause":
            return replace(moved, phase=Phase.PAUSED, resume=status.phase, wanted="pause")
        case "resume":
            return replace(moved, phase=status.resume or Phase.PENDING, resume=None, wanted="run")
        case "roll_back":
            return replace(moved, phase=Phase.ROLLING_BACK, share=0.0, resume=None)
        case "finish_rollback":
            return replace(moved, phase=Phase.ROLLED_BACK, share=0.0, finished=now)
        case "promote":
            return replace(moved, phase=Phase.PROMOTED, share=1.0, resume=None, finished=now)
        case _:
            assert_never(decision.action)


def freshness(spec: RolloutSpec) -> timedelta:
    """Return how old the newest record may be for evidence to count as fresh: a tenth of the bake, 10 min to 1 h."""
    return min(max(timedelta(minutes=10), spec.bake / 10), timedelta(hours=1))


def _harm(status: RolloutStatus, evidence: Evidence) -> Decision | None:
    for rail in evidence.guardrails:
        if rail.breached:
            return Decision("roll_back", f"guardrail {rail.name} is breached: {rail.text}", guardrail=rail.name)
    if evidence.vetoed:
        return Decision("roll_back", f"veto: {evidence.vetoed}", guardrail="veto")
    if status.wanted == "abort":
        return Decision("roll_back", f"aborted: {status.reason or 'no reason given'}", guardrail="abort")
    return None


def _order(status: RolloutStatus) -> Decision | None:
    paused = status.phase is Phase.PAUSED
    match status.wanted:
        case "promote":
            return Decision("promote", f"promoted by order: {status.reason or 'no reason given'}", share=1.0)
        case "pause":
            reason = status.reason or "no reason given"
            return Decision("wait", "paused") if paused else Decision("pause", f"paused by order: {reason}")
        case "run":
            return Decision("resume", "resumed by order") if paused else None
        case "abort":
            return None
        case _:
            assert_never(status.wanted)


def _progress(spec: RolloutSpec, status: RolloutStatus, evidence: Evidence, now: datetime) -> Decision:
    if status.phase is Phase.PENDING:
        return _begin(spec, status)
    since = now - (status.entered or status.created)
    blocked = _blocked(spec, status, evidence, now, since)
    if not blocked:
        return _onward(spec, status)
    if since >= spec.max_wait:
        return Decision("pause", f"no verdict within {spoken(spec.max_wait)}: {blocked}")
    return Decision("wait", blocked)


def _begin(spec: RolloutSpec, status: RolloutStatus) -> Decision:
    if spec.shadow > timedelta(0) and not status.skip_shadow:
        return Decision("start_shadow", f"copying traffic to {status.candidate} for {spoken(spec.shadow)}")
    return _step(spec, 0, "started without a shadow phase")


def _onward(spec: RolloutSpec, status: RolloutStatus) -> Decision:
    if status.phase is Phase.SHADOW:
        return _step(spec, 0, "the shadow phase showed no harm")
    if status.step + 1 < len(spec.steps):
        return _step(spec, status.step + 1, f"step {status.step + 1} showed no harm")
    return Decision("promote", "every guardrail's harm bound lies inside its margin", share=1.0)


def _step(spec: RolloutSpec, step: int, why: str) -> Decision:
    share = spec.steps[step].share
    return Decision("set_step", f"{why}; {share * 100:g} % of the traffic is step {step + 1}", step=step, share=share)


def _blocked(
    spec: RolloutSpec, status: RolloutStatus, evidence: Evidence, now: datetime, since: timedelta
) -> str:  # the rules of design section 5, "Advance and promote", in order
    shadow = status.phase is Phase.SHADOW
    least = spec.shadow if shadow else spec.bake
    if since < least:
        return f"{spoken(least - since)} of {'shadow' if shadow else 'bake'} time left"
    if evidence.incident:
        return "both arms fail together; the ramp waits until that is over"
    if evidence.mismatch:
        return "units arrive in other shares than the table says; hold until the split is understood"
    if evidence.in_phase < spec.min_requests:
        what = "shadow answers" if shadow else "candidate requests"
        return f"not enough data yet: {spec.min_requests - evidence.in_phase} more {what} needed"
    if evidence.newest is None or now - evidence.newest > freshness(spec):
        seen = "never" if evidence.newest is None else f"{evidence.newest:%Y-%m-%d %H:%M:%S} UTC"
        return f"evidence is stale: the last request came {seen}"
    if shadow or status.step + 1 < len(spec.steps):
        return ""
    unsafe = [rail for rail in evidence.guardrails if not rail.safe]
    return "" if not unsafe else f"not yet shown to be safe: {'; '.join(f'{r.name}: {r.text}' for r in unsafe)}"
