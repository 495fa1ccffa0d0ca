"""Fisher's exact test: two shares compared given how many units converted in all.

Given the total, the treatment's successes follow a hypergeometric law that knows nothing of the base rate, only of the
odds ratio. The surprise: the effect is the conditional odds ratio (as R's fisher.test gives), which is closer to 1
than the odds ratio of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, Scale, alternative_of
from flyball.experiments.fixed.pivots import null_note, tail_of
from flyball.experiments.fixed.shares import Count, Share, count_of

__all__ = ["fisher_exact"]
LARGEST = 2_000_000  # ways to split the successes that are enumerated; beyond it the z test is exact enough
_TIES = 1.0 + 1e-7  # tables this near in probability count as equally extreme, as in R


def fisher_exact(
    treatment: Share,
    control: Share,
    *,
    null: float = 1.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return the odds ratio of two arms with exact conditional p value and interval.

    References: Fisher (1935); interval by Cornfield's exact tails. The two-sided p value adds the tables that are no
    more likely than ours, the interval cuts each tail at half: near the border the two may disagree, as in R.

    Args:
        treatment: Count, moments of zeros and ones, or zeros and ones of shape (n,).
        control: Likewise.
        null: The odds ratio under the null hypothesis, > 0.
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".

    Returns:
        The conditional maximum-likelihood odds ratio, treatment against control; 0 or inf when all successes fell
        where they could not lie further out, which a note says.

    Raises:
        InputError: an empty arm, no or only successes in both arms, or more than `LARGEST` ways to split them.

    Example:
        >>> estimate = fisher_exact(Count(2, 17), Count(10, 13), alternative="less")
        >>> round(estimate.effect, 5), f"{estimate.p:.4g}", round(estimate.upper, 4)
        (0.04694, '0.0004652', 0.285)
    """
    t, c, side = count_of(treatment), count_of(control), alternative_of(alternative)
    if not 0.0 < null < math.inf:
        raise InputError(f"null is {null}; an odds ratio lies above 0, and 1 means no effect")
    tables = _Tables.of(t, c)
    tail = tail_of(level, side)
    effect, lower, upper = tables.likeliest(), tables.lower(tail), tables.upper(tail)
    notes = () if 0.0 < effect < math.inf else ("every success that could lie in one arm does; one end is open",)
    return Estimate(
        effect,
        *side.ends(lower, upper),
        tables.p(math.log(null), side),
        None,
        (t.n, c.n),
        "Fisher's exact test",
        level=level,
        alternative=side,
        scale=Scale.RATIO,
        treatment=t.share,
        control=c.share,
        notes=("the effect is an odds ratio", *null_note(null, 1.0), *notes),
    )


class _Tables:
    """All tables with the margins of ours: how many of the successes lie in the treatment, and their log weights."""

    def __init__(self, counts: NDArray[np.float64], logs: NDArray[np.float64], at: int) -> None:
        self.counts, self.logs, self.at = counts, logs, at

    @classmethod
    def of(cls, t: Count, c: Count) -> _Tables:
        """Return the tables with as many units in each arm, and as many successes in all, as ours."""
        successes = t.successes + c.successes
        low, high = max(0, successes - c.n), min(successes, t.n)
        if low == high:
            what = "no unit of either arm converted" if successes == 0 else "every unit of both arms converted"
            raise InputError(f"{what}: an odds ratio does not exist; bound the difference with newcombe")
        if high - low > LARGEST:
            raise InputError(
                f"{successes:,} successes can be split in {high - low + 1:,} ways, more than {LARGEST:,}; "
                "at such counts use two_proportions_z"
            )
        k = np.arange(low, high + 1, dtype=np.float64)
        # weights by their ratios from one table to the next: differences of lgamma lose all digits at 1e12 units
        steps = np.log((t.n - k[:-1]) * (successes - k[:-1])) - np.log((k[:-1] + 1) * (c.n - successes + k[:-1] + 1))
        logs = np.concatenate(([0.0], np.cumsum(steps)))
        return cls(k - t.successes, logs - logs[t.successes - low], t.successes - low)

    def chances(self, log_odds: float) -> NDArray[np.float64]:
        """Return the probability of each table under a log odds ratio."""
        logs = self.logs + self.counts * log_odds
        weights = np.exp(logs - logs.max())
        return np.asarray(weights / weights.sum())

    def p(self, log_odds: float, side: Alternative) -> float:
        """Return the probability of a table at least as extreme as ours."""
        chances = self.chances(log_odds)
        if side is Alternative.GREATER:
            return min(1.0, float(chances[self.at :].sum()))
        if side is Alternative.LESS:
            return min(1.0, float(chances[: self.at + 1].sum()))
        return min(1.0, float(chances[chances <= chances[self.at] * _TIES].sum()))

    def likeliest(self) -> float:
        """Return the odds ratio under which our table is the expected one: the conditional maximum likelihood."""
        if self.at in (0, len(self.counts) - 1):
            return 0.0 if self.at == 0 else math.inf
        return self._solve(lambda log_odds: float(self.counts @ self.chances(log_odds)))

    def lower(self, tail: float) -> float:
        """Return the odds ratio under which a table as far up as ours has probability `tail`."""
        if self.at == 0:
            return 0.0
        return self._solve(lambda log_odds: float(self.chances(log_odds)[self.at :].sum()) - tail)

    def upper(self, tail: float) -> float:
        """Return the odds ratio under which a table as far down as ours has probability `tail`."""
        if self.at == len(self.counts) - 1:
            return math.inf
        return self._solve(lambda log_odds: tail - float(self.chances(log_odds)[: self.at + 1].sum()))

    def _solve(self, rising: Callable[[float], float]) -> float:
        """Return the odds ratio where a function that rises with the log odds crosses zero."""
        reach = 1.0
        while (rising(-reach) > 0.0 or rising(reach) < 0.0) and reach < 512.0:
            reach *= 2.0
        return math.exp(optimize.brentq(rising, -reach, reach, xtol=1e-13, rtol=1e-13))
