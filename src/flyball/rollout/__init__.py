"""Releases that roll themselves back; `fb.rollout.decide` is the pure rule at their heart.

Which module does what:

    words         types (spec: what the user wants; status: what the controller knows; evidence; decision), routing (the
                  table that workers read, all that serving imports from here), ports
    declared      definitions/ (what a user writes: `Rollout`, strategies, guardrails, calendar)
    observed      evidence/ (log records -> closed bins -> one account per guardrail; the journal that a replay reads)
    judged        judging/ (decide, and the rules it asks; adopt; pure)
    acted on      orders (of people), reconcile (the only one that changes routes), tables and splits (to what),
                  facts (what a pass records)
    told          explain (why it stands there), forecast (before it starts), replay (the same verdicts again)

A test holds this map to the folder.

The surprise: only values and the rule are named here. What reads logs and changes routes stays in its own modules.
"""

from flyball.rollout.judging.decide import decide
from flyball.rollout.types import (
    ArmCounts,
    Decision,
    Evidence,
    GuardrailEvidence,
    GuardrailSpec,
    Phase,
    RolloutSpec,
    RolloutStatus,
)

__all__ = [
    "ArmCounts",
    "Decision",
    "Evidence",
    "GuardrailEvidence",
    "GuardrailSpec",
    "Phase",
    "RolloutSpec",
    "RolloutStatus",
    "decide",
]
