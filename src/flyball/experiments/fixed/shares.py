"""Counts of units that did something: `Count` of n units, and the intervals of one share.

The surprise: an exact interval is no better than Wilson's. Clopper and Pearson never cover less than they say, and pay
for it by covering much more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Interval, alternative_of
from flyball.experiments.fixed.pivots import critical, tail_of
from flyball.experiments.stats import Moments, Stats

__all__ = ["Count", "Share", "clopper_pearson", "count_of", "wilson"]


@dataclass(frozen=True, slots=True)
class Count:
    """How many of n units did something.

    Args:
        successes: In [0, n].
        n: Units, >= 1.

    Raises:
        InputError: no unit, or successes outside [0, n].

    Example:
        >>> Count(20, 100).share
        0.2
    """

    successes: int
    n: int

    def __post_init__(self) -> None:
        for name in ("successes", "n"):
            value = getattr(self, name)
            if not math.isfinite(value) or int(value) != value:
                raise InputError(f"{name} is {value}; a count is a whole number")
            object.__setattr__(self, name, int(value))  # fixed-width integers would overflow in products
        if self.n < 1:
            raise InputError(f"an arm has {self.n} units; a share needs at least 1")
        if not 0 <= self.successes <= self.n:
            raise InputError(f"{self.successes} successes of {self.n} units; they must lie between 0 and {self.n}")

    @property
    def share(self) -> float:
        """Successes per unit."""
        return self.successes / self.n

    @property
    def moments(self) -> Moments:
        """The moments of the zeros and ones behind the count."""
        return Moments(self.n, self.share, self.successes * (self.n - self.successes) / self.n)


Share = Count | Moments | ArrayLike  # zeros and ones, or what sums them up


def count_of(sample: Share) -> Count:
    """Return the count behind zeros and ones, or behind their moments.

    Raises:
        InputError: empty, or values that are neither 0 nor 1.

    Example:
        >>> count_of([1, 0, 0, 1, 0])
        Count(successes=2, n=5)
    """
    if isinstance(sample, Count):
        return sample
    if isinstance(sample, Moments):
        return _of_moments(sample)
    values = np.asarray(sample)
    if values.dtype.kind == "f" and values.ndim == 1 and not np.isfinite(values).all():
        Stats.of({"share": values})  # says which unit lacks a value
    wrong = values[(values != 0) & (values != 1)]
    if values.ndim != 1 or len(wrong):
        found = f"a value of {wrong.flat[0]}" if len(wrong) else f"shape {values.shape}"
        raise InputError(
            f"a share takes zeros and ones, shape (n,); found {found}. Give Count(successes, n) for totals"
        )
    return Count(int(np.count_nonzero(values)), len(values))


def wilson(sample: Share, *, level: float = 0.95, alternative: Alternative | str = Alternative.TWO_SIDED) -> Interval:
    """Return a share with Wilson's score interval, which behaves at 0, at 1 and for few units.

    Reference: Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    Args:
        sample: Count, moments of zeros and ones, or zeros and ones of shape (n,).
        level: Confidence level.
        alternative: "greater" bounds the share from below only, "less" from above only.

    Example:
        >>> print(wilson(Count(81, 263)))
        Wilson: 0.308 [0.2553, 0.3662] at 95%, n = 263
    """
    count, side = count_of(sample), alternative_of(alternative)
    x, n = count.successes, count.n
    z2 = critical(level, side) ** 2
    middle, reach = 2 * x + z2, math.sqrt(z2 * (z2 + 4 * x * (n - x) / n))
    upper = (middle + reach) / (2 * (n + z2))
    lower = x * (x / n) / (n + z2) / upper  # the other root by their product: no digits lost near zero
    return _interval(count, lower, 1.0 if x == n else upper, side, "Wilson", level)


def clopper_pearson(
    sample: Share, *, level: float = 0.95, alternative: Alternative | str = Alternative.TWO_SIDED
) -> Interval:
    """Return a share with the exact interval: it covers at least `level`, often more.

    Reference: Clopper and Pearson (1934), in the beta form.

    Args:
        sample: Count, moments of zeros and ones, or zeros and ones of shape (n,).
        level: Confidence level.
        alternative: "greater" bounds the share from below only, "less" from above only.

    Example:
        >>> print(clopper_pearson(Count(0, 10)))
        Clopper-Pearson: 0 [0, 0.3085] at 95%, n = 10
    """
    count, side = count_of(sample), alternative_of(alternative)
    x, n = count.successes, count.n
    tail = tail_of(level, side)
    lower = float(special.betaincinv(x, n - x + 1, tail)) if x else 0.0
    upper = float(special.betainccinv(x + 1, n - x, tail)) if x < n else 1.0
    return _interval(count, lower, upper, side, "Clopper-Pearson", level)


def _interval(count: Count, lower: float, upper: float, side: Alternative, method: str, level: float) -> Interval:
    lower = 0.0 if side is Alternative.LESS else lower
    upper = 1.0 if side is Alternative.GREATER else upper
    return Interval(count.share, lower, upper, count.n, method, level)


def _of_moments(m: Moments) -> Count:
    if m.n < 1 or not 0.0 <= m.mean <= 1.0:
        raise InputError(f"moments with n = {m.n} and mean {m.mean} are not those of zeros and ones")
    count = Count(round(m.n * m.mean), m.n)
    # zeros and ones have one sum of squares only; another one means that these are not
    slack = 1e-6 * max(1.0, count.successes)
    if abs(m.n * m.mean - count.successes) > slack or abs(m.m2 - count.moments.m2) > slack:
        raise InputError(
            f"moments with mean {m.mean:g} and variance {m.variance:g} are not those of zeros and ones; use welch_t"
        )
    return count
