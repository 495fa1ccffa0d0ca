"""Beta mixtures of Bernoulli likelihoods: what bounds on a rate, on two rates and on votes have in common.

If events come at a rate p, the mixture's likelihood over that of p is a martingale with mean 1, so it exceeds 1 / alpha
at any look with a chance of at most alpha (Robbins 1970; Ville 1939). The surprise: this is plain `math`, where scipy
has beta functions, because the control process asks for bounds on rates and loads no scipy.
"""

from __future__ import annotations

import math

__all__ = ["log_likelihood", "log_mixture", "rate_bound"]


def log_mixture(events: int, n: int, *, prior: tuple[float, float]) -> float:
    """Return the log likelihood of `events` among n, averaged over rates that follow Beta(*prior)."""
    a, b = prior
    return _log_beta(a + events, b + n - events) - _log_beta(a, b)


def log_likelihood(events: int, n: int, rate: float) -> float:
    """Return the log likelihood of `events` among n at a rate; -inf where they are impossible."""
    if not 0.0 < rate < 1.0:
        return 0.0 if (rate <= 0.0 and events == 0) or (rate >= 1.0 and events == n) else -math.inf
    return events * math.log(rate) + (n - events) * math.log1p(-rate)


def rate_bound(events: int, n: int, *, prior: tuple[float, float], alpha: float, outside: float) -> float:
    """Return the rate nearest to the seen one that is refuted at level alpha, on the side of `outside` (0 or 1).

    Args:
        events: Events so far, in [0, n].
        n: Units so far.
        prior: Beta prior of the mixture.
        alpha: Error over all looks, in (0, 1).
        outside: The end of [0, 1] to search towards; it is returned where no rate is refuted.
    """
    inside = events / n if n else 0.5
    limit = log_mixture(events, n, prior=prior) + math.log(alpha)
    for _ in range(60):
        rate = (inside + outside) / 2.0
        refuted = log_likelihood(events, n, rate) <= limit
        inside, outside = (inside, rate) if refuted else (rate, outside)
    return outside


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
