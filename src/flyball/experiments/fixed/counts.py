"""Rates of events per exposure, such as errors per hour: exact, given the total.

Of all events, the treatment's share depends only on the ratio of the rates and the exposures, so the base rate drops
out (Przyborowski and Wilenski 1940). The surprise: units that cause several events break the Poisson law; compare
means of events per unit with `welch_t` then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special, stats

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, Scale, alternative_of
from flyball.experiments.fixed.pivots import null_note, tail_of

__all__ = ["Rate", "poisson_rates"]


@dataclass(frozen=True, slots=True)
class Rate:
    """Events seen over an exposure.

    Args:
        events: How many, >= 0.
        exposure: Hours, requests, units: whatever the rate is per; > 0.

    Raises:
        InputError: a count below zero or an exposure that is not above zero.
    """

    events: int
    exposure: float

    def __post_init__(self) -> None:
        if not 0 <= self.events < math.inf or int(self.events) != self.events:
            raise InputError(f"events is {self.events}; it is a count, 0 or more")
        if not 0.0 < self.exposure < math.inf:
            raise InputError(f"exposure is {self.exposure}; it must be finite and above 0")
        object.__setattr__(self, "events", int(self.events))

    @property
    def value(self) -> float:
        """Events per exposure."""
        return self.events / self.exposure


def poisson_rates(
    treatment: Rate,
    control: Rate,
    *,
    null: float = 1.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return the ratio of two Poisson rates with exact p value and interval.

    The interval is Clopper and Pearson's of the treatment's share of all events, carried over to the ratio; the
    two-sided p value adds the outcomes that are no more likely than ours, both as R's poisson.test.

    Args:
        treatment: Events and exposure.
        control: Likewise.
        null: The ratio under the null hypothesis, > 0.
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".

    Returns:
        Treatment's rate over control's; inf when the control had no event, which a note says.

    Raises:
        InputError: neither arm had an event.

    Example:
        >>> estimate = poisson_rates(Rate(11, 800), Rate(21, 3011))
        >>> round(estimate.effect, 6), round(estimate.p, 5), round(estimate.lower, 6), round(estimate.upper, 6)
        (1.971488, 0.07967, 0.858426, 4.277266)
    """
    side = alternative_of(alternative)
    if not 0.0 < null < math.inf:
        raise InputError(f"null is {null}; a ratio of rates lies above 0, and 1 means no effect")
    total = treatment.events + control.events
    if total == 0:
        raise InputError("neither arm had an event: the ratio of their rates does not exist; collect more exposure")
    per = control.exposure / treatment.exposure
    expected = null / (null + per)
    p = stats.binomtest(treatment.events, total, expected, alternative=str(side)).pvalue
    tail = tail_of(level, side)
    lower = 0.0 if treatment.events == 0 else per / _odds(control.events + 1, treatment.events, tail)
    upper = math.inf if control.events == 0 else per * _odds(treatment.events + 1, control.events, tail)
    effect = treatment.value / control.value if control.events else math.inf
    open_end = () if control.events else ("the control had no event: only the lower end is known",)
    return Estimate(
        effect,
        *side.ends(lower, upper),
        min(1.0, float(p)),
        None,
        (treatment.events, control.events),
        "exact test of two Poisson rates",
        level=level,
        alternative=side,
        scale=Scale.RATIO,
        treatment=treatment.value,
        control=control.value,
        notes=("n counts events", *null_note(null, 1.0), *open_end),
    )


def _odds(a: int, b: int, above: float) -> float:
    """Return the odds at which a beta(a, b) variable has `above` beyond it."""
    return float(special.betainccinv(a, b, above)) / float(special.betaincinv(b, a, above))
