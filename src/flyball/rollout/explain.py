"""Say why a rollout stands where it stands, and what to expect of one before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from flyball.experiments.sequential.confidence import rate_upper
from flyball.experiments.sequential.odds import THETAS
from flyball.rollout.ledger import alphas
from flyball.rollout.types import SAFE_ALPHA, GuardrailSpec, RolloutEvent, RolloutSpec, RolloutStatus

__all__ = ["explain", "forecast"]


def explain(spec: RolloutSpec, status: RolloutStatus, events: Sequence[RolloutEvent]) -> dict[str, Any]:
    """Return a rollout's story and, per guardrail, limit, e-value, interval, samples and one sentence.

    The evidence is that of the decision that ended the rollout, else the newest.
    """
    last = next((e for e in reversed(events) if "evidence" in e.details), None)
    newest = status.state.get("evidence")
    evidence = newest if newest is not None or last is None else last.details["evidence"]
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
        "guardrails": [{**rail, "sentence": _sentence(rails[rail["name"]], rail)} for rail in found],
        "events": [{"at": e.at.isoformat(), "kind": e.kind, "reason": e.reason} for e in events],
    }


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
    state = "breached" if seen["breached"] else "safe" if seen["safe"] else "not enough data yet"
    text = f"{rail.name}: {state}; {seen['text']}"
    if seen["e_value"] is not None:
        text += f"; e-value {seen['e_value']:.3g}, a breach from {seen['limit']:.3g} on"
    if not seen["safe"] and not seen["breached"] and seen["upper"] is not None and seen["margin"] is not None:
        text += f"; harm may still be {seen['upper']:.3g}, promotion needs less than {seen['margin']:.3g}"
    return text


def forecast(
    spec: RolloutSpec,
    *,
    per_day: float,
    usual: float = 0.001,
    bad: float = 0.01,
    matures: timedelta = timedelta(0),
    skip_shadow: bool = False,
) -> dict[str, Any]:
    """Return the expected days to detect a bad candidate at each step, and to promote a good one.

    Args:
        spec: The rollout.
        per_day: Requests a day of the whole model.
        usual: Failure rate of the champion, of a good candidate too.
        bad: Failure rate of the bad candidate to be found.
        matures: How long outcomes take.
        skip_shadow: Leave the shadow phase out.

    Returns:
        {"detect": [{step, share, candidate_requests, days}], "phases": [{name, share, days}], "promote_days"}; days are
        None where traffic is too thin to ever get there.
    """
    level = min((a for a, r in zip(alphas(spec), spec.guardrails, strict=True) if r.kind == "errors"), default=None)
    detect = [_detection(n, step.share, per_day, level, usual, bad) for n, step in enumerate(spec.steps, 1) if level]
    phases = _phases(spec, per_day, matures, skip_shadow=skip_shadow)
    known = [phase["days"] for phase in phases]
    return {
        "per_day": per_day,
        "detect": detect,
        "phases": phases,
        "promote_days": None if None in known else math.fsum(known),
        "waits_at_most_days": spec.max_wait / timedelta(days=1),
    }


def _detection(step: int, share: float, per_day: float, level: float, usual: float, bad: float) -> dict[str, Any]:
    null = share / (1.0 - share) if share < 1.0 else math.inf
    growth = max(_growth(theta, null, usual, bad) for theta in THETAS) if share < 1.0 else 0.0
    needed = math.log(len(THETAS) / level) / growth if growth > 0 else math.inf
    days = needed / (share * per_day) if per_day > 0 and math.isfinite(needed) else None
    return {"step": step, "share": share, "candidate_requests": math.ceil(needed) if math.isfinite(needed) else None,
            "days": days}  # fmt: skip


def _growth(theta: float, null: float, usual: float, bad: float) -> float:
    """Return the expected growth of the log e-value per candidate request."""
    common = math.log((null + 1.0) / (theta * null + 1.0))
    return bad * (math.log(theta) + common) + usual / null * common


def _phases(spec: RolloutSpec, per_day: float, matures: timedelta, *, skip_shadow: bool) -> list[dict[str, Any]]:
    day = timedelta(days=1)
    phases: list[dict[str, Any]] = []
    seen = 0.0
    if spec.shadow > timedelta(0) and not skip_shadow:
        days = _longest(spec.shadow / day, spec.min_requests, per_day)
        phases.append({"name": "shadow", "share": 0.0, "days": days})
        seen += per_day * (days or 0.0)
    for number, share in enumerate((step.share for step in spec.steps), 1):
        days = _longest(spec.bake / day, spec.min_requests, per_day * share)
        if number == len(spec.steps):
            days = _until_safe(spec, days, seen, per_day * share, matures / day)
        phases.append({"name": f"step {number}", "share": share, "days": days})
        seen += per_day * share * (days or 0.0)
    return phases


def _longest(least: float, requests: float, per_day: float) -> float | None:
    return max(least, requests / per_day) if per_day > 0 else None


def _until_safe(
    spec: RolloutSpec, days: float | None, seen: float, per_day: float, matures: float
) -> float | None:  # a good candidate is expected to fail not at all; noisier rates take longer
    rates = [rail.margin.absolute for rail in spec.guardrails if rail.kind in {"errors", "latency"}]
    if days is None:
        return None
    needed = 0
    while rates and rate_upper(0, needed, alpha=SAFE_ALPHA / 2) > min(rates):
        needed += 50
    if any(rail.kind == "metric" for rail in spec.guardrails):
        days = max(days, matures)
    return max(days, (needed - seen) / per_day)
