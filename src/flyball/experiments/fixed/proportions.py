"""Shares of two or more arms: score test, Newcombe's hybrid interval, chi-square.

Zero conversions and all conversions are ordinary here: no interval collapses to a point. The surprise: the interval of
`two_proportions_z` is the score interval (Mee 1984) and not the textbook's, because only that one agrees with the
pooled z test: it leaves zero out exactly when p is below 1 - level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy import optimize, special

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, alternative_of
from flyball.experiments.fixed.pivots import check_null, critical, null_note, p_value, tail_of
from flyball.experiments.fixed.shares import Count, Share, count_of, wilson

__all__ = ["ChiSquare", "chi_square", "newcombe", "two_proportions_z"]


@dataclass(frozen=True, slots=True)
class ChiSquare:
    """Whether several arms have one share.

    Args:
        statistic: Pearson's chi-square, >= 0.
        df: Arms less one.
        p: p value.
        arms: Counts by arm.
        expected: Successes each arm would have with the pooled share.
        notes: What the reader must know.
    """

    statistic: float
    df: int
    p: float
    arms: Mapping[str, Count]
    expected: Mapping[str, float]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        arms = {
            name: {"successes": c.successes, "n": c.n, "share": c.share, "expected": self.expected[name]}
            for name, c in self.arms.items()
        }
        return {"method": "chi-square", "statistic": self.statistic, "df": self.df, "p": self.p, "arms": arms,
                "notes": list(self.notes)}  # fmt: skip

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {count.share:.4g}" for name, count in self.arms.items())
        text = f"chi-square: {self.statistic:.4g} with {self.df} df, p = {self.p:.3g} ({shares})"
        return text + "".join(f"\n  {note}" for note in self.notes)


def two_proportions_z(
    treatment: Share,
    control: Share,
    *,
    null: float = 0.0,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return the difference of two shares by the score test: the pooled z test when `null` is 0.

    For another null the shares are fitted under it (Farrington and Manning 1990), as non-inferiority needs. The
    interval inverts the same test (Mee 1984; Miettinen and Nurminen 1985 without their factor N / (N - 1)).

    Args:
        treatment: Count, moments of zeros and ones, or zeros and ones of shape (n,).
        control: Likewise.
        null: The difference under the null hypothesis, in (-1, 1).
        level: Confidence level of the interval.
        alternative: "two-sided", "greater" or "less".

    Raises:
        InputError: an empty arm, values other than 0 and 1, or a null outside (-1, 1).

    Example:
        >>> estimate = two_proportions_z(Count(56, 70), Count(48, 80))
        >>> round(estimate.effect, 3), round(estimate.lower, 4), round(estimate.upper, 4)
        (0.2, 0.0533, 0.3377)
    """
    t, c, side = count_of(treatment), count_of(control), alternative_of(alternative)
    if not -1.0 < check_null(null) < 1.0:
        raise InputError(f"null is {null}; a difference of shares lies between -1 and 1")
    effect = t.share - c.share
    spread = math.sqrt(_variance_under(t, c, null))
    gap = effect - null
    statistic = gap / spread if spread else math.copysign(math.inf, gap) if gap else 0.0
    z = critical(level, side)
    return Estimate(
        effect,
        *side.ends(_score_end(t, c, z), -_score_end(c, t, z)),
        p_value(statistic, side),
        statistic,
        (t.n, c.n),
        "z test of two shares",
        level=level,
        alternative=side,
        treatment=t.share,
        control=c.share,
        notes=(*null_note(null), *_few(t, c)),
    )


