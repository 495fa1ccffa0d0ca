"""Findings and verdicts as sentences: "v7 raises conversion by 4.6 % [1.2, 8.1]; no guardrail is harmed; ship it".

The surprise: where an effect is not shown, the sentence says what would have been seen, not that there is no effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flyball.experiments.design.result import Comparison, Finding, Outcome
from flyball.experiments.estimate import Estimate

__all__ = ["amount", "finding", "more_units", "verdict"]

Relative = tuple[float, float, float] | None


def finding(metric: str, arm: str, found: Finding, estimate: Estimate, relative: Relative, margin: float | None) -> str:
    """Return what is known of one metric of one arm."""
    verb = "raises" if estimate.effect > 0 else "lowers"
    match found:
        case Finding.BETTER | Finding.WORSE:
            return f"{arm} {verb} {metric} by {amount(estimate, relative)}"
        case Finding.SAME:
            return f"{arm} changes {metric} by less than {margin:.3g}: {amount(estimate, relative)}"
        case Finding.SAFE:
            return f"{metric} of {arm} is within its margin: {amount(estimate, relative)}"
        case _:
            return f"{metric} of {arm} is not decided: {amount(estimate, relative)}"


def amount(estimate: Estimate, relative: Relative) -> str:
    """Return an effect with its interval, in per cent where that makes sense; without a sign where it is clear."""
    values = (estimate.effect, estimate.lower, estimate.upper) if relative is None else tuple(100 * v for v in relative)
    clear = values[1] > 0 or values[2] < 0
    if clear and values[0] < 0:
        values = (-values[0], -values[2], -values[1])
    style = "" if clear else "+"
    one, low, high = (f"{v:{style}.3g}" if math.isfinite(v) else ("-inf" if v < 0 else "inf") for v in values)
    return f"{one}{'' if relative is None else ' %'} [{low}, {high}]"


def more_units(comparisons: Sequence[Comparison], planned: int | None, seen: int) -> str:
    """Return how much data is missing, "" where nobody can say."""
    needs = [c.more for c in comparisons if c.more]
    missing = max(needs, default=0) or max((planned or 0) - seen, 0)
    if missing <= 0:
        return ""
    digits = max(len(str(missing)) - 2, 0)
    rounded = math.ceil(missing / 10**digits) * 10**digits
    return f"about {rounded:,} more exposures"


def verdict(outcome: Outcome, winner: str, control: str, deciding: Sequence[Comparison], missing: str) -> str:
    """Return the verdict: what was found in the deciding comparisons, and what to do.

    Args:
        outcome: What to do.
        winner: The arm to ship.
        control: The control.
        deciding: The comparisons that decide, in order.
        missing: How much data is missing, from `more_units`.
    """
    said = "; ".join(c.sentence for c in deciding)
    match outcome:
        case Outcome.SHIP:
            return f"{said}; {_guardrails(deciding)}ship {winner}"
        case Outcome.KEEP:
            return f"{said}; keep {control}"
        case Outcome.SAME:
            return f"{said}; no difference that counts: choose by other reasons than these metrics"
        case Outcome.WAIT:
            return f"not enough data yet{': ' + missing if missing else ''}; {said}"
        case Outcome.INCONCLUSIVE:
            return f"{said}; the planned size is reached and nothing is shown: keep {control}, or plan a larger one"
        case Outcome.UNTRUSTED:
            return f"do not read the effects: {said}"


def _guardrails(deciding: Sequence[Comparison]) -> str:
    return "no guardrail is harmed; " if any(c.finding is Finding.SAFE for c in deciding) else ""
