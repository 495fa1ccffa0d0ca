"""Sample ratio mismatch at every look: is traffic split as designed?

A mismatch means the assignment or the log is broken, not that the candidate is bad; so the action is to hold.
Reference: Lindon and Malek (2022), "Anytime-valid inference for multinomial count data".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flyball.errors import InputError
from flyball.experiments.sequential.odds import MAX_LOG

__all__ = ["ratio_e_value"]


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
    if len(counts) != len(shares) or min(shares, default=0.0) <= 0.0 or abs(math.fsum(shares) - 1.0) > 1e-9:
        raise InputError(f"shares {list(shares)} for {len(counts)} counts; one positive share per count, summing to 1")
    total = sum(counts)
    prior = [concentration * share for share in shares]
    log = math.lgamma(concentration) - math.lgamma(concentration + total)
    log += math.fsum(
        math.lgamma(a + n) - math.lgamma(a) - n * math.log(share)
        for a, n, share in zip(prior, counts, shares, strict=True)
    )
    return math.exp(min(log, MAX_LOG))
