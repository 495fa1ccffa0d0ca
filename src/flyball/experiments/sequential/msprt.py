"""The mixture sequential probability ratio test of two means, with always-valid p values.

Johari, Koomen, Pekelis, Walsh (2022), "Always valid inference", equation 6, with sample sizes that may differ: the
effect under the alternative is N(0, tau²), and the p value is the smallest reciprocal of the likelihood ratio so far.
The surprise: tau is in the metric's unit, so it is said once, before the first look, as the size of effect that one
expects; a wrong tau costs units, and never the validity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, alternative_of, check_level, finite
from flyball.experiments.sequential.mixture import check_sigma, estimate_at, spread_of, what_holds
from flyball.experiments.stats import Sample, moments

__all__ = ["Msprt", "msprt"]

CONFLICT = "the intervals of different looks exclude each other: the effect is not constant over time"


@dataclass(frozen=True, slots=True)
class Msprt:
    """A running mSPRT: what all looks together say.

    Two of them cannot be merged: the p value is a minimum over time. Merge the arms' `Moments` and look at those.

    Args:
        tau: Deviation of the effects under the alternative, in the metric's unit, > 0.
        level: Confidence over all looks, in (0, 1).
        alternative: What is looked for.
        sigma: Known deviation of a value; None estimates it, and is asymptotic.
        looks: Number of looks so far.
        p: The smallest p value so far.
        lower: The largest lower bound so far.
        upper: The smallest upper bound so far.

    Example:
        >>> from flyball.experiments.stats import Moments
        >>> test = Msprt(tau=0.1).look(Moments(900, 0.52, 225.0), Moments(900, 0.50, 225.0))
        >>> test = test.look(Moments(9000, 0.53, 2250.0), Moments(9000, 0.50, 2250.0))
        >>> test.looks, round(test.p, 4), test.significant
        (2, 0.0043, True)
    """

    tau: float
    level: float = 0.95
    alternative: Alternative = Alternative.TWO_SIDED
    sigma: float | None = None
    looks: int = 0
    p: float = 1.0
    lower: float = -math.inf
    upper: float = math.inf

    def __post_init__(self) -> None:
        check_level(self.level)
        if not 0.0 < self.tau < math.inf:
            raise InputError(f"tau is {self.tau}; it is the deviation of likely effects, in the metric's unit, above 0")
        check_sigma(self.sigma)

    def look(self, treatment: Sample, control: Sample) -> Self:
        """Return the test after one more look at all values so far."""
        now = self._now(treatment, control)
        return replace(self, looks=self.looks + 1, p=min(self.p, 1.0 if now.p is None else now.p),
                       lower=max(self.lower, now.lower), upper=min(self.upper, now.upper))  # fmt: skip

    def estimate(self, treatment: Sample, control: Sample) -> Estimate:
        """Return the effect now with the p value and interval of all looks, this one included."""
        after, now = self.look(treatment, control), self._now(treatment, control)
        crossed = after.lower > after.upper
        bounds = (now.lower, now.upper) if crossed else (after.lower, after.upper)
        found = replace(now, p=after.p, lower=bounds[0], upper=bounds[1])
        return found.noted(CONFLICT) if crossed else found

    @property
    def significant(self) -> bool:
        """Whether "no effect" was rejected at any look."""
        return self.p <= 1.0 - self.level

    def _now(self, treatment: Sample, control: Sample) -> Estimate:
        one, other = moments(treatment), moments(control)
        spread = spread_of(one, other, sigma=self.sigma)
        note = what_holds(self.sigma, min(one.n, other.n), spread)
        found = estimate_at(one.mean - other.mean, spread, (one.n, other.n), self.level, self.alternative, self.tau**2,
                            note)  # fmt: skip
        return replace(found, method="mSPRT", treatment=one.mean, control=other.mean)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal test; infinite bounds are None."""
        return {"tau": self.tau, "level": self.level, "alternative": str(self.alternative), "sigma": self.sigma,
                "looks": self.looks, "p": self.p, "lower": finite(self.lower), "upper": finite(self.upper)}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        lower = -math.inf if data["lower"] is None else data["lower"]
        upper = math.inf if data["upper"] is None else data["upper"]
        return cls(data["tau"], data["level"], alternative_of(data["alternative"]), data["sigma"], data["looks"],
                   data["p"], lower, upper)  # fmt: skip


def msprt(
    treatment: Sample,
    control: Sample,
    *,
    tau: float,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    sigma: float | None = None,
) -> Estimate:
    """Return the mSPRT at one look; `Msprt` remembers the looks before.

    Args:
        treatment: Values of the treatment so far, or their moments; 0 and 1 for a rate.
        control: Values of the control so far, or their moments.
        tau: Deviation of likely effects, in the metric's unit, chosen before the first look.
        level: Confidence over all looks together.
        alternative: "two-sided", "greater" or "less".
        sigma: Known deviation of a value; None estimates it, and is asymptotic.

    Returns:
        `Estimate` whose p value and interval hold at every look.

    Raises:
        InputError: a value is missing, or an argument out of its range.
    """
    return Msprt(tau, level, alternative_of(alternative), sigma).estimate(treatment, control)
