"""Power so far: with which chance would harm of the margin's size have been seen by now?

The surprise: this says nothing about the candidate. It tells what the absence of an alarm is worth, from what was
counted alone; both forms are normal approximations and are never used for a decision.
"""

from __future__ import annotations

import math

from flyball.experiments.sequential.confidence import Bounds
from flyball.experiments.sequential.odds import THETAS

__all__ = ["mean_power", "rate_power"]


def rate_power(
    *, harm: float, control: float, n: float, odds: float, alpha: float, margin: float = 0.0
) -> float | None:
    """Return the chance that the odds process would have reached 1 / alpha by now.

    The log e-value of the best alternative is taken as normal, with mean and variance per candidate request; a path
    that was above its limit earlier and fell back is left out, so this is a little low.

    Args:
        harm: Difference of rates that is to be seen, > 0.
        control: The control's rate.
        n: Candidate answers so far.
        odds: Candidate answers per control answer.
        alpha: Level of the guardrail.
        margin: Relative margin of its process.
    """
    bad = control + harm
    if n <= 0 or harm <= 0 or not 0.0 < odds < math.inf or not 0.0 < bad <= 1.0:
        return None
    null = odds * (1.0 + margin)
    needed = math.log(len(THETAS) / alpha)
    best = 0.0
    for theta in THETAS:
        common = math.log((null + 1.0) / (theta * null + 1.0))
        gain, others = math.log(theta) + common, control / odds
        mean, variance = bad * gain + others * common, bad * gain**2 + others * common**2
        best = max(best, _normal((n * mean - needed) / math.sqrt(n * variance)))
    return best


def mean_power(harm: Bounds, margin: float) -> float | None:
    """Return the chance that harm of the margin's size would show as harm above zero by now."""
    if not (0.0 < margin < math.inf and math.isfinite(harm.lower) and 0.0 < harm.error < math.inf):
        return None
    return _normal((margin - (harm.estimate - harm.lower)) / harm.error)


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))
