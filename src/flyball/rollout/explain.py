"""Say why a rollout stands where it stands, what holds it and what happens next.

The surprise: nothing is judged here. The sentences are made of the evidence that was recorded with the last decision,
so they say what the controller saw, not what it would see now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from flyball.rollout.forecast import forecast
from flyball.rollout.types import (
    GuardrailSpec,
    Phase,
    RolloutEvent,
    RolloutSpec,
    RolloutStatus,
    Step,
    Strategy,
)
from flyball.units import spoken

__all__ = ["explain", "forecast", "newest_evidence", "unsafe", "upcoming"]

_OPEN = "not enough data yet"


def explain(
    spec: RolloutSpec, status: RolloutStatus, events: Sequence[RolloutEvent], *, now: datetime | None = None
) -> dict[str, Any]:
    """Return a rollout's story and, per guardrail, limit, e-value, interval, samples, power and one sentence.

    Args:
        spec: What the user wants.
        status: Where it stands. The evidence is that of the decision that ended the rollout, else the newest.
        events: What happened, in order.
        now: Domain time, for what happens next; the time of the evidence when left out.
    """
    evidence = newest_evidence(status, events)
    rails = {rail.name: rail for rail in spec.guardrails}
    found = (evidence or {}).get("guardrails", [])
    return {
        "rollout": status.id,
        "model": status.model,
        "candidate": status.candidate,
        "champion": status.champion,
        "phase": str(status.phase),
        "step": status.step,
        "share": status.share,
        "reason": status.reason,
        "waiting": status.state.get("waiting", ""),
        "cause": status.cause,
        "alpha": spec.alpha,
        "bins": status.bins,
        "candidate_requests": (evidence or {}).get("candidate", {}).get("requests", 0),
        "shadow": _shadow((evidence or {}).get("shadow")),
        "strategy": str(spec.strategy),
        "guardrails": [{**rail, "sentence": _sentence(rails[rail["name"]], rail)} for rail in found],
        "primary": _primary((evidence or {}).get("primary")),
        "next": upcoming(spec, status, evidence or {}, now or status.entered or status.created),
        "events": [{"at": e.at.isoformat(), "kind": e.kind, "reason": e.reason} for e in events],
    }


def newest_evidence(status: RolloutStatus, events: Sequence[RolloutEvent]) -> dict[str, Any] | None:
    """Return the evidence of the last decision or look, as plain data; None before the first."""
    newest = status.state.get("evidence")
    if newest is not None:
        return dict(newest)
    last = next((e for e in reversed(events) if "evidence" in e.details), None)
    return None if last is None else dict(last.details["evidence"])


def upcoming(
    spec: RolloutSpec, status: RolloutStatus, evidence: Mapping[str, Any], now: datetime
) -> dict[str, Any]:  # {"what", "at", "sentence"}
    """Return what happens next, when at the earliest (None: nobody can say) and one sentence.

    Args:
        spec: What the user wants.
        status: Where it stands.
        evidence: The newest, as plain data.
        now: Domain time.
    """
    match status.phase:
        case Phase.PROMOTED | Phase.ROLLED_BACK:
            return _next("nothing", None, "nothing: the rollout is over")
        case Phase.PAUSED:
            return _next("order", None, "it stays where it is until a person resumes, promotes or aborts it")
        case Phase.PENDING | Phase.ROLLING_BACK:
            return _next("pass", now, "the controller acts with its next pass")
        case _:
            return _onward(spec, status, evidence, now)


def _next(what: str, at: datetime | None, sentence: str) -> dict[str, Any]:
    return {"what": what, "at": None if at is None else at.isoformat(), "sentence": sentence}


def _onward(spec: RolloutSpec, status: RolloutStatus, evidence: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    entered = status.began or status.entered or status.created
    following = status.step + 1
    last = status.phase is Phase.STEP and following >= len(spec.steps)
    if last and spec.strategy is Strategy.CHALLENGER:
        return _next("order", None, "it is compared until a person promotes or aborts it")
    what = "promotion" if last else f"step {following + 1} ({spec.steps[following].share * 100:g} % of the traffic)"
    until, needs = _earliest(spec, status, evidence, entered, now)
    if (spec.approve_promotion if last else spec.steps[following].approval) and status.approved < following:
        needs.append("a person approves it (flyball rollout approve)")
    if last:
        needs += [f"{name} is shown to be safe" for name in unsafe(evidence)]
    pause = entered + spec.max_wait
    parts = [f"{what} {_when(until, now)}"]
    if needs:
        parts.append(f"if {' and '.join(needs)}")
    text = ", ".join(parts)
    return _next(what, until, f"{text}; without a verdict it pauses {_when(pause, now)}, a breach rolls back at once")


def _when(at: datetime, now: datetime) -> str:
    return f"in {spoken(timedelta(seconds=round((at - now).total_seconds())))}" if at > now else "with the next pass"


def _earliest(
    spec: RolloutSpec, status: RolloutStatus, evidence: Mapping[str, Any], entered: datetime, now: datetime
) -> tuple[datetime, list[str]]:
    """Return when time and, at the rate seen so far, requests suffice; and what must be seen until then."""
    least, requests = spec.shadow, spec.min_requests
    if status.phase is Phase.STEP and 0 <= status.step < len(spec.steps):
        step: Step = spec.steps[status.step]
        least = max(spec.bake if step.bake is None else step.bake, timedelta(weeks=step.weeks))
        requests = spec.min_requests if step.min_requests is None else step.min_requests
    at, seen = entered + least, int(evidence.get("in_phase") or 0)
    if seen >= requests:
        return at, []
    if seen > 0 and now > entered:
        at = max(at, now + (now - entered) * ((requests - seen) / seen))
    return at, [f"{requests - seen:,} more requests are seen"]


def unsafe(evidence: Mapping[str, Any]) -> list[str]:
    """Return the guardrails that are not shown to be safe."""
    return [rail["name"] for rail in evidence.get("guardrails", []) if not rail["safe"]]


def _primary(seen: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what the primary metric says, with one sentence."""
    if seen is None:
        return None
    state = "the candidate is better" if seen["better"] else "the candidate is worse" if seen["breached"] else "open"
    return {**seen, "sentence": f"primary metric {seen['name']}: {state}; {seen['text']}"}


