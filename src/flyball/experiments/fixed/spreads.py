"""The law of a pooled standard deviation, as nodes and weights to sum over.

Noncentral and many-armed t statistics are normal once the pooled standard deviation is known, so each is one such sum
away. The surprise: scipy's noncentral t answers NaN in some far tails; these sums do not.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["spreads"]
KNOWN = 1e7  # degrees of freedom from which the standard deviation is taken as known


@lru_cache(maxsize=64)
def spreads(df: float, nodes: int = 96) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes s and weights of sqrt(chi-square / df), each of shape (nodes,), weights summing to 1.

    Example:
        >>> s, weights = spreads(10.0)
        >>> round(float(weights @ s**2), 9)
        1.0
    """
    if df >= KNOWN:
        return np.ones(1), np.ones(1)
    low = math.sqrt(2.0 * float(special.gammaincinv(df / 2.0, 1e-30)) / df)
    high = math.sqrt(float(special.chdtri(df, 1e-30)) / df)
    at, weights = np.polynomial.legendre.leggauss(nodes)
    s = low + (high - low) * (at + 1.0) / 2.0
    log = (df - 1.0) * np.log(s) - df * s * s / 2.0
    density = np.exp(log - log.max()) * weights
    return s, np.asarray(density / density.sum())
