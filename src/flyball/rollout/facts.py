"""What a pass records: facts in the past tense, each with the evidence of its moment."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import msgspec

from flyball.rollout.evidence.accounts.primary import verdict
from flyball.rollout.evidence.ledger import snapshot
from flyball.rollout.types import Decision, Evidence, GuardrailEvidence, RolloutEvent, RolloutStatus

__all__ = ["acted", "answered", "told"]

_EVENTS = {
    "start_shadow": "ShadowStarted", "set_step": "WeightsChanged", "pause": "Paused", "resume": "Resumed",
    "roll_back": "RollbackStarted", "finish_rollback": "RolledBack", "promote": "Promoted",
}  # fmt: skip


def acted(status: RolloutStatus, decision: Decision, evidence: Evidence, now: datetime) -> list[RolloutEvent]:
    """Return the facts of a decision that was acted on."""
    details = {"step": decision.step, "share": decision.share, "guardrail": decision.guardrail,
               "from": str(status.phase), "evidence": told(evidence)}  # fmt: skip
    events = []
    if decision.action == "roll_back" and decision.guardrail not in {"abort", "table", "veto", "primary"}:
        events.append(RolloutEvent(status.id, now, "GuardrailBreached", decision.reason, details))
    return [*events, RolloutEvent(status.id, now, _EVENTS[decision.action], decision.reason, details)]


def answered(status: RolloutStatus, evidence: Evidence, now: datetime) -> list[RolloutEvent]:
    """Return the fact that the primary metric has a verdict, or another one than before."""
    known = (status.state.get("evidence") or {}).get("primary")
    before = verdict(msgspec.convert(known, GuardrailEvidence)) if known else ""
    found = verdict(evidence.primary) if evidence.primary is not None else ""
    if evidence.primary is None or not found or found == before:
        return []
    details = {"verdict": found, "evidence": told(evidence)}
    return [RolloutEvent(status.id, now, "VerdictReached", f"{found}: {evidence.primary.text}", details)]


def told(evidence: Evidence) -> dict[str, Any]:
    """Return evidence as JSON data; numbers that JSON has no word for are left out."""
    plain: dict[str, Any] = _finite(snapshot(evidence))
    return plain


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value
