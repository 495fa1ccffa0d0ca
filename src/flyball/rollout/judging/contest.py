"""A/B to a verdict, bandit to a winner, standing challenger: what a primary metric decides.

The surprise: a bandit here draws nothing. With two arms Thompson's rule (1933) gives the candidate the probability that
it is better as its share, and that probability has a closed form; so the share is a function of the evidence, and a
replay finds it again. It is computed from the difference within stretches of one allocation, because pooled means of
arms whose shares move would compare different days.
"""

from __future__ import annotations

import math
from datetime import datetime

from flyball.rollout.definitions.calendar import frozen
from flyball.rollout.evidence.accounts.primary import verdict
from flyball.rollout.types import Decision, Evidence, GuardrailEvidence, Phase, RolloutSpec, RolloutStatus, Strategy

__all__ = ["contested", "move", "settled", "share_of"]

_CONTESTS = frozenset({Strategy.AB, Strategy.BANDIT, Strategy.CHALLENGER})
_GRAIN = 100  # a bandit's share is a whole per cent
_LEAST = 50  # units with an outcome before a bandit moves


def contested(spec: RolloutSpec, status: RolloutStatus) -> bool:
    """Tell whether the primary metric decides in this step."""
    last = status.phase is Phase.STEP and status.step + 1 >= len(spec.steps)
    return last and spec.strategy in _CONTESTS


def settled(spec: RolloutSpec, evidence: Evidence, *, risk: str) -> Decision:
    """Return how a contest ends, or `wait` with how it stands.

    Args:
        spec: The rollout.
        evidence: With the primary metric.
        risk: Which harm may still be too large; a winner is not promoted before there is none.
    """
    primary = evidence.primary
    if primary is None:
        return Decision("wait", "the primary metric has no evidence yet")
    found = verdict(primary)
    if spec.strategy is Strategy.CHALLENGER:
        stands = {"": "no verdict yet", "no gain": "no gain that counts"}.get(found, f"the challenger is {found}")
        return Decision("wait", f"standing test, {stands}: {primary.text}")
    match found:
        case "better":
            if risk:
                return Decision("wait", f"{primary.name} is better, but {risk}")
            return Decision("promote", f"{primary.name} is better: {primary.text}", share=1.0)
        case "worse" | "no gain":
            why = "is worse" if found == "worse" else "gains less than what counts"
            return Decision("roll_back", f"{primary.name} {why}: {primary.text}", guardrail="primary")
        case _:
            return Decision("wait", f"no verdict on {primary.name} yet: {primary.text}")


def move(spec: RolloutSpec, status: RolloutStatus, evidence: Evidence, now: datetime) -> Decision | None:
    """Return a bandit's next allocation, None when it stays; it does not rise while the calendar is frozen."""
    if spec.strategy is not Strategy.BANDIT or evidence.primary is None:
        return None
    if now - (status.entered or status.created) < spec.pace:
        return None
    share = share_of(evidence.primary, floor=spec.floor)
    if share is None or abs(share - status.share) * _GRAIN < 0.5:
        return None
    if share > status.share and frozen(spec.calendar, now):
        return None
    why = f"{evidence.primary.name} gives the candidate {share:.0%} of the traffic: {evidence.primary.text}"
    return Decision("set_step", why, step=status.step, share=share)


def share_of(primary: GuardrailEvidence, *, floor: float) -> float | None:
    """Return the probability that the candidate is better, in whole per cent within [floor, 1 - floor].

    None while there is too little to go by. The posterior of the difference is normal with a flat prior.

    Example:
        >>> share_of(GuardrailEvidence("mae", False, False, harm=-0.1, error=0.1, samples=400), floor=0.1)
        0.84
    """
    harm, error = primary.harm, primary.error
    if harm is None or error is None or primary.samples < _LEAST or not math.isfinite(harm + error):
        return None
    better = 0.5 if harm == 0.0 else float(harm < 0.0)
    if error > 0.0:
        better = 0.5 * math.erfc(harm / error / math.sqrt(2.0))
    return min(max(round(better * _GRAIN) / _GRAIN, floor), 1.0 - floor)
