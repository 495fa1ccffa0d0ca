"""Sample ratio mismatch: is traffic split as designed?

A mismatch means the assignment or the log is broken, not that the candidate is bad; so the action is to hold.
`srm_test` judges a finished test once; `RatioProcess` judges a running one at every look. The surprise: with few units
`srm_test` falls back on the sequential e-value, because chi-square would be wrong and that one never is.
Reference: Lindon and Malek (2022), "Anytime-valid inference for multinomial count data".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from flyball.errors import InputError
from flyball.experiments.sequential.odds import MAX_LOG
from flyball.experiments.trust.check import Check, Verdict

__all__ = ["ALPHA", "RatioProcess", "ratio_e_value", "srm_test"]

ALPHA = 0.001  # a broken split is rare and stops everything, so it must be sure
_EXPECTED = 5.0  # units per arm below which chi-square is not to be trusted


def ratio_e_value(counts: Sequence[int], shares: Sequence[float], *, concentration: float = 100.0) -> float:
    """Return the e-value against "units arrive in these shares": Dirichlet(concentration x shares) mixture.

    Args:
        counts: Distinct units seen per arm, shape (k,).
        shares: Designed shares, shape (k,), each > 0, summing to 1.
        concentration: Prior weight in units; larger looks for smaller mismatches.

    Returns:
        E-value >= 0, at most e**`MAX_LOG`; hold when it reaches 1/alpha, at any time.

    Raises:
        InputError: the shapes differ or the shares are no distribution.

    Example:
        >>> ratio_e_value([500, 500], [0.5, 0.5]) < 1 < 1000 < ratio_e_value([600, 400], [0.5, 0.5])
        True
    """
    return math.exp(min(_log_e(_checked(counts, shares), shares, concentration), MAX_LOG))


def srm_test(
    counts: Sequence[int], shares: Sequence[float], *, alpha: float = ALPHA, names: Sequence[str] = ()
) -> Check:
    """Judge once, at the end, whether units arrived in the designed shares (Pearson's chi-square, k - 1 degrees).

    Below 5 expected units in an arm the p value is 1 / e-value instead: valid for any count, and a little shy.

    Args:
        counts: Distinct units per arm, shape (k,), k >= 2.
        shares: Designed shares, shape (k,), each > 0, summing to 1.
        alpha: p value below which the check fails.
        names: Arms, shape (k,), for the sentence.

    Returns:
        A check that fails at p < alpha, with numbers `p`, `statistic`, `df`, `n` and the seen share of each arm. Look
        once: for a test that runs, `RatioProcess` holds at every look.

    Raises:
        InputError: the shapes differ, the shares are no distribution, or a count is negative.

    Example:
        >>> check = srm_test([5_000, 5_300], [0.5, 0.5], alpha=0.01)
        >>> str(check.verdict), round(check.numbers["p"], 4)
        ('failed', 0.0031)
    """
    seen, total = _checked(counts, shares), sum(counts)
    if len(seen) < 2:
        raise InputError(f"{len(seen)} arm; a split needs two or more")
    arms = [str(name) for name in names] or [str(i) for i in range(len(seen))]
    statistic = math.fsum((n - total * s) ** 2 / (total * s) for n, s in zip(seen, shares, strict=True) if total)
    exact = total * min(shares) < _EXPECTED
    p = min(1.0, math.exp(-_log_e(seen, shares, 100.0))) if exact else _chi2_sf(statistic, len(seen) - 1)
    numbers: dict[str, float | int | None] = {"p": p, "statistic": statistic, "df": len(seen) - 1, "n": total}
    numbers |= {f"share {arm}": n / total if total else None for arm, n in zip(arms, seen, strict=True)}
    return _judge(seen, shares, p, alpha, numbers)


@dataclass(frozen=True, slots=True)
class RatioProcess:
    """Evidence against the designed split of a running test, valid at every look and across changes of the split.

    Each stretch of constant shares has its own mixture; e-values of stretches multiply, because each is fair given
    the past.

    Args:
        shares: Designed shares of the present stretch, shape (k,).
        counts: Distinct units per arm in the present stretch.
        closed: Log e-value of the stretches before.
        peak: Largest log e-value at any look so far; Ville's inequality speaks about the largest.
        before: Units of the stretches before.
        concentration: Prior weight of the mixture, in units.

    Example:
        >>> process = RatioProcess.of([0.9, 0.1]).seen([900, 100]).split([0.5, 0.5]).seen([480, 520])
        >>> process.check().passed, process.seen([0, 200]).check().passed
        (True, False)
    """

    shares: tuple[float, ...]
    counts: tuple[int, ...]
    closed: float = 0.0
    peak: float = 0.0
    before: int = 0
    concentration: float = 100.0

    @classmethod
    def of(cls, shares: Sequence[float], *, concentration: float = 100.0) -> Self:
        """Return the process of a split that nobody has arrived at; raises InputError for no distribution."""
        counts = (0,) * len(shares)
        _checked(counts, shares)
        return cls(tuple(shares), counts, concentration=concentration)

    def seen(self, counts: Sequence[int]) -> Self:
        """Return the process after new distinct units, shape (k,); raises InputError for another shape."""
        new = _checked(counts, self.shares)
        after = replace(self, counts=tuple(a + b for a, b in zip(self.counts, new, strict=True)))
        return replace(after, peak=max(self.peak, after.log_e))

    def split(self, shares: Sequence[float]) -> Self:
        """Return the process with other designed shares from now on; the evidence so far is kept."""
        fresh = type(self).of(shares, concentration=self.concentration)
        return replace(fresh, closed=self.log_e, peak=self.peak, before=self.n)

    @property
    def n(self) -> int:
        """Units of all stretches."""
        return self.before + sum(self.counts)

    @property
    def log_e(self) -> float:
        """The natural logarithm of the e-value now."""
        return self.closed + _log_e(self.counts, self.shares, self.concentration)

    @property
    def e_value(self) -> float:
        """The e-value now; e**`MAX_LOG` at most."""
        return math.exp(min(self.log_e, MAX_LOG))

    @property
    def p(self) -> float:
        """The always-valid p value: 1 / the largest e-value, at most 1."""
        return math.exp(-self.peak)

    def check(self, *, alpha: float = ALPHA) -> Check:
        """Judge now; it fails once the e-value ever reached 1/alpha, and stays so."""
        numbers = {"p": self.p, "log_e": self.log_e, "n": self.n}
        return _judge(self.counts, self.shares, self.p, alpha, numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal process."""
        return {"shares": list(self.shares), "counts": list(self.counts), "closed": self.closed, "peak": self.peak,
                "before": self.before, "concentration": self.concentration}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(**{**data, "shares": tuple(data["shares"]), "counts": tuple(data["counts"])})


def _judge(
    counts: Sequence[int], shares: Sequence[float], p: float, alpha: float, numbers: Mapping[str, float | int | None]
) -> Check:
    total = sum(counts)
    if total == 0:
        return Check("sample ratio", Verdict.PASSING, "no unit has arrived yet", numbers)
    seen = " / ".join(f"{n / total * 100:.3g} %" for n in counts)
    wanted = " / ".join(f"{share * 100:.3g} %" for share in shares)
    if p < alpha:
        text = f"{total:,} units came as {seen} instead of {wanted} (p = {p:.2g}): the assignment or the log is broken"
        return Check("sample ratio", Verdict.FAILED, f"{text}; find out why before you read any effect", numbers)
    return Check("sample ratio", Verdict.PASSING, f"{total:,} units came as {seen}, designed {wanted}", numbers)


def _checked(counts: Sequence[int], shares: Sequence[float]) -> Sequence[int]:
    if len(counts) != len(shares) or not min(shares, default=0.0) > 0.0 or abs(math.fsum(shares) - 1.0) > 1e-9:
        raise InputError(f"shares {list(shares)} for {len(counts)} counts; one positive share per count, summing to 1")
    if not all(0 <= n < math.inf for n in counts):
        raise InputError(f"counts are {list(counts)}; numbers of units are finite and not negative")
    return counts


def _log_e(counts: Sequence[int], shares: Sequence[float], concentration: float) -> float:
    prior = [concentration * share for share in shares]
    log = math.lgamma(concentration) - math.lgamma(concentration + sum(counts))
    return log + math.fsum(
        math.lgamma(a + n) - math.lgamma(a) - n * math.log(share)
        for a, n, share in zip(prior, counts, shares, strict=True)
    )


def _chi2_sf(statistic: float, df: int) -> float:
    from scipy.special import chdtrc  # late: the control process asks for e-values only

    return float(chdtrc(df, statistic))
