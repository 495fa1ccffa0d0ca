"""Which ranking do the clicks prefer? Votes of interleaved impressions, at the end or at every look.

An impression (or a unit, when one has many) votes for the treatment, for the control, or for neither. The surprise:
ties say nothing about which ranking is better, so the sign test leaves them out; they are told beside the effect.

References: Chapelle, Joachims, Radlinski and Yue (2012); Robbins (1970) for the beta mixture that may be looked at.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import special

from flyball.errors import InputError, UnknownName
from flyball.experiments.estimate import Alternative, Estimate, alternative_of, check_level
from flyball.experiments.fixed.clusters import unit_index
from flyball.experiments.fixed.pivots import critical, p_value
from flyball.experiments.fixed.shares import Count, clopper_pearson
from flyball.experiments.sequential.beta import log_mixture, rate_bound
from flyball.experiments.stats import moments

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["PreferenceProcess", "preference"]


def preference(
    credits: ArrayLike, *, units: ArrayLike | None = None, test: str = "sign", level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:  # fmt: skip
    """Return how much the treatment's ranking is preferred, judged once.

    Args:
        credits: Vote of each impression, as from `credit`, shape (n,).
        units: Unit of each impression, shape (n,): its votes are added first, so that nobody counts twice.
        test: "sign", the exact binomial test of who has more votes; the effect is the lead among decided votes, in
            [-1, 1], with a Clopper-Pearson interval. "t", Student's test of the mean vote, for graded credit.
        level: Confidence level.
        alternative: "two-sided", "greater" (the treatment is preferred) or "less".

    Raises:
        InputError: a vote is missing, or fewer votes than the test needs.

    Example:
        >>> print(preference([1, 1, 1, -1, 1, 0, 1, 1, 1, 1]))
        sign test: +0.7778 [+0.03501, +0.9944] at 95%, p = 0.0391, n = 8 against 1
          1 of 10 votes are ties and left out
    """
    side, votes = alternative_of(alternative), _votes(credits, units)
    check_level(level)
    if test not in ("sign", "t"):
        raise UnknownName.of("test", test, ["sign", "t"])
    wins, losses = int((votes > 0.0).sum()), int((votes < 0.0).sum())
    return _t(votes, level, side, (wins, losses)) if test == "t" else _sign(votes, level, side, (wins, losses))


@dataclass(frozen=True, slots=True)
class PreferenceProcess:
    """Votes of a running comparison, valid at every look: a Beta(a, a) mixture against a fair coin.

    Args:
        wins: Units (or impressions) that voted for the treatment.
        losses: Those that voted for the control.
        ties: Those that voted for neither.
        peak: Largest log e-value at any look so far.
        a: Prior of the mixture on each side, > 0; larger looks for smaller preferences.

    Example:
        >>> process = PreferenceProcess().add([1.0] * 70 + [-1.0] * 20)
        >>> process.p < 0.001, process.estimate().significant
        (True, True)
    """

    wins: int = 0
    losses: int = 0
    ties: int = 0
    peak: float = 0.0
    a: float = 20.0

    def add(self, credits: Iterable[float]) -> Self:
        """Return the process after more votes, one per unit; the evidence is looked at after the last of them."""
        votes = np.asarray(list(credits), dtype=np.float64)
        if not np.isfinite(votes).all():
            raise InputError("a vote is missing or infinite; an impression without clicks votes 0")
        ahead, behind = int((votes > 0.0).sum()), int((votes < 0.0).sum())
        ties = self.ties + len(votes) - ahead - behind
        after = replace(self, wins=self.wins + ahead, losses=self.losses + behind, ties=ties)
        return replace(after, peak=max(self.peak, after.log_e))

    @property
    def log_e(self) -> float:
        """The natural logarithm of the e-value now: B(a + wins, a + losses) / B(a, a) * 2**(wins + losses)."""
        decided = self.wins + self.losses
        return log_mixture(self.wins, decided, prior=(self.a, self.a)) + decided * math.log(2.0)

    @property
    def p(self) -> float:
        """The always-valid p value, two-sided."""
        return min(1.0, math.exp(-self.peak))

    def estimate(self, *, level: float = 0.95) -> Estimate:
        """Return the lead among decided votes with an interval that holds at every look."""
        alpha, decided = 1.0 - check_level(level), self.wins + self.losses
        share = self.wins / decided if decided else 0.5
        lower, upper = (rate_bound(self.wins, decided, prior=(self.a, self.a), alpha=alpha, outside=end)
                        for end in (0.0, 1.0))  # fmt: skip
        votes = decided + self.ties
        notes = ("holds at every look", f"{self.ties:,} of {votes:,} votes are ties and left out")
        return Estimate(2.0 * share - 1.0, 2.0 * lower - 1.0, 2.0 * upper - 1.0, self.p, self.log_e,
                        (self.wins, self.losses), "sequential sign test", level=level, treatment=share,
                        control=1.0 - share, notes=notes)  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal process."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(**data)


def _votes(credits: ArrayLike, units: ArrayLike | None) -> NDArray[np.float64]:
    votes = np.asarray(credits, dtype=np.float64)
    if votes.ndim != 1 or not np.isfinite(votes).all():
        raise InputError("a vote is missing or infinite, or votes are no list; an impression without clicks votes 0")
    if units is None:
        return votes
    return np.asarray(np.bincount(unit_index(units, len(votes)), weights=votes), dtype=np.float64)


def _sign(votes: NDArray[np.float64], level: float, side: Alternative, n: tuple[int, int]) -> Estimate:
    wins, losses = n
    decided = wins + losses
    if decided == 0:
        raise InputError(f"none of {len(votes):,} votes is for either ranking; the sign test needs one that is")
    share = clopper_pearson(Count(wins, decided), level=level, alternative=side)
    above, below = float(special.bdtrc(wins - 1, decided, 0.5)), float(special.bdtr(wins, decided, 0.5))
    p = {Alternative.GREATER: above, Alternative.LESS: below}.get(side, min(1.0, 2.0 * min(above, below)))
    note = f"{len(votes) - decided:,} of {len(votes):,} votes are ties and left out"
    lead, lower, upper = (2.0 * value - 1.0 for value in (share.value, *share.ci))
    return Estimate(lead, lower, upper, p, float(wins), n, "sign test", level=level, alternative=side,
                    treatment=share.value, control=1.0 - share.value, notes=(note,))  # fmt: skip


def _t(votes: NDArray[np.float64], level: float, side: Alternative, n: tuple[int, int]) -> Estimate:
    seen = moments(votes)
    if seen.n < 2 or seen.m2 <= 0.0:
        raise InputError(f"{seen.n} votes with variance {seen.variance:g}; Student's test needs two that differ")
    error, df = math.sqrt(seen.variance / seen.n), seen.n - 1.0
    t, reach = seen.mean / error, critical(level, side, df) * error
    ends = side.ends(seen.mean - reach, seen.mean + reach)
    return Estimate(seen.mean, *ends, p_value(t, side, df), t, n, "mean vote, Student's t", level=level,
                    alternative=side, df=df, notes=(f"{seen.n:,} votes",))  # fmt: skip