def newcombe(
    treatment: Share,
    control: Share,
    *,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return the difference of two shares with Newcombe's hybrid score interval; it has no p value.

    Reference: Newcombe (1998), "Interval estimation for the difference between independent proportions", method 10.

    Args:
        treatment: Count, moments of zeros and ones, or zeros and ones of shape (n,).
        control: Likewise.
        level: Confidence level of the interval.
        alternative: "greater" bounds the difference from below only, "less" from above only.

    Example:
        >>> estimate = newcombe(Count(56, 70), Count(48, 80))
        >>> round(estimate.lower, 4), round(estimate.upper, 4)
        (0.0524, 0.3339)
    """
    t, c, side = count_of(treatment), count_of(control), alternative_of(alternative)
    each = 1.0 - 2.0 * tail_of(level, side)
    a, b = wilson(t, level=each), wilson(c, level=each)
    effect = t.share - c.share
    lower = effect - math.hypot(t.share - a.lower, b.upper - c.share)
    upper = effect + math.hypot(a.upper - t.share, c.share - b.lower)
    return Estimate(
        effect,
        *side.ends(lower, upper),
        None,
        None,
        (t.n, c.n),
        "Newcombe's hybrid",
        level=level,
        alternative=side,
        treatment=t.share,
        control=c.share,
    )


def chi_square(arms: Mapping[str, Share]) -> ChiSquare:
    """Return Pearson's chi-square test that all arms have one share; of two arms it is the squared z test.

    Args:
        arms: Two or more arms by name: Count, moments of zeros and ones, or zeros and ones.

    Raises:
        InputError: fewer than two arms, or an empty one.

    Example:
        >>> arms = {"a": Count(83, 86), "b": Count(90, 93), "c": Count(129, 136), "d": Count(70, 82)}
        >>> print(chi_square(arms))
        chi-square: 12.6 with 3 df, p = 0.00559 (a 0.9651, b 0.9677, c 0.9485, d 0.8537)
    """
    counts = {name: count_of(sample) for name, sample in arms.items()}
    if len(counts) < 2:
        raise InputError(f"there are {len(counts)} arms; a comparison needs at least 2")
    n, successes = sum(c.n for c in counts.values()), sum(c.successes for c in counts.values())
    expected = {name: c.n * (successes / n) for name, c in counts.items()}
    if successes in (0, n):
        note = f"{'no' if successes == 0 else 'every'} unit of any arm converted: nothing to tell apart"
        return ChiSquare(0.0, len(counts) - 1, 1.0, counts, expected, (note,))
    failed = (n - successes) / n
    statistic = math.fsum(
        (c.successes - e) ** 2 / (e * failed) for c, e in zip(counts.values(), expected.values(), strict=True)
    )
    least = min(min(e, c.n * failed) for c, e in zip(counts.values(), expected.values(), strict=True))
    notes = (f"the smallest expected count is {least:.2g}; below 5 the p value is rough",) if least < 5 else ()
    return ChiSquare(
        statistic, len(counts) - 1, float(special.chdtrc(len(counts) - 1, statistic)), counts, expected, notes
    )


def _score_end(t: Count, c: Count, z: float) -> float:
    """Return the smallest difference that the score test does not reject at z."""
    effect = t.share - c.share

    def excess(difference: float) -> float:
        return effect - difference - z * math.sqrt(_variance_under(t, c, difference))

    if excess(-1.0) <= 0.0:
        return -1.0
    near = effect if excess(effect) < 0.0 else effect - 1e-13  # all or none in both arms: effect itself is no end
    return (
        float(optimize.brentq(excess, -1.0, near, xtol=1e-18, rtol=1e-14, maxiter=500)) if excess(near) < 0.0 else near
    )


def _variance_under(t: Count, c: Count, difference: float) -> float:
    """Return the variance of the difference of shares, fitted under a true difference."""
    p = _control_under(t, c, difference)
    q = min(max(p + difference, 0.0), 1.0)
    return max(q * (1.0 - q) / t.n + p * (1.0 - p) / c.n, 0.0)


def _control_under(t: Count, c: Count, d: float) -> float:
    """Return the control's most likely share when the treatment's is larger by d: the root of a decreasing score."""
    if d == 0.0:
        return (t.successes + c.successes) / (t.n + c.n)
    low, high = max(0.0, -d), min(1.0, 1.0 - d)
    share = t.n / (t.n + c.n)
    a, b = share * t.share, share * (1.0 - t.share)
    e, f = (1.0 - share) * c.share, (1.0 - share) * (1.0 - c.share)

    def score(p: float) -> float:  # times all four denominators, so that it stays finite at the ends
        q = p + d
        return (a * (1.0 - q) - b * q) * p * (1.0 - p) + (e * (1.0 - p) - f * p) * q * (1.0 - q)

    inner = 1e-15
    if high - low <= 2 * inner or score(low + inner) <= 0.0:
        return low
    if score(high - inner) >= 0.0:
        return high
    return float(optimize.brentq(score, low + inner, high - inner, xtol=1e-18, rtol=1e-14, maxiter=500))


def _few(t: Count, c: Count) -> tuple[str, ...]:
    successes, n = t.successes + c.successes, t.n + c.n
    least = min(successes, n - successes) * min(t.n, c.n) / n
    return ("fewer than 5 expected in a cell: fisher_exact is safer",) if least < 5 else ()
