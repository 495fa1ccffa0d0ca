"""Judge failures of two arms at every look: the conditional odds-grid e-process.

Given that a failure happened, all that is asked is whose it was: so the base rate cancels, and an incident that hits
both arms says nothing against the candidate. The surprise: `odds` takes the counts up to *and including* the failure;
that makes the factor's expectation exactly 1 under the null, even when every bin holds a single request
(docs/decisions/0003-evidence-counts.md has the proof and the simulations).

References: Ville (1939); Turner, Ly, Grünwald (2021), safe tests for two proportions; Lindon and Malek (2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from flyball.errors import InputError

__all__ = ["MAX_LOG", "THETAS", "OddsProcess", "odds"]

MAX_LOG = 690.0  # e-values are cut at e**690, about 1e299: still a float, and JSON has no infinity
THETAS = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)


def odds(*counts: tuple[float, float], known: float = 0.0) -> float:
    """Return the candidate-to-control odds of a failure under "no difference": the largest of several estimates.

    A larger value makes every later factor smaller, whoever fails, so the result is valid when any one of them is.

    Args:
        counts: (candidate, control) counts of the present stretch of constant allocation, up to and including the
            failures that are about to be judged; for instance requests, and unit exposures.
        known: Odds of the allocation itself, 0 when unknown.

    Returns:
        Odds in [0, inf].

    Example:
        >>> odds((10, 990), (9, 990), known=0.01)
        0.010101010101010102
    """
    ratios = [c / b if b > 0 else math.inf for c, b in counts if c > 0 or b > 0]
    return max([known, *ratios])


@dataclass(frozen=True, slots=True)
class OddsProcess:
    """Evidence against "the candidate's failure rate is at most (1 + margin) times the control's".

    Args:
        margin: Accepted relative harm m >= 0.
        logs: Log likelihood ratio of each alternative in `THETAS` (odds theta times those at the margin).
        peak: Largest log e-value so far; Ville's inequality speaks about the largest.
        candidate: Failure episodes of the candidate so far.
        control: Failure episodes of the control so far.

    Example:
        >>> process = OddsProcess().fail(candidate=4, control=1, odds=1 / 99)
        >>> process.e_value > 100
        True
    """

    margin: float = 0.0
    logs: tuple[float, ...] = (0.0,) * len(THETAS)
    peak: float = 0.0
    candidate: int = 0
    control: int = 0

    def fail(self, *, candidate: int, control: int, odds: float) -> Self:
        """Return the process after failures that share one allocation.

        Args:
            candidate: New failure episodes of the candidate.
            control: New failure episodes of the control.
            odds: What `odds` returned for the counts including these failures; 0 and inf carry no information.

        Raises:
            InputError: a count below 0, or one that is no number.
        """
        if not (candidate >= 0 and control >= 0):
            raise InputError(f"{candidate} and {control} failures; counts of episodes are 0 or more")
        after = replace(self, candidate=self.candidate + candidate, control=self.control + control)
        null = odds * (1.0 + self.margin)
        if not 0.0 < null < math.inf or candidate + control == 0:
            return after
        logs = tuple(
            log + candidate * math.log(theta) + (candidate + control) * math.log((null + 1.0) / (theta * null + 1.0))
            for log, theta in zip(self.logs, THETAS, strict=True)
        )
        grown = replace(after, logs=logs)
        return replace(grown, peak=max(self.peak, grown.log_e))

    def merge(self, other: OddsProcess) -> Self:
        """Return the evidence of two separate streams of requests together: for each theta, likelihoods multiply.

        The peak starts anew at the merged e-value, as nobody watched both at once before.

        Raises:
            InputError: the margins differ.
        """
        if self.margin != other.margin:
            raise InputError(
                f"the margins {self.margin} and {other.margin} differ; only evidence on one question adds up"
            )
        logs = tuple(one + two for one, two in zip(self.logs, other.logs, strict=True))
        both = replace(
            self, logs=logs, candidate=self.candidate + other.candidate, control=self.control + other.control
        )
        return replace(both, peak=max(0.0, both.log_e))

    @property
    def log_e(self) -> float:
        """The natural logarithm of the e-value: equal weights over the alternatives, by log-sum-exp."""
        top = max(self.logs)
        return top + math.log(math.fsum(math.exp(log - top) for log in self.logs) / len(self.logs))

    @property
    def e_value(self) -> float:
        """The e-value now; e**`MAX_LOG` at most."""
        return math.exp(min(self.log_e, MAX_LOG))

    def breached(self, alpha: float) -> bool:
        """Tell whether the e-value ever reached 1/alpha."""
        return self.peak >= -math.log(alpha)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal process."""
        return {"margin": self.margin, "logs": list(self.logs), "peak": self.peak,
                "candidate": self.candidate, "control": self.control}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(data["margin"], tuple(data["logs"]), data["peak"], data["candidate"], data["control"])
