"""Releases that roll themselves back; `fb.rollout.decide` is the pure rule at their heart.

The surprise: only values and the rule are named here. What reads logs and changes routes stays in its own modules.
"""

from flyball.rollout.decide import decide
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
