"""What the routing table in force says about a rollout: a crash, or somebody else, may have put it ahead of the status.

The surprise: such a table is believed, not corrected. It has served since, so the status follows it; only harm in the
evidence goes before.
"""

from __future__ import annotations

from datetime import datetime

from flyball.rollout.judging.decide import decide
from flyball.rollout.routing import BUCKETS, ModelRoute, cut
from flyball.rollout.types import TERMINAL, Decision, Evidence, Phase, RolloutSpec, RolloutStatus, Step, Strategy

__all__ = ["adopt", "choose"]


def choose(spec: RolloutSpec, status: RolloutStatus, evidence: Evidence, route: ModelRoute, now: datetime) -> Decision:
    """Return the next act: what the evidence says, unless the table in force is ahead of the status."""
    decision = decide(spec, status, evidence, now)
    if decision.action in {"roll_back", "finish_rollback"}:
        return decision
    return _ahead(spec, status, route) or adopt(status, route) or decision


def adopt(status: RolloutStatus, route: ModelRoute) -> Decision | None:
    """Return the decision that the routing table in force shows to have been acted on, or made by somebody else."""
    if status.phase in TERMINAL or status.phase is Phase.ROLLING_BACK:
        return None
    if route.champion.version == status.candidate:
        return Decision("promote", "the routing table already has it as champion", share=1.0, guardrail="table")
    if route.champion.version != status.champion:
        reason = f"the champion became {route.champion.version} while this rollout ran against {status.champion}"
        return Decision("roll_back", reason, guardrail="table")
    exposed = status.phase if status.phase is not Phase.PAUSED else status.resume
    if exposed in {Phase.SHADOW, Phase.STEP} and route.rollout != status.id:
        return Decision("roll_back", "the candidate is no longer in the routing table", guardrail="table")
    return None


def _ahead(spec: RolloutSpec, status: RolloutStatus, route: ModelRoute) -> Decision | None:
    """Return the step or allocation that the table in force has and the status lacks: a crash came between them."""
    if route.rollout != status.id or not route.candidate_cut:
        return None
    following = status.step + 1
    if status.phase is Phase.STEP and _says(spec.steps[status.step], status.share, route):
        return None
    if status.phase in {Phase.PENDING, Phase.SHADOW, Phase.STEP} and following < len(spec.steps):
        step = spec.steps[following]
        if _says(step, step.share, route):
            reason = f"the routing table already has step {following + 1}"
            return Decision("set_step", reason, step=following, share=step.share, guardrail="table")
    if status.phase is Phase.STEP and spec.strategy is Strategy.BANDIT:
        share = route.candidate_cut / BUCKETS
        reason = f"the routing table already gives the candidate {share:.0%}"
        return Decision("set_step", reason, step=status.step, share=share, guardrail="table")
    return None


def _says(step: Step, share: float, route: ModelRoute) -> bool:
    return route.candidate_cut == cut(share) and route.within == step.where
