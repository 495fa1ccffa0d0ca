"""What a primary metric says: a verdict in three words, where a guardrail knows only harm.

The surprise: the margin is read the other way round. For a guardrail it is the most harm that is accepted, here it is
the least gain that counts; with a margin of 0 any gain does.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from flyball.rollout.types import GuardrailEvidence

__all__ = ["PrimaryVerdict", "as_primary", "verdict"]

PrimaryVerdict = Literal["", "better", "worse", "no gain"]


def as_primary(found: GuardrailEvidence) -> GuardrailEvidence:
    """Return a metric's evidence as a primary metric's: `better` once its gain is shown to exceed the margin.

    Args:
        found: Evidence of an account at level `SAFE_ALPHA` on both sides, `harm` positive where the candidate is worse.
    """
    return replace(found, breached=False, better=verdict(found) == "better", action="hold")


def verdict(primary: GuardrailEvidence) -> PrimaryVerdict:
    """Return what a primary metric has shown, "" while it has shown nothing.

    "better": the gain is at least the margin. "worse": the candidate does harm. "no gain": the gain, if there is one,
    is below the margin. Both bounds hold at every look, so the first verdict may be taken.

    Example:
        >>> verdict(GuardrailEvidence("mae", False, False, harm=-0.2, lower=-0.3, upper=-0.1, margin=0.05))
        'better'
    """
    margin = primary.margin or 0.0
    lower, upper = primary.lower, primary.upper
    if upper is not None and math.isfinite(upper) and (upper <= -margin if margin > 0.0 else upper < 0.0):
        return "better"
    if lower is None or not math.isfinite(lower):
        return ""
    if lower > 0.0:
        return "worse"
    return "no gain" if margin > 0.0 and lower > -margin else ""
