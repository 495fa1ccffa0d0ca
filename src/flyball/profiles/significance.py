"""Is a difference of histograms more than chance? Kolmogorov-Smirnov, chi-square, Benjamini-Hochberg.

The surprise: no scipy. The control process judges windows all day and should not carry 60 MB for three formulas.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["benjamini_hochberg", "chi2_survival", "chi_square_p", "ks_p", "ks_survival"]

_TINY = 1e-300


def ks_p(statistic: float, reference: int, current: int) -> float:
    """Return the asymptotic two-sided p of a two-sample KS statistic (Smirnov 1948), in [0, 1].

    Args:
        statistic: Largest distance of the distribution functions; over binned data it is a lower bound, so p is
            too large rather than too small.
        reference: Values on one side, >= 1.
        current: Values on the other side, >= 1.
    """
    return ks_survival(statistic * math.sqrt(reference * current / (reference + current)))


def ks_survival(x: float) -> float:
    """Return P(K > x) of the Kolmogorov distribution, by the series that converges at once for this x."""
    if x <= 0:
        return 1.0
    if x < 1.0:  # Jacobi's theta transformation
        terms = (math.exp(-((2 * k - 1) ** 2) * math.pi**2 / (8 * x * x)) for k in range(1, 8))
        return 1.0 - math.sqrt(2 * math.pi) / x * math.fsum(terms)
    return max(0.0, 2 * math.fsum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 12)))


def chi_square_p(reference: npt.NDArray[np.int64], current: npt.NDArray[np.int64]) -> float:
    """Return the p of the two-sample chi-square test of equal shares; 1.0 when fewer than two bins are used."""
    used = (reference + current) > 0
    a, b = reference[used].astype(float), current[used].astype(float)
    if len(a) < 2 or not a.sum() or not b.sum():
        return 1.0
    ratio = math.sqrt(b.sum() / a.sum())
    statistic = float(((ratio * a - b / ratio) ** 2 / (a + b)).sum())
    return chi2_survival(statistic, len(a) - 1)


def chi2_survival(x: float, degrees: int) -> float:
    """Return P(X > x) of the chi-square distribution: the regularised upper incomplete gamma function.

    Series below a + 1 and Lentz's continued fraction above it (Press et al., Numerical Recipes, 6.2).
    """
    a, half = degrees / 2, x / 2
    if half <= 0:
        return 1.0
    front = math.exp(max(-half + a * math.log(half) - math.lgamma(a), -745.0))
    return max(0.0, 1.0 - front * _series(a, half)) if half < a + 1 else front * _fraction(a, half)


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Return adjusted p values (Benjamini and Hochberg 1995), in the given order: all below q are found at FDR q."""
    values = np.asarray(p, dtype=np.float64)
    if not len(values):
        return []
    order = np.argsort(values)
    raised = values[order] * len(values) / np.arange(1, len(values) + 1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1.0)
    return [float(q) for q in adjusted]


def _series(a: float, x: float) -> float:
    term = total = 1.0 / a
    k = a
    while abs(term) > abs(total) * 1e-16:
        k += 1
        term *= x / k
        total += term
    return total


def _fraction(a: float, x: float) -> float:
    b = x + 1.0 - a
    c, d = 1.0 / _TINY, 1.0 / (b or _TINY)
    h = d
    for i in range(1, 10_000):
        an = -i * (i - a)
        b += 2.0
        d = 1.0 / ((an * d + b) or _TINY)
        c = (b + an / c) or _TINY
        h *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return h
