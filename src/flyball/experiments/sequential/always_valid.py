"""Always-valid p values from e-values, and how evidence is combined.

An e-value is a number >= 0 whose expectation is at most 1 if nothing is there; an e-process is one at every look. Its
reciprocal's running minimum is a p value at every look (Ville 1939; Johari et al. 2022; Vovk and Wang 2021). The
surprise: independent e-values multiply, and *dependent* ones may still be averaged, which no p value allows.
Everything is kept as a natural logarithm: evidence of e**2000 is nothing special after a long day.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from flyball.errors import InputError

__all__ = ["AlwaysValid", "e_to_p", "mean_log_e", "p_to_log_e", "product_log_e", "running_p"]


@dataclass(frozen=True, slots=True)
class AlwaysValid:
    """The strongest evidence of all looks so far.

    It cannot be merged with another's: a maximum over time says nothing of the time in between. Combine the processes'
    present log e-values by `product_log_e` or `mean_log_e`, and let one `AlwaysValid` watch the result.

    Args:
        peak: Largest log e-value so far.
        looks: Number of looks.

    Example:
        >>> watched = AlwaysValid().look(1.2).look(4.1).look(0.3)
        >>> round(watched.p, 4), watched.looks, watched.rejects(0.05)
        (0.0166, 3, True)
    """

    peak: float = 0.0
    looks: int = 0

    def look(self, log_e: float) -> Self:
        """Return the state after a look at an e-process whose log e-value is now `log_e`."""
        _check(log_e)
        return replace(self, peak=max(self.peak, log_e), looks=self.looks + 1)

    @property
    def p(self) -> float:
        """The always-valid p value."""
        return math.exp(-self.peak)

    def rejects(self, alpha: float) -> bool:
        """Tell whether the null is rejected at level alpha, over all looks."""
        return self.peak >= -math.log(alpha)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal state."""
        return {"peak": self.peak, "looks": self.looks}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(data["peak"], data["looks"])


def e_to_p(log_e: float) -> float:
    """Return the p value of an e-value given by its logarithm: 1 / e, at most 1 (Markov).

    Example:
        >>> round(e_to_p(math.log(20.0)), 9)
        0.05
    """
    _check(log_e)
    return math.exp(min(-log_e, 0.0))


def running_p(log_e: Iterable[float]) -> list[float]:
    """Return the always-valid p value after each look of an e-process, given its log e-values in order."""
    watched, found = AlwaysValid(), []
    for value in log_e:
        watched = watched.look(value)
        found.append(watched.p)
    return found


def product_log_e(log_e: Sequence[float]) -> float:
    """Return the log e-value of independent (or successive, conditionally valid) evidence together: their sum."""
    for value in log_e:
        _check(value)
    if math.inf in log_e and -math.inf in log_e:
        raise InputError("one e-value is 0 and another infinite: their product is no evidence; look at them one by one")
    return math.fsum(log_e)


def mean_log_e(log_e: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Return the log e-value of evidence that may depend on each other: the logarithm of the e-values' mean.

    Args:
        log_e: Log e-values, shape (k,), k >= 1.
        weights: Weights >= 0 with a sum of at most 1, chosen before looking; equal by default.

    Raises:
        InputError: no values, or weights that are no such weights.

    Example:
        >>> round(math.exp(mean_log_e([math.log(30.0), math.log(2.0)])), 9)
        16.0
    """
    if not log_e:
        raise InputError("there are no e-values to combine; give at least one")
    for value in log_e:
        _check(value)
    shares = [1.0 / len(log_e)] * len(log_e) if weights is None else list(weights)
    if len(shares) != len(log_e) or min(shares) < 0.0 or not math.fsum(shares) <= 1.0 + 1e-9:
        raise InputError(
            f"weights are {shares} for {len(log_e)} e-values; give one each, >= 0, with a sum of at most 1"
        )
    top = max((value for value, share in zip(log_e, shares, strict=True) if share > 0.0), default=-math.inf)
    if math.isinf(top):
        return top
    total = math.fsum(share * math.exp(value - top) for share, value in zip(shares, log_e, strict=True) if share > 0.0)
    return top + math.log(total) if total > 0.0 else -math.inf


def p_to_log_e(p: float, *, kappa: float = 0.5) -> float:
    """Return the log e-value of a fixed test's p value, by the calibrator kappa * p**(kappa - 1).

    Vovk and Wang (2021), equation 1. It is the price for joining a fixed test to sequential evidence: p = 0.01 becomes
    an e-value of 5.

    Args:
        p: p value in [0, 1]; 0 gives inf.
        kappa: In (0, 1).
    """
    if not 0.0 <= p <= 1.0:
        raise InputError(f"p is {p}; a p value lies in [0, 1]")
    if not 0.0 < kappa < 1.0:
        raise InputError(f"kappa is {kappa}; it lies between 0 and 1")
    return math.inf if p == 0.0 else math.log(kappa) + (kappa - 1.0) * math.log(p)


def _check(log_e: float) -> None:
    if math.isnan(log_e):
        raise InputError("a log e-value is nan; find the look that lost its data")