def _shadow(seen: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return how the arms compare on the rows that both answered, with one sentence."""
    if seen is None:
        return None
    text = f"both arms answered {seen['rows']:,} rows and agreed on {seen['agreement']:.1%}"
    if seen["shift"] is not None:
        spread = "" if seen["deviation"] is None else f" (deviation {seen['deviation']:.3g})"
        text += f"; the candidate's answers are {seen['shift']:+.3g} from the champion's on average{spread}"
    return {**seen, "sentence": f"{text}; a discarded answer took {seen['seconds'] * 1000:.3g} ms"}


def _sentence(rail: GuardrailSpec, seen: dict[str, Any]) -> str:
    holds = seen.get("action") == "hold"
    state = ("holds the ramp" if holds else "breached") if seen["breached"] else "safe" if seen["safe"] else _OPEN
    text = f"{rail.name}: {state}; {seen['text']}"
    if seen["e_value"] is not None:
        text += f"; e-value {seen['e_value']:.3g}, a breach from {seen['limit']:.3g} on"
    if not seen["safe"] and not seen["breached"] and seen["upper"] is not None and seen["margin"] is not None:
        text += f"; harm may still be {seen['upper']:.3g}, promotion needs less than {seen['margin']:.3g}"
    if seen.get("power") is not None and "would have been seen" not in seen["text"]:
        text += f"; harm of the margin's size would have been seen by now with {seen['power']:.0%}"
    return text
