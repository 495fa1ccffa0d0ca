"""Decide what a rollout does next: pure, total, and the same answer for the same inputs.

The surprise: nothing here counts or tests. Evidence arrives judged; this is only the order in which its parts speak:
harm first, then people, then patience, then progress (`progress`).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import assert_never

from flyball.rollout.judging.progress import freshness, progress
from flyball.rollout.types import Decision, Evidence, Phase, RolloutSpec, RolloutStatus

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
            return _harm(status, evidence) or _order(status) or progress(spec, status, evidence, now)
        case _:
            assert_never(status.phase)


def apply(status: RolloutStatus, decision: Decision, now: datetime) -> RolloutStatus:
    """Return the status after a decision was acted on."""
    moved = replace(status, entered=now, began=now, reason=decision.reason)
    match decision.action:
        case "wait":
            return status
        case "start_shadow":
            return replace(moved, phase=Phase.SHADOW, share=0.0)
        case "set_step":
            again = status.phase is Phase.STEP and status.step == decision.step  # a bandit moves its share
            began = status.began if again else now
            return replace(moved, phase=Phase.STEP, step=decision.step, share=decision.share, began=began)
        case "pause":
            return replace(moved, phase=Phase.PAUSED, resume=status.phase, wanted="pause")
        case "resume":
            return replace(moved, phase=status.resume or Phase.PENDING, resume=None, wanted="run")
        case "roll_back":
            return replace(moved, phase=Phase.ROLLING_BACK, share=0.0, resume=None, fault=decision.guardrail)
        case "finish_rollback":
            return replace(moved, phase=Phase.ROLLED_BACK, share=0.0, finished=now)
        case "promote":
            return replace(moved, phase=Phase.PROMOTED, share=1.0, resume=None, finished=now)
        case _:
            assert_never(decision.action)


def _harm(status: RolloutStatus, evidence: Evidence) -> Decision | None:
    for rail in evidence.guardrails:
        if rail.breached and rail.action == "roll_back":
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
